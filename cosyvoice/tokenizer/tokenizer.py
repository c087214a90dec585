"""The text tokenizer of CosyVoice-mini: English words as phones, unknown words as letters. The 300M uses Whisper's.

A sentence becomes the phones of its words, `|` between words, and the punctuation where it stands:
"Hello, world." -> HH AH0 L OW1 , | W ER1 L D .
"""

import lzma
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from cosyvoice.utils.common import InputError

DICTIONARY = Path(__file__).parent / "assets" / "cmudict.txt.xz"

PAD, UNKNOWN, BOUNDARY, APOSTROPHE = "<pad>", "<unk>", "|", "'"
PUNCTUATION = [",", ".", "?", "!", ";", ":", "-", '"']
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
PHONES = sorted([vowel + stress for vowel in VOWELS for stress in "012"] + CONSONANTS)

SYMBOLS = [PAD, UNKNOWN, BOUNDARY, *PUNCTUATION, *LETTERS, APOSTROPHE, *PHONES]
"""Symbol of each id. Trained weights depend on this order: append, never insert. `<pad>` occurs in no text."""

# What is read as something else before words are looked up; letters with accents lose them by Unicode decomposition.
_MARKS = {
    '"': "“”„«»‟＂",
    ",": "，、",
    ".": "。．…",
    "?": "？",
    "!": "！",
    ";": "；",
    ":": "：",
    "'": "’‘ʼ`´＇",
    "-": "‐‑−",
}
_DASHES = "–—―"  # a pause, not a hyphen
TAG = re.compile(r"<\|[\w.]{1,32}\|>")  # <|en|> and the like, which Whisper's vocabulary has; they are not spoken
_DIGITS = "zero one two three four five six seven eight nine".split()
_SPOKEN_SIGNS = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals"}
_LATIN = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "th", "þ": "th", "ł": "l", "ı": "i"}
_CYRILLIC = dict(
    zip(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґ",
        "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch - y - e yu ya i yi ye g".split(),
        strict=True,
    )
)
_READ_AS = (
    {char: mark for mark, chars in _MARKS.items() for char in chars}
    | {char: " - " for char in _DASHES}
    | {char: f" {name} " for char, name in _SPOKEN_SIGNS.items()}
    | _LATIN
    | {char: letters.replace("-", "") for char, letters in _CYRILLIC.items()}
)
_OTHER = "\ufffd"  # stands for a letter of a script that is not read, until it becomes <unk>
_TOKENS = re.compile(
    r"(?P<acronym>\b(?:[A-Za-z]\.){2,})|(?P<word>[A-Za-z']+(?:-[A-Za-z']+)*)"
    rf"|(?P<other>{_OTHER})|(?P<mark>[,.?!;:\"-])|(?P<gap>.)",
    re.DOTALL,
)
_NO_GAP_BEFORE = set(",.?!;:")
_MAX_ACRONYM = 5  # longer words in capitals are words


def get_tokenizer(vocabulary: str = "en_phones") -> "EnglishPhoneTokenizer":
    """The tokenizer of a vocabulary. Raises InputError for one that is not known."""
    if vocabulary != "en_phones":
        raise InputError(f"get_tokenizer: vocabulary '{vocabulary}' is not known; use 'en_phones'")
    return EnglishPhoneTokenizer()


class EnglishPhoneTokenizer:
    """English text <-> ids of `SYMBOLS`. Pronunciations are the first ones of the CMU dictionary."""

    n_vocab = len(SYMBOLS)
    unknown_id = SYMBOLS.index(UNKNOWN)
    _ids = {symbol: i for i, symbol in enumerate(SYMBOLS)}

    def encode(self, text: str, allowed_special: str = "all", spell: Callable[[str], bool] | None = None) -> list[int]:
        """Ids of the text; of one without any word only its punctuation.

        A letter that has no Latin form is `<unk>`. allowed_special has no effect, as there are no special tokens.
        spell: words for which it is true are given as letters although they are known, to train on unknown words.
        """
        return [self._ids[symbol] for symbol in _symbols(text, spell or (lambda word: False))]

    def decode(self, ids: list[int]) -> str:
        """The symbols of the ids, separated by spaces."""
        return " ".join(SYMBOLS[i] for i in ids)


