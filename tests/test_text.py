"""Texts as they are spoken: every row of the tables of rules, the language of a number, and what holds for any text."""

import itertools
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from clips.audio_doctor import text_flags
from clips.features import normalized as clip_text
from config import UserError
from cosyvoice.cli import text as stock
from cosyvoice.cli.frontend import LONGEST_TEXT, MAX_ENCODED, CosyVoiceFrontEnd
from cosyvoice.cli.text import STOCK, WETEXT_BLOCK, blocks, split_paragraph
from cosyvoice.tokenizer.tokenizer import get_tokenizer
from cosyvoice.utils.audio_files import AudioError
from cosyvoice.utils.common import InputError
from cosyvoice.utils.yaml_loader import read_model_config
from text import chinese_rules, english_rules, typography
from text.languages import language_of
from text.normalizer import OURS, normalizer, read_as, unread_signs
from text.rules import Rule, compiled
from text.typography import fold
from text.units import UNITS
from voice.speaking import speakable

RULES = [("zh", rule) for rule in chinese_rules.RULES] + [("en", rule) for rule in english_rules.RULES]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def front(tiny_model_dir: Path) -> CosyVoiceFrontEnd:
    return CosyVoiceFrontEnd(read_model_config(tiny_model_dir), normalizer=OURS)


@pytest.fixture(scope="module")
def mini(tiny_model_dir: Path) -> CosyVoiceFrontEnd:
    """The front end with the tokenizer of CosyVoice-mini, which knows Latin letters and what becomes them."""
    front = CosyVoiceFrontEnd(read_model_config(tiny_model_dir), normalizer=OURS)
    front.tokenizer = get_tokenizer()
    return front


# ------------------------------------------------------------------------------------------ the tables
@pytest.mark.parametrize(("language", "rule"), RULES, ids=lambda value: getattr(value, "given", value))
def test_each_rule_reads_its_example_and_leaves_the_other(language: str, rule: Rule):
    assert read_as(rule.given, language) == rule.wanted
    untouched = fold(rule.untouched)
    assert compiled(rule.pattern).sub(rule.reading, untouched) == untouched


@pytest.mark.parametrize("rule", typography.RULES, ids=lambda rule: rule.given)
def test_each_fold_writes_its_example_plainly_and_leaves_the_other(rule: Rule):
    assert fold(rule.given) == rule.wanted
    assert compiled(rule.pattern).sub(rule.reading, rule.untouched) == rule.untouched


@pytest.mark.parametrize("symbol", UNITS)
def test_a_unit_is_a_unit_only_where_no_latin_letter_follows(symbol: str):
    assert read_as(f"有37 {symbol}吗", "zh") == f"有三十七{UNITS[symbol][0]}吗"
    assert read_as(f"有37{symbol}xy吗", "zh") == f"有三十七{symbol}xy吗"
    if UNITS[symbol][1]:
        assert not read_as(f"37 {symbol}", "en").endswith(symbol)
        assert read_as(f"37 {symbol}xy", "en") == f"thirty seven {symbol}xy"


