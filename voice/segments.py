"""Segments that have no end of a sentence for too long, cut where it does the least harm."""

import math
import re
import unicodedata
from bisect import bisect
from itertools import accumulate

from cosyvoice.tokenizer.tokenizer import TAG

# About 30 s, the longest clip that training hears: 120 wide characters (Chinese, kana, Hangul) or 400 others
LONGEST, WIDE, NARROW = 1200, 10, 3
CLOSING = "[\"'”’)»」』\\]]*"
PAUSE = re.compile(rf"[,;:，、；：،؛—–…。！？．।؟]+{CLOSING}(?!\d)|[.!?]+{CLOSING}(?=\s)")
FIRST_TAGS = re.compile(rf"(?:{TAG.pattern})*")
JOINER = "\u200d"  # makes one sign of two


def pieces(segment: str) -> list[str]:
    """A segment in as few pieces of like length as take about 30 s at most; put together they are the segment.

    The tags that it starts with steer the model, so each piece gets them."""
    tags = FIRST_TAGS.match(segment)[0]
    text = segment[len(tags) :]
    spent = [0, *accumulate(map(cost, text))]
    found, start = [], 0
    while (left := spent[-1] - spent[start]) > LONGEST:
        goal, most = (
            bisect(spent, spent[start] + length) - 1 for length in (left / math.ceil(left / LONGEST), LONGEST)
        )
        end = start + place_near(text[start : most + 1], goal - start, most - start)
        found.append(tags + text[start:end])
        start = end
    return [*found, tags + text[start:]]


def cost(char: str) -> int:
    """The character's share of `LONGEST`. What is drawn wide takes about the time of a syllable."""
    return WIDE if unicodedata.east_asian_width(char) in "WF" else NARROW


def place_near(text: str, goal: int, most: int) -> int:
    """The best place to cut within half of `goal` around it: behind a comma, else before a blank, else anywhere."""
    least, most = goal // 2 + 1, min(most, goal + goal // 2)
    places = [match.end() for match in PAUSE.finditer(text, least, most + 1) if match.end() <= most]
    places = places or [at for at in range(least, most) if text[at].isspace()]
    places = places or [at for at in range(least, goal + 1) if not clings(text, at)]
    return min(places or [goal], key=lambda at: abs(at - goal))


def clings(text: str, at: int) -> bool:
    """Whether the character at this index belongs to the one before it: a combining mark, or part of a joined emoji."""
    return unicodedata.category(text[at])[0] == "M" or JOINER in text[at - 1 : at + 1]
