"""Where a text is Chinese and where English: by sentence, then by what a number stands beside."""

import re
from itertools import groupby, pairwise

from cosyvoice.cli.text import blocks, contains_chinese
from text import languages
from text.units import UNITS

_HAN = "\u4e00-\u9fff"
# A dot behind an initial or Mr. ends no sentence
_SENTENCE = re.compile(r"[。！？!?；;\n][”\"']*\s*|\.[”\"']*(?:\s+|$)(?<!\b[A-Z]\. )(?<!\b[A-Z][a-z]\. )(?<!\bMrs\. )")
_CLAUSE = re.compile("[，、：]")
_CHINESE_MARK = re.compile("[。，、；：！？]")  # without any word it tells the language: 6×7=42。
# No part of an address, a name of a file or a unit
_WORD = re.compile(
    r"(?<![\w.@/])[A-Za-z]+(?:['’-][A-Za-z]+)*(?![\w@/]|\.\w)|(?<=[\u4e00-\u9fff])[A-Za-z]+(?![\w@/.])", re.ASCII
)
_CHINESE_RUN = re.compile(rf"(?:[\d.,:%~-]*[{_HAN}]+[\d.,:%~-]*)+")
_COUNTED_IN_CHINESE = re.compile(rf"\d[\d.,:%~-]*[{_HAN}]")
_LATIN_RUN = re.compile(rf"[A-Za-z][^{_HAN}\u3000-\u303f\uff00-\uffef]*[^{_HAN}\u3000-\u303f\uff00-\uffef\s\d]")
_SMALL_WORDS = set(
    "an the i you he she it we they is are was were am be been has have had do does did will would can could in on at "
    "of to for and or but with from by my your his her our their this that there not if what when where who how".split()
)
_GRAMMAR = set(
    "的了是在我你他她它们这那有不和就也都很吗呢吧把被给从用会要能可买请后前个到用说"
)  # never in a name of a person


def stretches(text: str) -> list[tuple[str, str]]:
    """(language code, piece) in order; the pieces put together are the text. "" where the language is not sure."""
    found = languages.stretches(text)
    if {language for language, _ in found} <= {"zh", "en", ""}:
        chinese = contains_chinese(text) or _CHINESE_MARK.search(text) and not _WORD.search(text)
        return _chinese_or_english(text) if chinese else [("en", text)]
    return found


def _chinese_or_english(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    sentences = (block for sentence in _cut(text, _SENTENCE) for block in blocks(sentence, languages.LONGEST_SENTENCE))
    for sentence in sentences:
        foreign = not contains_chinese(sentence) and _WORD.search(sentence)
        for clause in [sentence] if foreign else _cut(sentence, _CLAUSE):
            english = foreign or _is_english(clause)
            found += [part for part in (_english(clause) if english else _chinese(clause)) if part[1]]
    runs = groupby(found, lambda part: part[0])
    return [(language, "".join(piece for _, piece in run)) for language, run in runs]


def _cut(text: str, end: re.Pattern[str]) -> list[str]:
    """The text cut behind each end."""
    ends = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [text[start:stop] for start, stop in pairwise(ends) if start < stop]


def _is_english(sentence: str) -> bool:
    """Whether its words and grammar are English: Chinese in it is a name."""
    han = re.findall(f"[{_HAN}]", sentence)
    words = [word for word in _WORD.findall(sentence) if word not in UNITS]
    plain = sum(word.islower() and len(word) > 1 for word in words)
    small = any(word.lower() in _SMALL_WORDS for word in words)
    chinese = len(han) / 1.5 + 2 * bool(_GRAMMAR & set(han))
    starts = bool(re.match(r"\W*[A-Za-z]", sentence))
    return (small or plain > 1) and plain + (len(words) - plain) / 2 + starts >= chinese


def _english(sentence: str) -> list[tuple[str, str]]:
    """An English sentence, with what is counted in Chinese apart."""
    pieces, end = [], 0
    for run in _CHINESE_RUN.finditer(sentence):
        if _COUNTED_IN_CHINESE.search(run[0]):
            pieces += [("en", sentence[end : run.start()]), ("zh", run[0])]
            end = run.end()
    return [*pieces, ("en", sentence[end:])]


def _chinese(sentence: str) -> list[tuple[str, str]]:
    """A Chinese sentence, with English clauses apart."""
    pieces, end = [], 0
    for run in _LATIN_RUN.finditer(sentence):
        if len(_WORD.findall(run[0])) > 3 and _is_english(run[0]):
            pieces += [("zh", sentence[end : run.start()]), ("en", run[0])]
            end = run.end()
    return [*pieces, ("zh", sentence[end:])]