READINGS = [
    # typography: as the ASCII form is read
    ("It is −5 °C or －10℃.", "It is negative five degrees Celsius or negative ten degrees Celsius."),
    (
        "10–12, 9:00–17:00, 555‑123‑4567",
        "ten to twelve, nine o'clock to seventeen o'clock, five five five, one two three, four five six seven",
    ),
    ("气温－10℃到−5 °C，3－5天，5—8%", "气温负十摄氏度到负五摄氏度，三到五天，百分之五到百分之八"),
    ("８：05分到站，５０％，3．5元，9：00～17：00", "八点零五分到站，百分之五十，三点五元，九点到十七点"),
    ("The pause – five – stays, and he paid—5 dollars.", "The pause – five – stays, and he paid—five dollars."),
    ("1\u00a0000\u202f000 people in the ’90s", "one million people in the nineties"),
    # what must not be touched
    ("[laughter] He has <strong>5</strong> of [AH0].", "[laughter] He has <strong>five</strong> of [AH0]."),
    ("[laughter]他有<strong>5</strong>个[AH0]", "[laughter]他有<strong>五</strong>个[AH0]"),
    ("等30 seconds，买iPhone 15 mini，Windows 11 home", "等三十seconds，买iPhone十五mini，Windows十一home"),
    ("2 models，k8s，4K屏，iPhone 5s", "二models，k八s，四K屏，iPhone五s"),
    ("5mm、3 min和10kg，60km/h", "五毫米、三分钟和十千克，每小时六十公里"),
    # numbers are amounts
    ("一共120台，重110公斤，身高110，共10086人次", "一共一百二十台，重一百一十公斤，身高一百一十，共一万零八十六人次"),
    ("打120，拨打10086，火警119", "打幺二零，拨打幺零零八六，火警幺幺九"),
    ("Call 1300 555 019.", "Call one three zero zero, five five five, zero one nine."),
    ("We called 300 people about 1300 things.", "We called three hundred people about thirteen hundred things."),
    # signs
    ("J. O. A. N. A. waits 3½ hours.", "J O A N A waits three and a half hours."),
    ("5 >= 4，½杯", "五大于等于四，二分之一杯"),
    # other words
    ("See [5] or 7, naïve7.", "See [five] or seven, naïveseven."),
    ("x² plus H₂O, ①②③ of 20 m²", "x squared plus H two O, one two three of twenty square meters"),
    ("Call `utils.run_main` 5 times.", "Call `utils.run_main` five times."),  # wetext gives nothing at all
    ("没有数字，也没有点～好的", "没有数字，也没有点～好的"),
]


@pytest.mark.parametrize(("text", "spoken"), READINGS)
def test_kinds_of_text_are_read_right(text: str, spoken: str):
    assert OURS.normalize(text) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("I met 张伟 and 25 people.", "I met 张伟 and twenty five people."),
        ("小明 has 25 apples.", "小明 has twenty five apples."),
        ("他有25个apples和3只dogs。", "他有二十五个apples和三只dogs。"),
        ("I bought 25个苹果 and 3 pears.", "I bought 二十五个苹果 and three pears."),
        (
            "老师说：I have 25 apples and 3 pears。然后走了5米。",
            "老师说：I have twenty five apples and three pears。然后走了五米。",
        ),
        ("He has 5 cats. 他有5只猫。", "He has five cats. 他有五只猫。"),
    ],
)
def test_a_number_is_read_in_the_language_of_its_stretch(text: str, spoken: str):
    assert OURS.normalize(text) == spoken


# ------------------------------------------------------------------------------------------ what holds for any text
ALPHABET = list(
    "0123456789 .,:-/%$€'\"()[]<>|~+=*&@#\\_²½−–：～％５"
) + "km kg h s a.b US$ Dr. No. p.m. 年 月 元 个 打 电话 。 \n".split(" ")


@pytest.mark.parametrize("seed", range(8))
def test_no_text_fails_or_is_lost(seed: str):
    rng = random.Random(seed)
    for _ in range(25):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(1, 30)))
        spoken = OURS.normalize(text)
        assert not any(char.isdecimal() for char in spoken), (text, spoken)
        assert bool(spoken.strip()) or not any(char.isalnum() for char in text), (text, spoken)


@pytest.mark.parametrize("text", ["他有5个，价格是3.5元。", "He has 5 cats, it costs $3.50."])
def test_a_second_reading_changes_nothing(text: str):
    assert OURS.normalize(OURS.normalize(text)) == OURS.normalize(text)


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "On Jan 3, 2024 at 5 p.m. Mr. Smith of the U.S. Army paid $5. Then he left again!"),
        ("zh", "今天是2024年7月4日，气温23.5度。他付了5元！"),
    ],
)
def test_a_long_text_is_normalised_by_sentences_without_a_change(monkeypatch, language: str, sentence: str):
    lengths = []
    wetext = stock._wetext(language)

    class Listening:
        def normalize(self, piece: str) -> str:
            lengths.append(len(piece))
            return wetext.normalize(piece)

    monkeypatch.setattr(stock, "_wetext", lambda language: Listening())
    once = OURS.normalize(sentence)
    blank = " " if language == "en" else ""
    assert OURS.normalize(blank.join([sentence] * 20)) == blank.join([once] * 20)
    assert max(lengths) <= len(sentence) + 10 and len(lengths) >= 20


@pytest.mark.parametrize("digit", ["1", "１"])
def test_a_number_that_has_no_name_is_read_digit_by_digit(digit: str):
    assert OURS.normalize(f"[{digit * 37}]").strip("[]") == " ".join(["one"] * 37)


