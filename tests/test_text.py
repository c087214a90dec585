"""Text as it is spoken: numbers as words, in Chinese and English. The exact rules of the specification: parity."""

from pathlib import Path

import pytest

from cosyvoice.cli import text as text_rules
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.tokenizer.tokenizer import get_tokenizer
from cosyvoice.utils.common import InputError
from cosyvoice.utils.yaml_loader import read_model_config


@pytest.fixture(scope="module")
def front(tiny_model_dir: Path) -> CosyVoiceFrontEnd:
    return CosyVoiceFrontEnd(read_model_config(tiny_model_dir))


@pytest.fixture(scope="module")
def mini(tiny_model_dir: Path) -> CosyVoiceFrontEnd:
    """The front end with the tokenizer of CosyVoice-mini, which knows Latin letters and what becomes them."""
    front = CosyVoiceFrontEnd(read_model_config(tiny_model_dir))
    front.tokenizer = get_tokenizer()
    return front


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (
            "今天是2024年7月4日，气温23.5度，涨了12.3%。",
            "今天是二零二四年七月四日，气温二十三点五度，涨了百分之十二点三。",
        ),
        (
            "The price is $5.20 on Jan 3, 2024.",
            "The price is five dollars twenty cents on the third of january, twenty twenty four.",
        ),
        ("I have 3 apples.", "I have three apples."),
        ("12345", "twelve thousand three hundred and forty five."),
        ("没有数字。", "没有数字。"),
    ],
)
def test_numbers_are_written_out_in_the_language_of_the_text(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text) == [spoken]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Be [1] on Jan 3, now.", "Be [one] on the third of january, now."),
        ("See [5] or 7.", "See [five] or seven."),
        ("5  times\tten\u00a0or 6", "five times ten or six"),
        ("naïve7", "naïveseven"),
        (
            "It was Jan 3, 2024 [3] and Jan 4.",
            "It was the third of january, twenty twenty four [three] and the fourth of january.",
        ),
        ("Call `utils.run_main` 5 times.", "Call `utils.run_main` five times."),  # wetext gives nothing at all
        ("x² plus H₂O, ①②③ and ④ of 20 m²", "x squared plus H two O, one two three and four of twenty square meters"),
    ],
)
def test_words_that_wetext_fails_on_do_not_fail_the_text(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("The 1990s and 2010s.", "The nineteen nineties and twenty tens."),
        ("In the 1900s, pre-1850s", "In the nineteen hundreds, pre-eighteen fifties"),
        ("’90s-style, the 80's", "nineties-style, the eighties"),
        ("$1,000 or 1,234 euros", "one thousand dollars or one thousand two hundred and thirty four euros"),
        ("1,000,000 for 1,000 km", "one million for one thousand kilometers"),
        ("12,345.67", "twelve thousand three hundred and forty five point six seven"),
        ("$1234.50", "one thousand two hundred and thirty four dollars fifty cents"),
        (
            "3€, 5 $, 50¢, €3, £5, $5k",
            "three euros, five dollars, fifty cents, three euros, five pounds, five thousand dollars",
        ),
        ("₹500 and 1¢", "five hundred rupees and one cent"),
        ("No. 5, Nos. 3, #1, ~5", "Number five, Numbers three, number one, approximately five"),
        ("No. I said no. No.", "No. I said no. No."),
        ("1001 nights", "one thousand and one nights"),
        ("Version 2.10.3 of v1.2.3.", "Version two point ten point three of v one point two point three."),
        ("Dial 911 or 555-1234.", "Dial nine one one or five five five, one two three four."),
        ("St. Louis, near St. Paul", "Saint Louis, near Saint Paul"),
        ("On Main St. The end", "On Main St. The end"),
        ("Open 24/7, since 9/11, split 50/50.", "Open twenty four seven, since nine eleven, split fifty fifty."),
        ("In 1990-2000, 1000–2000 people", "In nineteen ninety to two thousand, one thousand to two thousand people"),
        (
            "US$1,000, US$1 or US$5 million",
            "one thousand US dollars, one US dollar or five million US dollars",
        ),
        ("a 10,000m run, 1 m, 10-20m deep", "a ten thousand meters run, one meter, ten to twenty meters deep"),
    ],
)
def test_what_wetext_reads_wrongly_is_mended(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("1.5, 10:30, 10-12", "one point five, ten thirty, ten to twelve"),
        (
            "in 1990, 1234, 1001-1005",
            "in nineteen ninety, twelve thirty four, one thousand and one to one thousand and five",
        ),
        (
            "1,000-2,000, 3-4, 192.168.0.1",
            "one thousand to two thousand, three to four, one nine two dot one six eight dot zero dot one",
        ),
        ("1, 2,3 and 4", "one, two,three and four"),
        ("3/4 of 1/2, 9/10", "three quarters of one half, nine tenths"),
        (
            "2h 5m, $5m, on 9/11/2001",
            "two hours five minutes, five million dollars, on the eleventh of september two thousand one",
        ),
        ("C# 5", "C hash five"),
        ("(800) 555-1234", "eight hundred, five five five, one two three four"),
        ("他有1,000元，1990年，#1。", "他有一千元，一九九零年，#一。"),
    ],
)
def test_what_wetext_reads_well_stays(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "On Jan 3, 2024 at 5 p.m. Mr. Smith of the U.S. Army paid $5. Then he left again!"),
        ("zh", "今天是2024年7月4日，气温23.5度。他付了5元！"),
    ],
)
def test_a_long_text_is_normalised_by_sentences_without_a_change(monkeypatch, language: str, sentence: str):
    lengths = []
    normalizer = text_rules._wetext(language)

    class Listening:
        def normalize(self, piece: str) -> str:
            lengths.append(len(piece))
            return normalizer.normalize(piece)

    monkeypatch.setattr(text_rules, "_wetext", lambda language: Listening())
    once = text_rules.WETEXT.normalize(sentence, language)
    blank = " " if language == "en" else ""
    assert text_rules.WETEXT.normalize(blank.join([sentence] * 20), language) == blank.join([once] * 20)
    assert max(lengths) <= len(sentence) + 10 and len(lengths) >= 20


