"""Long segments are cut where it does little harm, and nothing is lost."""

import random

import pytest

from voice.segments import LONGEST, clings, cost, pieces

WORDS = [
    "word",
    "a",
    "extraordinarily",
    "naïve",
    "e\u0301te\u0301",
    "你好",
    "カタカナ",
    "👩‍👩‍👧",
    ",",
    " ",
    "，",
    "—",
    "1,000",
    '"',
]


def seconds(text: str) -> float:
    """As `segments` guesses them."""
    return 30 * sum(map(cost, text)) / LONGEST


@pytest.mark.parametrize("seed", range(100))
def test_the_pieces_together_are_the_text_and_none_is_too_long(seed: int):
    draw = random.Random(seed)
    words = draw.sample(WORDS, k=draw.randint(1, len(WORDS)))
    text = "".join(draw.choice(words) + draw.choice(["", " "]) for _ in range(draw.randint(1, 800)))
    found = pieces(text)
    assert "".join(found) == text
    assert all(seconds(piece) <= 30 for piece in found)
    assert len(found) == 1 or min(map(seconds, found)) > 7


@pytest.mark.parametrize("text", ["", "Short, as it is.", "x" * 400, "长" * 120, "<|en|>" + "x" * 400])
def test_what_takes_thirty_seconds_is_not_cut(text: str):
    assert pieces(text) == [text]


def test_a_cut_is_behind_a_comma_else_before_a_blank_else_between_letters():
    assert pieces("long word " * 25 + "here, " + "other word " * 20)[0].endswith("here,")
    assert all(piece.strip() in ("word " * 100) for piece in pieces("word " * 198))
    assert [len(piece) for piece in pieces("字" * 300)] == [100, 100, 100]
    assert pieces("字" * 70 + "，" + "字" * 100 + "。") == ["字" * 70 + "，", "字" * 100 + "。"]


@pytest.mark.parametrize("sign", ["e\u0301\u0302", "👩‍👩‍👧", "क्षि"])
def test_no_sign_is_cut_in_two(sign: str):
    found = pieces(sign * 400)
    assert len(found) > 1 and "".join(found) == sign * 400
    assert not any(clings(piece_of + after, len(piece_of)) for piece_of, after in zip(found, found[1:], strict=False))


def test_a_letter_with_marks_without_end_ends():
    text = "a" + "\u0301" * 5000
    assert "".join(pieces(text)) == text


def test_every_piece_has_the_tags_of_its_text():
    assert pieces("<|en|>" + "word " * 100) == ["<|en|>" + piece for piece in pieces("word " * 100)]