@pytest.mark.parametrize("text", ['He said "stop 5".', '他说"你好"，5个。', "a\\b 5"])
def test_no_backslash_is_left_by_the_normaliser(text: str):
    spoken = OURS.normalize(text)
    assert "\\" not in spoken and spoken.count('"') == text.count('"')


def test_signs_that_stay_unread_are_named():
    assert unread_signs(OURS.normalize("5 > 4 ≈ 4，☃ 和 #abc {，好～")) == ["☃", "#", "{"]
    assert unread_signs(OURS.normalize("[laughter] 5 > 4, it costs $5")) == []
    assert unread_signs(STOCK.normalize("温度＞5")) == ["＞"]


def test_stock_is_stock_and_ours_is_the_default_of_no_model():
    assert normalizer("stock").normalize("iPhone 15 mini很好") == "iPhone十五分钟i很好"
    assert normalizer("ours") is OURS
    with pytest.raises(UserError, match="ours, stock"):
        normalizer("theirs")


# ------------------------------------------------------------------------------------------ the front end
def test_another_normaliser_takes_its_place(front: CosyVoiceFrontEnd):
    class Shout:
        def normalize(self, text: str) -> str:
            return text.upper()

    shouting = CosyVoiceFrontEnd(front.config, normalizer=Shout())
    assert shouting.text_normalize("hello") == ["HELLO."]
    assert shouting.text_normalize("你好a", split=False) == "你好A"


@pytest.mark.parametrize("text", ["   ", "...", "！？", "\n", "\u3000", "😀", "（）"])
def test_text_without_words_gives_no_segment(front: CosyVoiceFrontEnd, text: str):
    assert front.text_normalize(text) == []


def test_long_text_is_split_into_segments_that_lose_nothing(front: CosyVoiceFrontEnd):
    text = "收到好友从远方寄来的生日礼物，那份意外的惊喜让我充满了甜蜜的快乐。" * 12
    segments = front.text_normalize(text)
    assert len(segments) > 3 and "".join(segments) == text
    assert all(60 < len(segment) <= 120 for segment in segments)


@pytest.mark.parametrize("text", ["\ud800 5", "你好 \udcff", "<|en|>\udcff"])
def test_half_a_character_is_refused(front: CosyVoiceFrontEnd, text: str):
    with pytest.raises(InputError, match="bytes that are not UTF-8"):
        front.text_normalize(text)


def test_tagged_text_of_which_the_tokenizer_knows_nothing_gives_no_segment(mini: CosyVoiceFrontEnd):
    assert mini.text_normalize("<|ru|>ь") == []
    assert mini.text_normalize("<|ru|>да") == ["<|ru|>да"]


def test_tagged_text_is_left_as_it_is(front: CosyVoiceFrontEnd):
    text = "<|en|>It costs 5 dollars. Really."
    assert front.text_normalize(text) == [text]
    assert front.text_tokens(text)[0] == 50259


# ------------------------------------------------------------------------------------------ how work grows with a text
ENDLESS = [
    *("7", "A.", "1.", "1,", "1 ", "1/", "1-", "$1", "(", '"', "'", "a-", "a", "我", "我a", "我1", "号码", "XIV "),
    *("²", "１", "www.", "a@", "a.", "<|", "[", "e\u0301", "ʼ", "👩\u200d", "...", " ", "\t", "\n", "、", "，", "—"),
    *("1：", "½", "ア1", "der 1 ", "д1 ", "call 1 ", "code&号", ": ", "12 km/h ", "hello world ", "Hello. ", "a+"),
    *("打1", "2024年", "1990s "),
]
MOST_GROWTH = 3.2  # times the time for twice the text: 2 is linear, 4 quadratic