@pytest.mark.parametrize("digit", ["1", "１"])
def test_a_number_that_has_no_name_is_read_digit_by_digit(front: CosyVoiceFrontEnd, digit: str):
    assert front.text_normalize(f"[{digit * 37}]", split=False) == f"[{' '.join(['one'] * 37)}]"


@pytest.mark.parametrize("text", ['He said "stop 5".', '他说"你好"，5个。', "a\\b 5"])
def test_no_backslash_is_left_by_the_normaliser(front: CosyVoiceFrontEnd, text: str):
    spoken = front.text_normalize(text, split=False)
    assert "\\" not in spoken and spoken.count('"') == text.count('"')


def test_another_normaliser_takes_its_place(front: CosyVoiceFrontEnd):
    class Shout:
        def normalize(self, text: str, language: str) -> str:
            return f"{text.upper()} {language}"

    shouting = CosyVoiceFrontEnd(front.config, normalizer=Shout())
    assert shouting.text_normalize("hello") == ["HELLO en."]
    assert shouting.text_normalize("你好", split=False) == "你好zh"


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


# ------------------------------------------------------------------------------------------ English
MENDED_ENGLISH = [
    (
        "It takes 20s or 30s, about 2m 40s. Wait about 50s, 60s later",
        "It takes twenty seconds or thirty seconds, about two minutes forty seconds. Wait about fifty seconds, "
        "sixty seconds later",
    ),
    ("I live on Elm Dr. The pool is 50m long.", "I live on Elm Drive. The pool is fifty meters long."),
    ("5m users, 1.5m people", "five million users, one point five million people"),
    (
        "a 50m pool, swim 50m, 1.5m, 5 x 6m",
        "a fifty meters pool, swim fifty meters, one point five meters, five times six meters",
    ),
    (
        "10m/s, 5m/s², m/s²",
        "ten meters per second, five meters per second squared, meters per second squared",
    ),
    ("10², x², (y)² and 5³, (z)³", "ten squared, x squared, (y) squared and five cubed, (z) cubed"),
    ("It takes 20s or 30s.", "It takes twenty seconds or thirty seconds."),
    ("in her late 20s, the 70s and 80s", "in her late twenties, the seventies and eighties"),
    ("80s music, early-2000s", "eighties music, early-two thousands"),
    ("She said no. 3 people left.", "She said no. three people left."),
    ("5/5, rated 4/5 and 3/5 stars", "five out of five, rated four out of five and three out of five stars"),
    ("0.1-0.3 s or 1-1.5 m", "zero point one to zero point three seconds or one to one point five meters"),
    ("The 80/20 rule, 20/20, 1914-18", "The eighty twenty rule, twenty twenty, nineteen fourteen to eighteen"),
    ("At 5 p.m. We left the U.S. It is big.", "At five PM. We left the US. It is big."),
    (
        "$10-15, $5-10m, $1-2 million, £3.50-4.00",
        "ten to fifteen dollars, five to ten million dollars, one to two million dollars, "
        "three point five to four pounds",
    ),
    ("$5/month, €5/hr, $5-a-day", "five dollars per month, five euros per hour, five dollars a-day"),
    ("A$5, HK$1, C$3.50", "five Australian dollars, one Hong Kong dollar, three point five Canadian dollars"),
    (
        "$3.50, $1.01, $0.99, £3.05, $3.00",
        "three dollars fifty cents, one dollar one cent, ninety nine cents, three pounds five pence, three dollars",
    ),
    ("He is 6'2\" or 5’10.", "He is six foot two or five foot ten."),
    ("802.11ac and v2.0", "eight oh two point eleven ac and v two point oh"),
    ("Call +1 415 555 2671.", "Call plus one, four one five, five five five, two six seven one."),
    (
        "020 7946 0958 or call 234-5678",
        "zero two zero, seven nine four six, zero nine five eight or call two three four, five six seven eight",
    ),
    ("Henry VIII, Elizabeth II and Louis XXI.", "Henry the eighth, Elizabeth the second and Louis the twenty first."),
    ("Chapter IV and Part XII", "Chapter four and Part twelve"),
    (
        "Fig. 3, figs. 4, p. 12, pp. 3-5, vol. 2",
        "Figure three, figures four, page twelve, pages three to five, volume two",
    ),
    ("Ch. 4, approx. 5", "Chapter four, approximately five"),
    (
        "Prof. Lee vs. Sen. Fox, e.g. here, i.e. there",
        "Professor Lee versus Senator Fox, for example here, that is there",
    ),
    (
        "E.g. this. I.e. that, etc. and so on. Cats, etc.",
        "For example this. That is that, et cetera and so on. Cats, et cetera.",
    ),
    ("At 5 Elm Dr. is a pub. On Elm Dr. The end.", "At five Elm Drive is a pub. On Elm Drive. The end."),
    ("We watch TV. TV is on.", "We watch TV. TV is on."),
    ("The Sun is bright.", "The sun is bright."),
    ("$50k-60k, $50K", "fifty to sixty thousand dollars, fifty thousand dollars"),
    ("A 4x100m relay, 10cm x 20cm", "A four times one hundred meters relay, ten centimeters by twenty centimeters"),
    ("E = mc². Sun rises. Sat down.", "E equals mc squared. sun rises. sat down."),
    ("At 10 Downing Street. It is.", "At ten Downing Street. It is."),
    ("500¥ and ￥20, € 5", "five hundred yen and twenty yen, five euros"),
]