def _symbols(text: str, spell: Callable[[str], bool]) -> list[str]:
    """The text's symbols: `|` where blanks or a hyphen separate two of them, equal marks in a row only once."""
    symbols: list[str] = []
    gap = False
    for group in _groups(_latin(TAG.sub(" ", text)), spell):
        if not group:
            gap = True
            continue
        if group[0] in PUNCTUATION and symbols and symbols[-1] == group[0]:
            continue
        if gap and symbols and group[0] not in _NO_GAP_BEFORE:
            symbols.append(BOUNDARY)
        symbols += group
        gap = False
    return symbols


def _groups(text: str, spell: Callable[[str], bool]) -> Iterator[list[str]]:
    """Symbols of each word and mark in turn; an empty list for what separates words."""
    for match in _TOKENS.finditer(text):
        token = match[0]
        if match["word"]:
            yield from _word_groups(token, spell)
        elif match["acronym"]:
            yield _acronym(token)
            if match.end() == len(text.rstrip()):  # its last dot also ends the sentence
                yield ["."]
        elif match["other"]:
            yield [UNKNOWN]
        else:
            yield [token] if match["mark"] else []


def _word_groups(token: str, spell: Callable[[str], bool]) -> Iterator[list[str]]:
    """A hyphenated word as a whole if the dictionary has it, else its parts."""
    parts = [token] if token.lower() in pronunciations() else token.split("-")
    for i, part in enumerate(parts):
        if i:
            yield []
        word = part.strip(APOSTROPHE)
        if word:
            yield list(word.lower()) if spell(word) else _pronounced(part)


def _pronounced(word: str) -> list[str]:
    """Phones of a word, its letters where it is not known. Capitals that are not known are read letter by letter."""
    known = pronunciations()
    lower = word.lower()
    lower = lower if lower in known else lower.strip(APOSTROPHE)  # 'tis is a word, 'hello' stands in quotes
    stem = lower.removesuffix("'s")
    if lower in known:
        return known[lower].split()
    if stem in known:
        phones = known[stem].split()
        return phones + possessive(phones[-1])
    if word.isupper() and word.isalpha() and len(word) <= _MAX_ACRONYM:
        return _letter_names(word)
    return list(lower)


def _acronym(token: str) -> list[str]:
    """Phones of p.m. or U.S.: as the dictionary has it, else the names of its letters."""
    known = pronunciations()
    return known[token.lower()].split() if token.lower() in known else _letter_names(token.replace(".", ""))


def _letter_names(letters: str) -> list[str]:
    return [phone for letter in letters.lower() for phone in pronunciations()[letter + "."].split()]


def possessive(last_phone: str) -> list[str]:
    """How 's sounds after a phone."""
    if last_phone in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return ["IH0", "Z"]
    return ["S"] if last_phone in {"P", "T", "K", "F", "TH"} else ["Z"]


def _latin(text: str) -> str:
    """The text in ASCII: other letters as Latin ones where they have such a form, else one U+FFFD each."""
    return "".join(_latin_char(char) for char in unicodedata.normalize("NFC", text))


def _latin_char(char: str) -> str:
    if char in "0123456789":
        return f" {_DIGITS[int(char)]} "
    lower = char.lower()
    if lower in _READ_AS:
        return _READ_AS[lower] if char == lower else _READ_AS[lower].capitalize()
    if char.isascii():
        return char
    base = "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))
    if unicodedata.normalize("NFC", base) != char:  # Korean syllables come apart, and together again
        return _latin(base) if base else ""
    kind = unicodedata.category(char)
    if kind[0] in "LN":
        return _OTHER
    return "" if kind[0] == "M" or kind == "Cf" else " "  # accents and joiners belong to the word


@lru_cache(maxsize=1)
def pronunciations() -> dict[str, str]:
    """Phones, separated by spaces, of each word of the CMU Pronouncing Dictionary (its first); 0.3 s at first call."""
    lines = lzma.decompress(DICTIONARY.read_bytes()).decode("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)
