"""Numbers of languages other than English and Chinese as words."""

import random

import pytest

from text.numbers import LANGUAGES, RULES, read_numbers

EXAMPLES = [(language, *pair) for rule in RULES for language, pair in rule.examples.items()]


@pytest.mark.parametrize(("language", "written", "read"), EXAMPLES)
def test_each_rule_reads_its_example(language, written, read):
    assert read_numbers(written, language) == read


LEFT = [  # nothing that is a number, or nothing that is surely one
    ("de", "Das Wetter ist schön – nicht wahr?"),
    ("ja", "いいですよ～ 50音ではない".replace("50", "")),
    ("fr", "[laughter] <strong>Bonjour</strong> [AH0]"),
    ("es", "https://example.org/2024/05?x=3"),
    ("it", "tom25@example.org"),
    ("nl", "Ik heb 25 appels."),
    ("", "OK 25"),
]
SENTENCES = [
    ("de", "Am 24.12. feiern wir, Nr. 5 auch.", "Am vierundzwanzigsten Dezember feiern wir, Nummer fünf auch."),
    ("de", "ISBN 978-3-16-148", "ISBN neun sieben acht, drei, eins sechs, eins vier acht"),
    ("ru", "К 2030 году, № 5", "К две тысячи тридцатому году, номер пять"),
    ("pt", "A 2a vez, o nº 5", "A segunda vez, o número cinco"),
    ("fr", "24h/24", "vingt-quatre heures/vingt-quatre"),
    ("de", "Er ist 25. Dann kam Nummer 26.", "Er ist fünfundzwanzig. Dann kam Nummer sechsundzwanzig."),
    ("de", "Zimmer 1 ist frei.", "Zimmer eins ist frei."),
    ("de", "MP3, B2B und COVID-19", "MP drei, B zwei B und COVID-neunzehn"),
    ("de", "Kontonummer 12345678901", "Kontonummer " + "eins zwei drei vier fünf sechs sieben acht neun null eins"),
    ("de", "$1,234.56", "eintausendzweihundertvierunddreißig Dollar sechsundfünfzig"),
    ("fr", "1 234,56 €", "mille deux cent trente-quatre euros cinquante-six"),
    ("fr", "1\u202f234 habitants", "mille deux cent trente-quatre habitants"),
    ("es", "página 1 está", "página uno está"),
    ("es", "21 años, 1 €", "veintiún años, un euro"),
    ("it", "20°, non 30.", "venti gradi, non trenta."),
    ("pt", "200 pessoas, 2 dias", "duzentas pessoas, dois dias"),
    ("ru", "до 5 часов, 2 стола, 2 книги", "до пяти часов, два стола, две книги"),
    ("ja", "１，０００円".replace("，", ","), "千円"),
    ("ja", "気温は－5℃です", "気温はマイナス五℃です".replace("℃", "度")),
    ("ko", "12시 5분, 13시", "열두시 오분, 십삼시"),
]


@pytest.mark.parametrize(("language", "text"), LEFT)
def test_other_text_is_left_as_it_is(language, text):
    assert read_numbers(text, language) == text


@pytest.mark.parametrize(("language", "written", "read"), SENTENCES)
def test_numbers_agree_with_what_stands_beside_them(language, written, read):
    assert read_numbers(written, language) == read


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_lost_and_no_digit_left(language):
    rng = random.Random(language)
    examples = [written for code, written, _ in EXAMPLES if code == language]
    pieces = [*examples, *"0123456789.,:;/-–−+ %€$°()º\n", "00", "000", " mwort ", "\u00a0", "99999999999999999999999"]
    for _ in range(400):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 14)))
        read = read_numbers(text, language)
        assert not any(char.isdecimal() for char in read), text
        assert read.count("mwort") == text.count("mwort"), text


@pytest.mark.parametrize(
    "text", ["1 " * 3000, "1" * 9000, "1.000" * 2000, "(" * 20000 + "1", "[" * 20000, "東" * 20000]
)
@pytest.mark.parametrize("language", ["de", "ja"])
def test_a_long_text_takes_no_long_time(text, language):
    assert read_numbers(text, language)
