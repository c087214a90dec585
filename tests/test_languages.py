"""The language of a text and of each stretch of it."""

import random

import pytest

from text.languages import language_of, stretches

ALONE = [  # a sentence of one language
    ("en", "Tom bought 25 apples in the shop on the corner."),
    ("en", "She was born in 1990 and has 3 children."),
    ("de", "Ich habe 25 Äpfel gekauft."),
    ("de", "Am 3. Mai 2024 beginnt der Kurs."),
    ("de", "DER ZUG KOMMT UM 14 UHR"),
    ("fr", "Nous avons 3 chats et 2 chiens."),
    ("fr", "Le train part à 14h30."),
    ("es", "Tengo 25 años y vivo en Madrid."),
    ("es", "El tren sale a las 14:30."),
    ("it", "Il treno parte alle 14:30."),
    ("it", "Dante Alighieri nacque a Firenze nel 1265."),
    ("pt", "A cidade tem 1.234.567 habitantes."),
    ("pt", "Meu irmão compra 6 pães."),
    ("ru", "Мне 25 лет."),
    ("ru", "Поезд отправляется в 14:30."),
    ("ja", "ここに5つあります。"),
    ("ja", "東京タワーは333メートル"),
    ("ko", "사과 5개 주세요."),
    ("zh", "我今天用iPhone 15 mini拍了25张照片。"),
    ("zh", "我的 Windows 11 home 坏了"),
    ("zh", "她用 Python 3.11 写了 25 行 code。"),
    ("zh", "我在东京吃了25碗ラーメン。"),
    ("zh", "他说 I have 25 apples 然后走了3步。"),
    ("ja", "iPhone 15 と MacBook を 2 台買った"),
    ("ko", "저는 iPhone 15를 샀어요."),
    ("ru", "Вчера я купил iPhone 15."),
    ("en", "Tom bought 25 apples for 王芳."),
    ("en", "王芳 bought 25 apples."),
    ("en", "Tom paid 25元 for it."),
    ("en", "The restaurant Le Jules Verne opens at 7."),
    ("yue", "<|yue|>早晨，25"),
    ("de", "<|de|>OK 25"),
]
UNSURE = [
    "", "25", "OK 25", "Room 101", "Chapter 3", "iPhone 15 mini", "Windows 11 Home", "Rio de Janeiro 2016",
    "Las Vegas 2024", "Juan Carlos de la Cruz scored 3 goals in Madrid.",
    "Die Hard 2", "La La Land 2", "Ludwig van Beethoven, 1770", "Café Central, 4", "Mercedes-Benz C 200", "Maria 25",
    "Total 25 euros", "pizza 4 formaggi", "Real Madrid 2, FC Barcelona 1", "A 4 in C", "B2B", "No. 5",
    "Ik heb 25 appels gekocht.", "Jag har köpt 25 äpplen.", "Mam 25 lat i mieszkam w Krakowie.", "25 yaşındayım.",
    "Am 25 de ani și locuiesc la Cluj.", "Mám 25 jablek.", "Tôi có 25 quả táo.",
    "Мені 25 років і я люблю каву.", "Аз имам 25 ябълки.", "Имам 25 јабуке.", "Мне 25 гадоў, я жыву ў Мінску.",
    "ฉันมีแอปเปิ้ล 25 ผล", "Έχω 25 μήλα", "عندي 25 تفاحة", "יש לי 25 תפוחים", "मेरे पास 25 सेब हैं",
]  # fmt: skip
MIXED = [
    (
        "王芳说：“Tom bought 25 apples for me.”然后她给了3块钱。",
        [("zh", "王芳说："), ("en", "“Tom bought 25 apples for me.”"), ("zh", "然后她给了3块钱。")],
    ),
    ("Ich habe z. B. 5 Äpfel. I have 5 apples.", [("de", "Ich habe z. B. 5 Äpfel. "), ("en", "I have 5 apples.")]),
    ("我有25，and he has 30", [("zh", "我有25，"), ("en", "and he has 30")]),
    ("저는 샀어요. I have 2 of them.", [("ko", "저는 샀어요. "), ("en", "I have 2 of them.")]),
    ("Έχω 25 μήλα. He has 5 of them.", [("", "Έχω 25 μήλα. "), ("en", "He has 5 of them.")]),
    # a sentence that does not tell goes with the others, where they agree
    ("Er kam am 3. Mai nach Hause. Kapitel 3. OK 5.", [("de", "Er kam am 3. Mai nach Hause. Kapitel 3. OK 5.")]),
]


@pytest.mark.parametrize(("language", "text"), ALONE)
def test_a_sentence_with_a_foreign_name_is_of_one_language(language, text):
    assert stretches(text) == [(language, text)]


@pytest.mark.parametrize("text", UNSURE)
def test_names_codes_and_other_languages_are_not_taken_for_one_that_is_read(text):
    assert all(language in ("", "en") for language, _ in stretches(text))


@pytest.mark.parametrize(("text", "expected"), MIXED)
def test_each_clause_has_a_language_of_its_own(text, expected):
    assert stretches(text) == expected


def test_the_stretches_of_any_text_make_up_the_text():
    rng = random.Random(0)
    pieces = [*'25 3.,:;-–°%$€("“」\n。！？', *(text for _, text in ALONE), *"王aБ가のثθ\u0301\U0001f600"]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        assert "".join(piece for _, piece in stretches(text)) == text


@pytest.mark.parametrize("text", ["1 " * 20000 + "王", "1,1." * 9000 + "a王", "(" * 40000 + "王", "王a" * 20000])
def test_a_long_text_takes_no_long_time(text):
    assert "".join(piece for _, piece in stretches(text)) == text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Good morning", "en"),
        ("早上好 OK", "zh"),
        ("こんにちは世界", "ja"),
        ("Доброе утро", "ru"),
        ("안녕하세요", "ko"),
        ("<|it|>Buongiorno", "it"),
        ("<|endofprompt|>早上好", "zh"),
        ("<|0.00|><|yue|>早上好", "yue"),
        ("123", "en"),
        ("Ich habe heute keine Zeit.", "de"),
        ("สวัสดีครับ", "th"),
        ("Καλημέρα σας", "el"),
        ("صباح الخير", "ar"),
        ("Мені 25 років", "uk"),
    ],
)
def test_a_texts_language_is_told_by_its_tag_its_letters_or_its_words(text, language):
    assert language_of(text) == language
