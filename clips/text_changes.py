"""What reading aloud changes in a text, word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

ALONE = r"\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff"  # characters of scripts without blanks between words
WORD = re.compile(rf"\d+(?:[.,:/]\d+)+|[{ALONE}]|[^\W{ALONE}]+|[^\w\s]")
SILENT = set(".,!?;:…。，！？；：、\"'“”‘’()（）-–—")  # marks whose change is not to be heard
SHOWN_CHARACTERS = 600  # more than is said in 30 s


class Piece(NamedTuple):
    """A stretch of a text; `changed` where the other text has something else in its place."""

    text: str
    changed: bool


def changes(written: str, read: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces that joined give the text again, of long ones its start."""
    written, read = shortened(written), shortened(read)
    ours, theirs = (list(WORD.finditer(text)) for text in (written, read))
    matcher = SequenceMatcher(None, [word[0] for word in ours], [word[0] for word in theirs], autojunk=False)
    marked: tuple[list[slice], list[slice]] = ([], [])
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal" and not {word[0] for word in (*ours[i:j], *theirs[k:m])} <= SILENT:
            for side, words in zip(marked, (ours[i:j], theirs[k:m]), strict=True):
                side += [slice(words[0].start(), words[-1].end())] if words else []
    return pieces(written, marked[0]), pieces(read, marked[1])


def pieces(text: str, marked: Sequence[slice]) -> list[Piece]:
    """The text cut at the ends of the marked stretches, which are in order."""
    found, end = [], 0
    for stretch in marked:
        found += [Piece(text[end : stretch.start], False), Piece(text[stretch], True)]
        end = stretch.stop
    return [piece for piece in [*found, Piece(text[end:], False)] if piece.text]


def shortened(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """The text, cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most].rstrip()}…"
