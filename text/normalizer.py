"""Texts as they are spoken: typography folded, tokens kept, our rules, wetext; each stretch in its language."""

import re
import unicodedata
from collections.abc import Callable
from functools import partial

from config import UserError
from cosyvoice.cli.text import (
    STOCK,
    TextNormalizer,
    blocks,
    chinese_marks,
    contains_chinese,
    end_in_full_stop,
    grouped,
    wetext_reading,
)
from text import chinese_rules, english, english_rules
from text.numbers import LANGUAGES, read_numbers
from text.rules import apply
from text.signs import URL
from text.stretches import stretches
from text.typography import fold

LONGEST = 2000  # characters that the rules read at once
_KEPT = "\ue000"  # of a private area: stands for what must not be touched
_TOKENS = re.compile(
    rf"{_KEPT}|<\|[^<>|]*\|>|</?[A-Za-z_]+\d*/?>|\[/?[A-Za-z_]+\d?\]|{URL}"  # <|en|>, <strong>, [laughter], [AH0]
)
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
# What wetext must not see: in Chinese, Latin letters behind a digit, of which it would make units
_UNSEEN = {
    "zh": re.compile(rf"{_KEPT}|(?<=\d)\s?[A-Za-zμΩ]+"),
    "en": re.compile(rf"{_KEPT}|[{_CJK}]+|{english_rules.UNTOUCHED}"),
}
# Where a sentence surely ends: four small letters are no abbreviation. Without the blanks around a Chinese one.
_ENGLISH_END = re.compile(
    r"(?:(?<=[a-z]{4}[.!?])|(?<=\bMay[.!?])|(?<=\bJune[.!?])|(?<=\bJuly[.!?])) (?=[A-Z][a-z]|[AI] )"
)
_CHINESE_SENTENCE = re.compile(r"[^\s。！？；](?:[^。！？；\n]*[^\s。！？；])?[。！？；]*")
_UNREAD = set("@#*_\\|{}<>^~")
_DRAWN_OUT = "～〜"  # behind a word: no sign that is skipped


class OurNormalizer:
    """TextNormalizer with rules of our own before wetext: the tables of text.chinese_rules and text.english_rules."""

    def normalize(self, text: str) -> str:
        """The text as it is spoken, each stretch in its language, with marks and blanks as the model knows them."""
        return _read(text, stretches)


def read_as(text: str, language: str) -> str:
    """The text as it is spoken in one language, "zh" or "en", whatever its letters are."""
    return _read(text, lambda plain: [(language, plain)])


def _read(text: str, cut: Callable[[str], list[tuple[str, str]]]) -> str:
    """The text as it is spoken; cut: gives its (language, stretch) in order."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return _KEPT

    plain = grouped(fold(_TOKENS.sub(keep, text)))
    spoken = "".join(
        _READERS.get(language, _english)(block)
        for language, stretch in cut(plain)
        for block in blocks(stretch, LONGEST)
    )
    spoken = end_in_full_stop(spoken) if contains_chinese(spoken) else spoken
    in_order = iter(kept)
    return re.sub(_KEPT, lambda _: next(in_order), spoken)


OURS = OurNormalizer()
NORMALIZERS: dict[str, TextNormalizer] = {"ours": OURS, "stock": STOCK}
DEFAULT = "ours"  # also of data, voices and checkpoints that note none


def normalizer(name: str) -> TextNormalizer:
    """The normaliser of that name. Raises UserError, naming those that there are."""
    if name not in NORMALIZERS:
        raise UserError(f"no text normalizer is called '{name}'; choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]


def unread_signs(spoken: str) -> list[str]:
    """Signs, each once, that are left in a normalised text and that no model knows how to say."""
    left = _TOKENS.sub("", spoken)
    odd = (char for char in left if char in _UNREAD or unicodedata.category(char) in ("Sc", "Sm", "So", "Co", "Cn"))
    return list(dict.fromkeys(char for char in odd if char not in _DRAWN_OUT))


def _chinese(text: str) -> str:
    """A Chinese stretch as it is spoken."""
    return chinese_marks(_around(apply(chinese_rules.RULES, text), "zh", _chinese_sentences))


def _english(text: str) -> str:
    """An English stretch as it is spoken. Blanks at its ends stay."""
    spoken = _around(" ".join(apply(english_rules.RULES, text).split()), "en", _english_sentences)
    start, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if text.strip() else ""
    return start + re.sub(r"\d+", lambda digits: english.words(digits[0]), _plain_digits(spoken)) + end


def _other(language: str, text: str) -> str:
    """A stretch in another language as it is spoken; one in Japanese with the marks and blanks of Chinese."""
    spoken = read_numbers(text, language)
    return chinese_marks(spoken) if contains_chinese(spoken) else spoken


_READERS: dict[str, Callable[[str], str]] = {
    "zh": _chinese,
    "en": _english,
    **{language: partial(_other, language) for language in LANGUAGES},
}


def _around(text: str, language: str, read: Callable[[str], str]) -> str:
    """What `read` makes of all that wetext may see, with the blanks and the rest where they were."""
    spoken, end = "", 0
    for unseen in [*_UNSEEN[language].finditer(text), None]:
        piece = text[end : unseen.start() if unseen else len(text)]
        inner = piece.strip()
        before, after = piece.partition(inner)[::2] if inner else (piece, "")
        spoken += before + (read(inner) if inner else "") + after + (unseen[0] if unseen else "")
        end = unseen.end() if unseen else end
    return spoken


def _english_sentences(text: str) -> str:
    """The text sentence by sentence: wetext's time grows faster than the text, and it swallows the dot of a street."""
    *sentences, last = _ENGLISH_END.split(text)
    readings = [(wetext_reading(sentence, "en"), sentence[-1]) for sentence in sentences]
    readings = [reading.removesuffix(mark) + mark for reading, mark in readings]
    return " ".join([*readings, wetext_reading(last, "en")])


def _chinese_sentences(text: str) -> str:
    return _CHINESE_SENTENCE.sub(lambda sentence: wetext_reading(sentence[0], "zh"), text)


def _plain_digits(text: str) -> str:
    """Text whose raised, lowered and circled digits are plain and apart: 10⁵ as 10 5."""

    def odd(char: str) -> bool:
        return char.isdigit() and not char.isdecimal()

    plain = ""
    for before, char in zip(f" {text}", text, strict=False):
        apart = not before.isspace() and (odd(char) or odd(before) and char.isalnum())
        plain += (" " if apart else "") + (str(unicodedata.digit(char)) if odd(char) else char)
    return plain
