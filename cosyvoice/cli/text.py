"""The front end's rules for text: numbers as words, and segments as long as the model speaks in one go."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

LONGEST_NUMBER = 36  # digits; a decillion has 34
WETEXT_BLOCK = 400  # characters; the time that wetext takes for each grows with the length of its text
_ENDLESS_NUMBER = re.compile(r"\d{50}(?=\d{50})")

# Splitting: lengths are characters for zh, tokenizer ids for en
MAX_SEGMENT, MIN_SEGMENT, MERGE_BELOW = 80, 60, 20
MAX_SEGMENT_CHARACTERS = 500  # also where the tokenizer has no ids for them
_ZH_MARKS, _EN_MARKS = "。？！；：、.?!;", ".?!;:"
_CLOSING_QUOTES = '"”'
# Where a long text is cut, best first. Behind "Jan." or beside a number the two pieces would be read otherwise.
_PLACES = [
    re.compile(place)
    for place in (
        r"(?:(?<=[a-z]{4}[.!?…])|(?<=[^\x00-\u024f][.!?…]))[\"'”’)]*\s+(?!\d)|[。！？；…][”’」』）]*|\n",
        r"(?<=[^\W\d][,;:)])\s+(?!\d)|[，、：]",
        r"(?<=[^\W\d])\s+(?=[^\W\d])",
        r"\s+",
        r"[^A-Za-z0-9\s](?=[^\W_])|[A-Za-z0-9](?=[^A-Za-z0-9\W])",
    )
]


class TextNormalizer(Protocol):
    """Writes a text as it is spoken."""

    def normalize(self, text: str) -> str:
        """The text with numbers, dates and units as words."""
        ...


class StockNormalizer:
    """TextNormalizer that reads as stock CosyVoice does: by the package wetext, then by the replacements below."""

    def __init__(self, wetext: bool = True) -> None:
        """wetext: False leaves numbers in Chinese text as digits, as stock does where the package is missing."""
        self.wetext = wetext

    def normalize(self, text: str) -> str:
        """The text as stock speaks it."""
        language = "zh" if contains_chinese(text) else "en"
        if self.wetext and text:
            text = wetext_reading(text, language)
        return spell_out_number(text) if language == "en" else end_in_full_stop(chinese_marks(text))


STOCK = StockNormalizer()


def wetext_reading(text: str, language: str) -> str:
    """What wetext makes of the text. A word that it fails on, like [5] or `a.b_c`, stays as it is.

    language: "zh" or "en". wetext's grammars are read at the first use."""
    text = text.replace("\\", " ")  # nothing to speak, and wetext puts one before each quote
    text = grouped(text)
    if language == "en":  # this grammar knows no other blank than single spaces
        text = " ".join(text.split())
    return "".join(_block_reading(block, language) for block in blocks(text, WETEXT_BLOCK)).replace("\\", "")


def grouped(text: str) -> str:
    """The text with blanks in numbers of 100 digits and more, so that it is not cut within one."""
    return _ENDLESS_NUMBER.sub(r"\g<0> ", text)


def _block_reading(block: str, language: str) -> str:
    """wetext's reading of a whole text or a part of one, which keeps the blanks at the ends where it was cut."""
    inner = block.strip(" ")
    if len(inner) == len(block):
        return _spoken(block, language)
    before, after = block.partition(inner)[::2] if inner else (block, "")
    return before + (_spoken(inner, language) if inner else "") + after