@pytest.fixture
def handed_to_wetext(monkeypatch) -> list[str]:
    """What wetext is asked to read; it gives it back as it is."""
    seen: list[str] = []
    monkeypatch.setattr(stock, "_reading", lambda text, language: seen.append(text) or text)
    return seen


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time, which other programs do not lengthen much."""
    started = time.process_time()
    work(text)
    return time.process_time() - started


def growth(work: Callable[[str], object], unit: str, length: int) -> float:
    """Times as much work for twice the text, measured again before it is believed to be much."""
    texts = [(unit * size)[:size] for size in (length, 2 * length)]
    times = [seconds(work, text) for text in texts]
    for _ in range(2):
        if times[1] <= max(0.05, MOST_GROWTH * times[0]):
            break
        times = [min(known, seconds(work, text)) for known, text in zip(times, texts, strict=True)]
    return times[1] / times[0] if times[1] > 0.05 else 1.0


@pytest.mark.parametrize("seed", range(2))
def test_reading_a_text_takes_no_more_than_its_share(seed: int, mini: CosyVoiceFrontEnd, handed_to_wetext: list[str]):
    """From normalising to segments, and the flags of what came out; without wetext, which gets texts of one length."""
    rng = random.Random(seed)

    def read(text: str) -> None:
        text_flags("".join(speakable(mini, text)), text)

    for unit in [*rng.sample(ENDLESS, 2), *("".join(rng.choices(ALPHABET, k=rng.randint(1, 4))) for _ in range(2))]:
        assert growth(read, unit, 3000) <= MOST_GROWTH, unit
    assert max(map(len, handed_to_wetext)) <= WETEXT_BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("unit", ENDLESS)
def test_whatever_is_repeated_is_read_in_time(unit: str, mini: CosyVoiceFrontEnd, front: CosyVoiceFrontEnd):
    """All of it with wetext, by both normalisers and in each language."""
    for work in (partial(speakable, mini), STOCK.normalize, front.text_tokens, language_of):
        assert growth(work, unit, 2500) <= MOST_GROWTH, work
    for language in ("zh", "en", "de", "ja", "ru"):
        assert growth(lambda text, language=language: read_as(text, language), unit, 2500) <= MOST_GROWTH, language


@pytest.mark.parametrize("normaliser", [OURS, STOCK])
def test_a_number_without_end_is_read_digit_by_digit(normaliser):
    assert normaliser.normalize("7" * 600).split() == ["seven"] * 600
    assert len(normaliser.normalize("我" + "3" * 600)) > 600


def test_a_tokenizer_gets_no_word_without_end(front: CosyVoiceFrontEnd, monkeypatch):
    encode, lengths = front.tokenizer.encode, []
    monkeypatch.setattr(
        front.tokenizer, "encode", lambda text, **more: lengths.append(len(text)) or encode(text, **more)
    )
    assert len(front.text_tokens("a" * 10_000)) > 1000
    assert max(lengths) <= MAX_ENCODED and sum(lengths) == 10_000


@pytest.mark.parametrize("seed", range(5))
def test_blocks_joined_are_the_text_and_end_where_it_does_least_harm(seed: int):
    rng = random.Random(seed)
    text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 3000)))
    for longest in (2, 50, 400, 4000):
        pieces = blocks(text, longest)
        assert "".join(pieces) == text and max(map(len, pieces)) <= longest
    assert blocks("One two. Three four, five six", 12) == ["One two. ", "Three four, ", "five six"]
    assert blocks("我有1234567个苹果1234", 10) == ["我有1234567", "个苹果1234"]


def test_segments_of_which_the_tokenizer_knows_nothing_end(front: CosyVoiceFrontEnd):
    assert len(split_paragraph("x! " * 3000, lambda text: [], "en")) > 10


def test_a_text_that_is_too_long_for_one_sound_is_refused(front: CosyVoiceFrontEnd):
    with pytest.raises(InputError, match="200,000"):
        front.text_normalize("a" * (LONGEST_TEXT + 1))
    with pytest.raises(AudioError, match="200,000"):  # a clip with it is dropped
        clip_text(front, "a" * (LONGEST_TEXT + 1))


@pytest.mark.parametrize("whole", ["No. 5", "Jan. 5, 2024", "approx. 5 kg", "Dr. Smith", "at 5 p.m. on"])
@pytest.mark.parametrize("longest", [400, 2000])
def test_a_long_text_is_not_cut_where_the_pieces_would_be_read_otherwise(longest, whole):
    words = "we walked on and on and then he said it was late "
    for before in range(longest // 2, longest + 60, 3):
        start = (words * (before // len(words) + 1))[:before].rpartition(" ")[0] + " "
        text = f"{start}{whole} {words * (longest // 20)}"
        cuts = {*itertools.accumulate(map(len, blocks(text, longest)))}
        inside = range(len(start) + 1, len(start) + len(whole))
        assert not cuts & {*inside}, before