@pytest.mark.parametrize(("text", "spoken"), MENDED_ENGLISH)
def test_english_that_wetext_reads_wrongly_is_mended(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (
            "In 10m we leave, 10m ago, 2h 5m, for 5m 20s",
            "In ten minutes we leave, ten minutes ago, two hours five minutes, for five minutes twenty seconds",
        ),
        ("10m from now, ran for 10m, $5m", "ten minutes from now, ran for ten minutes, five million dollars"),
        ("It lasted 45s or 10s.", "It lasted forty five seconds or ten seconds."),
        (
            "Highs in the upper 70s, mid 60s to low 70s, Back in 80s Britain, in 40s and 50s, Anna's 30s",
            "Highs in the upper seventies, mid sixties to low seventies, Back in eighties Britain, in forties and "
            "fifties, Anna's thirties",
        ),
        ("He scored 1/2 of the points. Sat works for me.", "He scored one half of the points. Saturday works for me."),
        ("Thanks Dr. You helped, Okay Dr. It is.", "Thanks doctor You helped, Okay doctor It is."),
        ("The film runs 90m, it is 45m long.", "The film runs ninety minutes, it is forty five minutes long."),
        ("We called 999 people.", "We called nine hundred and ninety nine people."),
        ("He is no. 1, No. 3 left.", "He is number one, Number three left."),
        ("At 5 p.m. Monday, 5 p.m. EST in the U.S. Army", "At five PM Monday, five PM EST in the US Army"),
        ("3/4 of 30/40, 2024-05", "three quarters of thirty fortieths, twenty twenty four-oh five"),
        (
            "$5, $3.5, $2.50 million, $1.5k",
            "five dollars, three point five dollars, two point five million dollars, one point five thousand dollars",
        ),
        ("Part I think, Malcolm X, World War II, Paul V. Lee", "Part I think, Malcolm X, World War two, Paul V. Lee"),
        ("Dr. Smith, Ask Dr. Lee. The cap. 3", "doctor Smith, Ask doctor Lee. The cap. three"),
        (
            "20 m², v8, 300 400 5000 things",
            "twenty square meters, v eight, three hundred four hundred five thousand things",
        ),
        ("On Sunday, Sun 5, 'tis 5'. Sat at 5", "On Sunday, Sunday five, 'tis five'. Saturday at five"),
        ("No. 1 and no. 3, no. 1 or no. 2", "Number one and number three, number one or number two"),
    ],
)
def test_english_that_wetext_reads_well_stays(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


# ------------------------------------------------------------------------------------------ Chinese
MENDED_CHINESE = [
    ("时间：8：30，营业时间：9：00—18：00，比分：3：2", "时间：八点三十分，营业时间：九点到十八点，比分：三比二"),
    ("指数收于3,050.12点，金价2,034.12美元", "指数收于三千零五十点一二点，金价两千零三十四点一二美元"),
    ("传真300页，密码1000种，账户 5000 元，工号100到200", "传真三百页，密码一千种，账户五千元，工号一百到两百"),
    ("他有2，3个苹果，1,2,3", "他有二，三个苹果，一,二,三"),
    ("身高180，180斤，2米8，1米75", "身高一百八十，一百八十斤，两米八，一米七十五"),
    ("9.5，8.5分，5，-3度，￥5，¥12", "九点五，八点五分，五，负三度，五元，十二元"),
    ("人数1,234，其中1,234,567元", "人数一千二百三十四，其中一百二十三万四千五百六十七元"),
    ("¥99.8元，¥1000元整，¥5元，¥1,234.56", "九十九点八元，一千元整，五元，一千二百三十四点五六元"),
    ("$5美元，$5.5万，US$100，HK$20，￥199-299", "五美元，五点五万美元，一百美元，二十港元，一百九十九到两百九十九元"),
    ("这个5$，那个100RMB", "这个五美元，那个一百元"),
    ("12.50元，9.00元", "十二点五元，九元"),
    ("身份证号是330106199001011234", "身份证号是三三零幺零六幺九九零零幺零幺幺二三四"),
    ("卡号6222 0212 345", "卡号六二二二，零二幺二，三四五"),
    ("验证码：483920，邮编100871", "验证码：四八三九二零，邮编幺零零八七幺"),
    ("微信是12345678", "微信是幺二三四五六七八"),
    ("单号SF12345678", "单号SF幺二三四五六七八"),
    ("手机138 1234 5678", "手机幺三八，幺二三四，五六七八"),
    ("请打+86-10-12345678", "请打加八六，幺零，幺二三四五六七八"),
    ("请打+86 138 1234 5678", "请打加八六，幺三八，幺二三四，五六七八"),
    ("请打(010)12345678或400 820 8820", "请打零幺零，幺二三四五六七八或四零零，八二零，八八二零"),
    ("电话021-61234567转8001", "电话零二幺，六幺二三四五六七转八零零幺"),
    ("条码6901234567890", "条码六九零幺二三四五六七八九零"),
    ("CA1234航班，1101室，3-2-501室", "CA幺二三四航班，幺幺零幺室，三杠二杠五零幺室"),
    ("2024年07月04日，7月08号", "二零二四年七月四日，七月八号"),
    ("凌晨0:05，晚上0:00，8：30，比分3：2", "凌晨零点零五分，晚上零点，八点三十分，比分三比二"),
    ("套餐1：100元", "套餐一：一百元"),
    ("3～5天，1～2月，3—5天", "三到五天，一到二月，三到五天"),
    ("9:30～11:00，2点-3点，10点～12点，3kg～5kg", "九点三十分到十一点，两点到三点，十点到十二点，三千克到五千克"),
    ("湿度20%-30%，5-8%的人", "湿度百分之二十到百分之三十，百分之五到百分之八的人"),
    ("风力3-4级，要2-3次", "风力三到四级，要两到三次"),
    ("2023-2024学年，2019～2023年，2020/21赛季", "二零二三到二零二四学年，二零一九到二零二三年，二零二零到二一赛季"),
    ("从2019-2021。", "从二零一九到二零二一。"),
    ("以108-102战胜，3-0横扫，比分4-2", "以一百零八比一百零二战胜，三比零横扫，比分四比二"),
    ("10-3等于7", "十减三等于七"),
    ("COVID-19，F-16，歼-20", "COVID十九，F十六，歼二十"),
    ("2点半，下午2点30分", "两点半，下午两点三十分"),
    ("去了2次，2台，2年，2公斤", "去了两次，两台，两年，两公斤"),
    ("第2天，第2名，5栋2单元，2月2日，2日上午", "第二天，第二名，五栋二单元，二月二日，二日上午"),
    ("2005年后，95后，98年世界杯，5000年，2000年的历史", "二零零五年后，九五后，九八年世界杯，五千年，两千年的历史"),
    ("浓度50‰，误差±5%", "浓度千分之五十，误差正负百分之五"),
    ("7×24小时，2*3，5cm×10cm", "七乘二十四小时，二乘三，五厘米乘十厘米"),
    ("550mL水，5g糖，220V，9.8m/s²", "五百五十毫升水，五克糖，两百二十伏，九点八米每二次方秒"),
    ("心率100次/分，血压120/80，跑了3'20\"", "心率每分钟一百次，血压一百二十比八十，跑了三分二十秒"),
    ("89㎡，5㎏，1.5亿km，2万kg", "八十九平方米，五千克，一点五亿公里，两万公斤"),
    ("9秒83，表4-1，8GB+256GB，1升=2斤", "九秒八三，表四杠一，八GB加两百五十六GB，一升等于两斤"),
    ("价格是11.5，iOS 12.1和版本10.15", "价格是十一点五，iOS十二点一和版本十点一五"),
    ("120-115击败，120Hz，5000mAh", "一百二十比一百一十五击败，一百二十赫兹，五千毫安时"),
    ("生于85年，微信号a_24，10w+，1.2w粉丝", "生于八五年，微信号a_二四，十万多，一点二万粉丝"),
    ("1000+人，①准备", "一千多人，一、准备"),
    ("他有５０％，3．5元", "他有百分之五十，三点五元"),
    ("版本5.1.2发布", "版本五点一点二发布"),
    ("3.15晚会，9.11事件，6.1儿童节", "三一五晚会，九一一事件，六一儿童节"),
    ("985、211高校，996工作制，12306网站", "九八五、二一一高校，九九六工作制，幺二三零六网站"),
    ("7-11便利店", "seven eleven便利店"),
    ("上www.baidu.com，写abc@163.com，看126.com", "上www点baidu点com，写abc艾特一六三点com，看一二六点com"),
    ("网址https://a.cn/x-1。", "网址https冒号斜杠斜杠a点cn斜杠x杠一。"),
    ("用Node.js，.NET和a.txt", "用Node点js，点NET和a点txt"),
    ("No.5香水，No.12", "number five香水，number十二"),
    ("Mr. Smith和Dr.王在U.S.A.三年", "Mister Smith和Doctor王在USA三年"),
    ("J. K. Rowling有Ph.D.学位，Vol.3", "J K Rowling有PhD学位，Vol三"),
    ("水果，e.g.苹果，i.e.这个", "水果，例如苹果，也就是这个"),
]


@pytest.mark.parametrize(("text", "spoken"), MENDED_CHINESE)
def test_chinese_that_wetext_reads_wrongly_is_mended(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("他有2、3个，2024年，他有1,000元", "他有二、三个，二零二四年，他有一千元"),
        ("12次，22天，2.5次，2次方，G2次列车，2年级", "十二次，二十二天，二点五次，二次方，G二次列车，二年级"),
        ("12点，2.5点，第2点5，二月22日", "十二点，二点五点，第二点五，二月二十二日"),
        ("2号线，2楼，2斤2两", "二号线，二楼，两斤二两"),
        ("晚上20:05，比例3:2，9:00~21:00", "晚上二十点零五分，比例三比二，九点到二十一点"),
        ("气温-5℃，得了-3分，-1楼", "气温负五摄氏度，得了负三分，负一楼"),
        ("是2024-07-04和2024.7.4，1990.5.1", "是二零二四年七月四日和二零二四年七月四日，一九九零年五月一日"),
        ("10-20元，100-200人，5-3=2吗", "十到二十元，一百到两百人，五减三等于二吗"),
        ("90年代，90后，1/2的人，12.5%", "九十年代，九零后，二分之一的人，百分之十二点五"),
        ("密码错误3次，电话打了100次，热线24小时", "密码错误三次，电话打了一百次，热线二十四小时"),
        ("手机5000元，微信2024年，QQ200万人", "手机五千元，微信二零二四年，QQ两百万人"),
        ("手机号是13812345678，拨打110", "手机号是幺三八幺二三四五六七八，拨打幺幺零"),
        ("用5g网络，5V5，1V1对战，985元，996个", "用五g网络，五V五，一V一对战，九百八十五元，九百九十六个"),
        ("100+200吗，C++好", "一百加两百吗，C++好"),
        ("30年后，100年，2000年前", "三十年后，一百年，两千年前"),
        ("这是A.然后走。OK.我来。He left.Then说", "这是A。然后走。OK。我来。He left。Then说"),
        ("1. 打开。2. 关上。", "一。打开。二。关上。"),
        ("地址192.168.0.1，3.14", "地址一九二点一六八点零点一，三点一四"),
        ("10.1放假，11.11大促，在12.5举行", "十月一日放假，十一月十一日大促，在十二月五日举行"),
        ("2-3年级，打120，10.5分", "二到三年级，打幺二零，十点五分"),
        ("没有数字，也没有点～好的", "没有数字，也没有点～好的"),
        (
            "今天是12.25，截止日期为12.31，为10.15和10.16",
            "今天是十二月二十五日，截止日期为十二月三十一日，为十月十五日和十月十六日",
        ),
        ("2次元，2次列车", "二次元，二次列车"),
    ],
)
def test_chinese_that_wetext_reads_well_stays(front: CosyVoiceFrontEnd, text: str, spoken: str):
    assert front.text_normalize(text, split=False) == spoken
