"""The mini's tokenizer: phones, letters, punctuation, and what becomes of other scripts."""

import hashlib
import time

import pytest

from cosyvoice.tokenizer.tokenizer import LETTERS, PHONES, PUNCTUATION, SYMBOLS, get_tokenizer, pronunciations


def read(text: str) -> str:
    """The symbols of a text."""
    tokenizer = get_tokenizer()
    return tokenizer.decode(tokenizer.encode(text))


def test_the_list_of_symbols_is_the_one_that_the_weights_were_trained_with():
    digest = hashlib.sha256("\n".join(SYMBOLS).encode()).hexdigest()
    assert digest == "fcc946598d836ff432119e0194ca4228d04f02d48863ca6fc7b1d3d5de4341f7"


def test_every_id_is_below_128_and_has_one_symbol():
    assert len(set(SYMBOLS)) == len(SYMBOLS) == get_tokenizer().n_vocab < 128
    assert len(PHONES) == 69


def test_every_phone_of_the_dictionary_has_an_id():
    assert {phone for phones in pronunciations().values() for phone in phones.split()} <= set(PHONES)


def test_the_dictionary_loads_quickly():
    pronunciations.cache_clear()
    start = time.process_time()
    assert len(pronunciations()) > 120_000
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("Hello, world.", "HH AH0 L OW1 , | W ER1 L D ."),
        ("HELLO   world", "HH AH0 L OW1 | W ER1 L D"),
        ("a", "AH0"),  # the first pronunciation
        ("don’t don't", "D OW1 N T | D OW1 N T"),
        ("'tis 'hello'", "T IH1 Z | HH AH0 L OW1"),
        ("U.S. at 5 p.m.", "Y UW2 EH1 S | AE1 T | F AY1 V | P IY1 EH1 M ."),
        ("wait... what?!", "W EY1 T . | W AH1 T ? !"),
        ("yes — no - so", "Y EH1 S | - | N OW1 | - | S OW1"),
        ('he said "stop".', 'HH IY1 | S EH1 D | " S T AA1 P " .'),
        ("7 & 50%", "S EH1 V AH0 N | AH0 N D | F AY1 V | Z IH1 R OW0 | P ER0 S EH1 N T"),
        ("<|en|>Hi", "HH AY1"),
    ],
)
def test_text_becomes_phones(text: str, symbols: str):
    assert read(text) == symbols


def test_a_hyphenated_word_is_looked_up_whole_and_else_in_parts():
    assert read("well-known") == "W EH1 L N OW1 N"
    assert read("apple-green") == "AE1 P AH0 L | G R IY1 N"


@pytest.mark.parametrize(("stem", "ending"), [("cupboard", "Z"), ("walnut", "S"), ("albatross", "IH0 Z")])
def test_a_possessive_ends_as_it_sounds(stem: str, ending: str):
    assert f"{stem}'s" not in pronunciations()
    assert read(f"{stem}'s") == f"{read(stem)} {ending}"


def test_a_known_possessive_is_taken_from_the_dictionary():
    assert read("dog's") == pronunciations()["dog's"]


def test_an_unknown_word_is_spelled_in_letters_and_unknown_capitals_by_their_names():
    assert read("Zyxwv zyxwv's") == "z y x w v | z y x w v ' s"
    assert read("XKQJ") == "EH1 K S K EY1 K Y UW1 JH EY1"


def test_accents_are_dropped_and_cyrillic_is_written_in_latin_letters():
    assert read("Café") == read("Cafe")
    assert read("straße") == "s t r a s s e"
    assert read("Привет") == "p r i v e t"
    assert read("й") == read("y")  # not decomposed to и


def test_letters_of_other_scripts_are_unknown_one_by_one():
    tokenizer = get_tokenizer()
    assert tokenizer.encode("你好") == [tokenizer.unknown_id] * 2
    assert tokenizer.encode("ab你好")[-2:] == [tokenizer.unknown_id] * 2
    assert tokenizer.encode("안녕") == [tokenizer.unknown_id] * 2, "which come apart, and together again"


def test_every_character_can_be_read():
    tokenizer = get_tokenizer()
    text = "".join(char for char in map(chr, range(0x10000)) if not "\ud800" <= char <= "\udfff")
    assert tokenizer.encode(text)


@pytest.mark.parametrize("text", ["...", "?!", "。！", "- : ;", '"', ""])
def test_text_without_words_gives_only_punctuation(text: str):
    assert set(read(text).split()) <= set(PUNCTUATION) | {"|"}


@pytest.mark.parametrize("text", ["", "   ", "😀", "'", "\u200b", "()[]{}"])
def test_text_without_words_and_marks_gives_nothing(text: str):
    assert get_tokenizer().encode(text) == []


def test_known_words_can_be_spelled_for_training():
    tokenizer = get_tokenizer()
    spelled = tokenizer.decode(tokenizer.encode("the cat sat", spell=lambda word: word == "cat"))
    assert spelled == "DH AH0 | c a t | S AE1 T"
    assert set("cat") <= set(LETTERS)


@pytest.mark.parametrize("text", ["-" * 20_000, "'" * 20_000, "<|" * 20_000, "a." * 20_000, "a-" * 20_000])
def test_odd_long_text_takes_no_longer_than_its_length(text: str):
    start = time.process_time()
    assert len(get_tokenizer().encode(text)) <= 2 * len(text)
    assert time.process_time() - start < 2


def test_another_vocabulary_is_refused_by_name():
    with pytest.raises(ValueError, match="'klingon' is not known; use 'en_phones'"):
        get_tokenizer(vocabulary="klingon")
