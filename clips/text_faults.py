"""What shows that a text is not what is said: too long or short for its sound, a name or number before it, stage
directions. Unlike a comparison between clips this also sees a fault that all of them share. Pure functions on strings.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from cosyvoice.utils.audio_files import AUDIO_SUFFIXES

# (slowest, fastest) letters a second. 1700 prompts of five voices in five languages lie between 6 and 20, spelled
# letters aside; newsreaders say about 5 Chinese characters, 5 Korean syllables or 8 Japanese kana.
ALPHABET = (3.5, 23.0)
SPEEDS = {
    **dict.fromkeys(("LATIN", "CYRILLIC", "GREEK"), ALPHABET),
    "CJK": (1.2, 11.0),
    "HANGUL": (1.2, 12.0),
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), (1.8, 16.0)),
}
OTHER_SPEED = (1.5, 23.0)  # scripts that may leave out vowels, or have a letter for each syllable
JUDGED_SEC = 2.0  # a shorter clip may be one spelled letter, or a word and a pause
SPELLED_SEC = 1.0  # a letter that is a word takes as much longer: U S B
IMPOSSIBLE = 2.0  # times the fastest

FEWEST_LABELLED = 3  # texts with a label or a number before them
FEWEST_NAMED = 2  # texts with the same name and a colon before them
NO_NAMES = set("note question answer warning attention remember example important tip hint fact ps".split())
LABELLED_SHARE = 0.5
FEWEST_SHARING = 8  # different texts: fewer may begin alike by chance
SHARING_SHARE = 0.9
SHORT_WORD = 3  # letters: sentences by one author may well all begin with "I" or "The"
LONGEST_DIRECTION = 4  # words
LONGEST_CHINESE_DIRECTION = 8  # characters


def speaking_times(text: str) -> tuple[float, float]:
    """Seconds that the fastest and the slowest speaker take for a text."""
    scripts = [unicodedata.name(char, "").split(" ")[0] for char in text if char.isalnum()]
    speeds = [SPEEDS.get(script, OTHER_SPEED) for script in scripts]
    spelled = sum(not _is_unspaced(letter) for letter in re.findall(r"\b[^\W\d_]\b", text))
    slowest_sec = sum(1 / slowest for slowest, _ in speeds) + spelled * SPELLED_SEC
    return sum(1 / fastest for _, fastest in speeds), slowest_sec


# ---- stage directions ------------------------------------------------------------------------------------------------

_ANY_DIRECTION = re.compile(
    r"\[[^\[\]]+\]|【[^【】]+】|〔[^〔〕]+〕|［[^［］]+］|\{[^{}]+\}|"
    r"(?<![\w*])\*+(?=[^\s*])[^*]+(?<=\S)\*+(?!\w)|♪[^♪]*♪?"
)
_IN_BRACKETS = re.compile(r"[(（]([^()（）]+)[)）]")
_NO_WORDS = re.compile(r"[ivxlc]+|[a-z]|[\d\W]*|[一二三四五六七八九十百]+", re.IGNORECASE)  # (a), (iv), （三）: counted
SENTENCE_ENDS = tuple(".!?…。！？")
NEAR = 20  # characters before and after brackets that tell whether a sentence ends there
# Beginnings of words about the voice or other sounds; with them a remark may stand anywhere
_SOUNDS = re.compile(
    r"laugh|chuckl|giggl|sigh|cough|sneez|sniff|snort|gasp|sob|cry|weep|breath|inhal|exhal|whisper|mumbl|mutter|shout|"
    r"yell|scream|groan|moan|paus|silen|music|applau|cheer|nois|inaudib|unintellig|crosstalk|clear(?:s|ing) throat|"
    r"(?:soft|quiet|loud|angr|sad|happ|excit|nervous|sarcas)\w*$|rire|rit\b|soupir|toux|lach|seufz|hust|flüster|risa|suspir|"
    r"tose|susurr|ride\b|sospir|смех|сме[её]т|вздых|вздох|шёпот|шепот|кашл|пауз|плач|"
    r"笑|叹|嘆|咳|哭|喘|停顿|停頓|沉默|音乐|音樂|掌声|掌聲|鼓掌|听不清|小声|大声|低声|轻声|旁白|呼吸|哽咽|ため息|웃음|한숨",
    re.IGNORECASE,
)


def stage_direction(text: str) -> str | None:
    """The first remark about how something is said, or what else is heard: in brackets or between asterisks."""
    for match in _ANY_DIRECTION.finditer(text):
        if any(map(str.isalpha, match[0])) or "♪" in match[0]:
            return match[0]
    return next((match[0] for match in _IN_BRACKETS.finditer(text) if _is_direction(match)), None)


def _is_direction(match: re.Match[str]) -> bool:
    """Whether what stands in round brackets is no part of the sentence around it."""
    text, start, end = match.string, match.start(), match.end()
    inside, before, after = match[1].strip(), text[max(0, start - NEAR) : start], text[end : end + NEAR].strip()
    words = len(inside.split())
    if _NO_WORDS.fullmatch(inside) or inside.endswith(SENTENCE_ENDS):
        return False
    if words <= 2 and len(inside) <= 24 and _SOUNDS.match(inside.removeprefix("*")):
        return True
    if words > LONGEST_DIRECTION or _is_unspaced(inside) and len(inside) > LONGEST_CHINESE_DIRECTION:
        return False
    before = before.rstrip(" \"'”’»」』")
    new_sentence = not after or not after[0].islower() and (after[0].isalpha() or after[0] in "\"'“‘«「『")
    return (not before or before.endswith(SENTENCE_ENDS)) and new_sentence


def _is_unspaced(text: str) -> bool:
    """Whether a text is in a script that puts no blanks between words."""
    return any(unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI")) for char in text)


# ---- what many texts have before or after what is said ---------------------------------------------------------------

_LABEL = re.compile(r"\W*([^\W\d_][^:|>\n]{0,29}?)\s*(?:[:|>](?!\d)|\s[-–—]\s)\s*\S")
_NUMBER = re.compile(
    r"\W*(?:(?:no|nr|line|sentence|clip|take)\b\.?\s*|第\s*)?((?:\d{1,9}[-/._])*\d{1,9})\s*(?:[.:、,)\]|-](?!\d)|句|条|\s)\W*[^\W\d]",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_FIRST_WORD = re.compile(r"\W*\w+(?:\s*[,;.!…，、]|\s+\W*(?P<next>\w))")
LONGEST_SHARED = 10  # words or characters
LONGEST_LABEL = 3  # words


def speaker_labels(texts: Sequence[str]) -> dict[int, str]:
    """{place of a text: the label before it}, where most texts have one of few labels, as scripts have `Anna: `, or
    some the same name and a colon."""
    found = {i: match[1] for i, text in enumerate(map(_plain, texts)) if (match := _LABEL.match(text))}
    labels = {i: label for i, label in found.items() if len(label.split()) <= LONGEST_LABEL}
    count = Counter(label.casefold() for label in labels.values())
    usual = {i: label for i, label in labels.items() if count[label.casefold()] >= FEWEST_LABELLED}
    if len(usual) >= LABELLED_SHARE * len(texts):
        return usual
    words = set(re.findall(r"\w+", " ".join(texts)))  # a word that also stands in small letters is no name
    return {
        i: label
        for i, label in labels.items()
        if count[label.casefold()] >= FEWEST_NAMED
        and all(word[0].isupper() for word in label.split())
        and any(word.lower() not in words | NO_NAMES for word in label.split())
        and _plain(texts[i]).partition(label)[2].lstrip().startswith(":")
    }


def leading_numbers(texts: Sequence[str], names: Sequence[str]) -> dict[int, str]:
    """{place of a text: its number or the name of its file}, where most texts have one. names: of the clips."""
    texts = [_plain(text) for text in texts]
    numbers = {i: match[1] for i, text in enumerate(texts) if (match := _NUMBER.match(text))}
    parts = [re.findall(r"\d+", number) for number in numbers.values()]  # 7, 7/30, 2024-05-07
    counted = any(_runs_on([int(part[at]) for part in parts]) for at in (0, -1))
    found = numbers if counted or any(re.match(r"0\d", number) for number in numbers.values()) else {}
    for i, (text, name) in enumerate(zip(texts, names, strict=True)):
        stem = name.rpartition("/")[2]
        if file := _file_name(text):
            found[i] = file
        elif _is_code(stem) and re.match(rf"\W*{re.escape(stem)}\W+\w", text, re.IGNORECASE):
            found[i] = stem
    return found if len(found) >= max(FEWEST_LABELLED, LABELLED_SHARE * len(texts)) else {}


def _file_name(text: str) -> str | None:
    """The first word that is the name of a sound file."""
    words = (word.strip("()[]<>{}:;,|\"'") for word in text.split())
    return next((word for word in words if word.lower().endswith(tuple(AUDIO_SUFFIXES)) and word[0] != "."), None)


def _runs_on(values: Sequence[int]) -> bool:
    """Whether numbers are all different and close to each other, as those of lines are."""
    return len(set(values)) == len(values) > 0 and max(values) - min(values) < 3 * len(values)


def _plain(text: str) -> str:
    """Full-width digits, colons and brackets made plain ones."""
    return unicodedata.normalize("NFKC", text)


def _is_code(stem: str) -> bool:
    return any(map(str.isdigit, stem)) and any(map(str.isalpha, stem))


def shared_edge(texts: Sequence[str], at_end: bool = False) -> dict[int, str]:
    """{place of a text: the words with which it and nearly all of many different texts begin, or end}."""
    step = -1 if at_end else 1
    words = [[match[0] for match in _WORD.finditer(text.casefold())][::step] for text in texts]
    different = [list(text) for text in set(map(tuple, words))]
    if len(different) < FEWEST_SHARING:
        return {}
    shared = _shared(different)
    if len(shared) == 1 and len(shared[0]) <= SHORT_WORD and not _is_unspaced(shared[0]):
        if at_end or not _stands_apart(texts):
            return {}
    if shared:
        alike = [i for i, text in enumerate(words) if text[: len(shared)] == shared]
        return dict.fromkeys(alike, " ".join(shared[::step]))
    letters = "" if at_end else "".join(_shared([text[0] for text in different if text and _is_unspaced(text[0])]))
    alike = [i for i, text in enumerate(words) if text and text[0].startswith(letters)]
    many = len(letters) > 1 and len(alike) >= SHARING_SHARE * len(texts)  # 安娜今天...: no blank after the name
    return dict.fromkeys(alike, letters) if many else {}


def _stands_apart(texts: Sequence[str]) -> bool:
    """Whether a comma or a capital follows the first word of nearly all texts, as after a name."""
    matches = [match for text in texts if (match := _FIRST_WORD.match(text))]
    apart = sum(match["next"] is None or match["next"].isupper() for match in matches)
    return apart >= SHARING_SHARE * len(texts)


def _shared(texts: Sequence[Sequence[str]]) -> list[str]:
    """The first words, at most LONGEST_SHARED, that enough of the texts share without being all of one."""
    shared: list[str] = []
    while (length := len(shared)) < LONGEST_SHARED:
        longer = (text for text in texts if len(text) > length + 1 and list(text[:length]) == shared)
        found = Counter(text[length] for text in longer).most_common(1)
        if not found or found[0][1] < SHARING_SHARE * len(texts):
            break
        shared.append(found[0][0])
    return shared
