"""A rule of reading: a row of the tables in text/english.py and text/chinese.py."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

Match = re.Match[str]


class Rule(NamedTuple):
    """What is written, as a pattern, and how it is read. The tests run the examples."""

    pattern: str
    reading: str | Callable[[Match], str]
    given: str  # an example
    wanted: str  # what the whole normaliser makes of it
    untouched: str = ""  # a text in which the pattern finds nothing


@lru_cache(maxsize=512)
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def apply(rules: Iterable[Rule], text: str) -> str:
    """The text after all rules, in order."""
    for rule in rules:
        text = compiled(rule.pattern).sub(rule.reading, text)
    return text