def blocks(text: str, longest: int) -> list[str]:
    """The text in consecutive pieces of at most `longest` characters, so that no work grows faster than the text.

    Each ends where it does the least harm: behind a sentence, else behind a comma, at a blank, outside of words and
    numbers, anywhere."""
    found, start = [], 0
    while (left := len(text) - start) > longest:
        goal = start + math.ceil(left / math.ceil(left / longest))  # no tiny rest
        end = _block_end(text, start + longest // 2, goal, start + longest)
        found.append(text[start:end])
        start = end
    return [*found, text[start:]]


def _block_end(text: str, least: int, goal: int, most: int) -> int:
    for place in _PLACES:
        found = place.finditer(text, least, most + 1)  # one more, for what must not follow
        if ends := [match.end() for match in found if least < match.end() <= most]:
            return min(ends, key=lambda end: abs(end - goal))
    return goal


def _spoken(text: str, language: str) -> str:
    """wetext's reading, of what stands between the words that it fails on where it fails on the whole."""
    reading = _reading(text, language)
    if reading is not None:
        return reading
    words = text.split(" ")
    runs = [(fails, list(run)) for fails, run in groupby(words, lambda word: _fails(word, language))]
    if len(runs) == 1 and not runs[0][0]:  # they fail only together
        middle = len(words) // 2
        runs = [(False, words[:middle]), (False, words[middle:])]
    return " ".join(" ".join(run) if fails else _spoken(" ".join(run), language) for fails, run in runs)


def _reading(text: str, language: str) -> str | None:
    """What wetext makes of the text; None where its English grammar asserts, or finds nothing and loses all of it."""
    try:
        return _wetext(language).normalize(text) or (None if text.strip() else "")
    except AssertionError:
        return None


@lru_cache(maxsize=1024)
def _fails(word: str, language: str) -> bool:
    return _reading(word, language) is None


@lru_cache(maxsize=2)
def _wetext(language: str) -> Any:
    import wetext  # 0.4 s

    return wetext.Normalizer(lang=language, remove_erhua=False)


@lru_cache(maxsize=1)
def _inflect() -> Any:
    import inflect  # 0.5 s

    return inflect.engine()


def chinese_marks(text: str) -> str:
    """Chinese text as the model was trained on it: without line ends, brackets and most blanks, "。" for "."."""
    text = replace_corner_mark(replace_blank(text.replace("\n", "")))
    return remove_bracket(text.replace(".", "。").replace(" - ", "，"))


def end_in_full_stop(text: str) -> str:
    """Chinese text with "。" for commas at its end."""
    return re.sub("(?<![，,、])[，,、]+$", "。", text)


def contains_chinese(text: str) -> bool:
    """Whether a character of the basic Chinese block, U+4E00 to U+9FFF, occurs."""
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def replace_blank(text: str) -> str:
    """Text whose spaces survive only between two ASCII characters that are not spaces."""

    def keeps(char: str) -> bool:
        return char.isascii() and char not in ("", " ")

    # the left neighbour of the first character is the last one, as text[-1]; a missing right neighbour is ""
    return "".join(
        char for i, char in enumerate(text) if char != " " or (keeps(text[i + 1 : i + 2]) and keeps(text[i - 1]))
    )


def replace_corner_mark(text: str) -> str:
    """Text with the raised 2 and 3 of square and cubic units written in Chinese."""
    return text.replace("²", "平方").replace("³", "立方")


def remove_bracket(text: str) -> str:
    """Text without full-width brackets and backticks; a Chinese dash becomes a space."""
    return re.sub("[（）【】`]", "", text).replace("——", " ")


def spell_out_number(text: str) -> str:
    """Text in which every run of digits is written as English words; other signs of a number stay."""
    return "".join(_number_words(digits) if digits else other for digits, other in _digit_runs(text))


def _number_words(digits: str) -> str:
    """A whole number in English words, digit by digit where it is longer than inflect has names for."""
    alone = digits if len(digits) > LONGEST_NUMBER else [digits]
    return " ".join(map(_words_of_number, alone))


@lru_cache(maxsize=1024)
def _words_of_number(number: str) -> str:
    return _inflect().number_to_words(number)


def _digit_runs(text: str) -> Iterator[tuple[str, str]]:
    """(digits, "") and ("", other text) in turn. Digits as str.isdigit has them, so raised ones too."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or text[end].isdigit() != text[start].isdigit():
            yield (text[start:end], "") if text[start].isdigit() else ("", text[start:end])
            start = end


def is_only_punctuation(text: str) -> bool:
    """Whether the text is empty or all Unicode punctuation and symbols; a space is neither."""
    return all(unicodedata.category(char)[0] in "PS" for char in text)


def split_paragraph(
    text: str,
    tokenize: Callable[[str], list],
    lang: str,
    token_max_n: int = MAX_SEGMENT,
    token_min_n: int = MIN_SEGMENT,
    merge_len: int = MERGE_BELOW,
    comma_split: bool = False,
) -> list[str]:
    """Segments of the text that end at punctuation and are about as long as the model speaks in one go.

    Sentences are joined while the sum is at most token_max_n or what there is has at most token_min_n; a last segment
    below merge_len is added to the one before. Length: characters for lang "zh", `tokenize`'s ids for "en".
    """
    if not text:
        return []

    def length(segment: str) -> int:
        return len(segment) if lang == "zh" else len(tokenize(segment))

    marks = (_ZH_MARKS if lang == "zh" else _EN_MARKS) + ("，," if comma_split else "")
    if text[-1] not in marks:
        text += "。" if lang == "zh" else "."
    segments: list[str] = []
    current, current_length = "", 0
    for piece in _pieces(text, marks):
        longer = length(current + piece)
        if longer > token_max_n and current_length > token_min_n or len(current) > MAX_SEGMENT_CHARACTERS:
            segments.append(current)
            current, longer = "", length(piece)
        current, current_length = current + piece, longer
    if current and segments and current_length < merge_len:
        segments[-1] += current
    elif current:
        segments.append(current)
    return segments


def _pieces(text: str, marks: str) -> list[str]:
    """Text cut after each mark. A mark with nothing before it is dropped; a quote right after a mark stays with it."""
    pieces: list[str] = []
    start = 0
    for i, char in enumerate(text):
        if char not in marks:
            continue
        if i > start:
            pieces.append(text[start : i + 1])
        start = i + 1
        if text[start : start + 1] and text[start] in _CLOSING_QUOTES:
            if pieces:
                pieces[-1] += text[start]
            start += 1
    return pieces
