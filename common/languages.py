"""Which language and script a text is in, by its letters and by tags such as <|fr|>."""

import re
import unicodedata
from collections import Counter

from cosyvoice.cli.text import contains_chinese
from cosyvoice.tokenizer.tokenizer import TAG

KANA = {"HIRAGANA", "KATAKANA"}
NORMALISED = {"en", "zh"}  # languages in which numbers are written out
# First words of the Unicode names of letters, and what they tell
CODES = {"HANGUL": "ko", "CJK": "zh", "CYRILLIC": "ru"}
SCRIPTS = {"HANGUL": "Hangul", "CJK": "Chinese characters", "LATIN": "Latin letters", "CYRILLIC": "Cyrillic letters"}
NO_LETTERS = "no letters"


def without_tags(text: str) -> str:
    """What is spoken of a text: <|en|> and the like steer the model."""
    return TAG.sub("", text)


def tagged_language(text: str) -> str | None:
    """The language code that a text is tagged with, "fr" of <|fr|>; None for other tags, such as <|endofprompt|>."""
    codes = [tag.strip("<|>") for tag in TAG.findall(text)]
    return next((code for code in codes if re.fullmatch("[a-z]{2,3}", code)), None)


def language_of(text: str) -> str:
    """Language code of a text: the one it is tagged with, else by its letters, "en" for Latin ones."""
    names = set(_scripts(text))
    by_letters = "ja" if names & KANA else next((code for name, code in CODES.items() if name in names), "en")
    return tagged_language(text) or by_letters


def script(text: str) -> str:
    """The script of most letters; kana anywhere means Japanese."""
    names = _scripts(text)
    if KANA & set(names):
        return "Japanese"
    most = Counter(names).most_common(1)
    return SCRIPTS.get(most[0][0], most[0][0].title()) if most else NO_LETTERS


def digits_in_english(written: str, normalised: str, language: str = "en") -> bool:
    """Whether normalising made English words of digits in a text of another language.

    language: code of what is spoken, where more is known than the letters tell; Latin ones tell nothing."""
    was, left = (any(map(str.isdigit, without_tags(text))) for text in (written, normalised))
    if left or not was or contains_chinese(written):  # beside Chinese characters digits are read in Chinese
        return False
    return language not in NORMALISED or script(written) not in (SCRIPTS["LATIN"], NO_LETTERS)


def _scripts(text: str) -> list[str]:
    """The script of each letter, as Unicode names it."""
    return [unicodedata.name(char, "").split(" ")[0] for char in without_tags(text) if char.isalpha()]
