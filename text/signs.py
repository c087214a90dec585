"""Signs between and before numbers as words, in Chinese and English."""

import re
from functools import partial
from typing import NamedTuple

from text.rules import Match, Rule


class Sign(NamedTuple):
    """How a sign is written once `text.typography.fold` is through, as a pattern, and how it is read."""

    pattern: str
    zh: str
    en: str
    example_zh: str  # given => wanted
    example_en: str
    untouched: str = ""


_L, _R = r"(?<=[\w)%°℃]) ?", r" ?(?=[\w(.$€£¥-])"  # something on both sides
_ALONE = (
    r"(?<![A-Za-z\d%°℃~/=<>年月日号点时分秒元-])(?<![A-Za-z\d] )"  # nothing before it that it could be compared with
)

# fmt: off
SIGNS = [
    Sign(f"{_L}>={_R}", "大于等于", "is greater than or equal to",
         "x >= 5 => x大于等于五", "5 ≥ 4 => five is greater than or equal to four"),
    Sign(f"{_L}<={_R}", "小于等于", "is less than or equal to",
         "y≤3 => y小于等于三", "x <= 3 => x is less than or equal to three"),
    Sign(f"{_L}!={_R}", "不等于", "is not equal to", "5≠4 => 五不等于四", "5 != 4 => five is not equal to four", "! = 5"),
    Sign(rf"(?:(?<=[\d)%°℃π])|(?<=\b[A-Za-z])) ?≈{_R}", "约等于", "is approximately equal to",
         "π≈3.14 => π约等于三点一四", "x ≈ 3 => x is approximately equal to three"),
    Sign(f"{_ALONE}>= ?(?=\\d)", "大于等于", "at least", "（≥5） => 大于等于五", "(≥ 5 cats) => (at least five cats)"),
    Sign(f"{_ALONE}<= ?(?=\\d)", "小于等于", "at most", "（≤5） => 小于等于五", "(≤ 5 cats) => (at most five cats)"),
    Sign(f"(?:{_ALONE}~|≈) ?(?=[\\d$€£¥])", "约", "approximately",
         "用了~5天 => 用了约五天", "~5 or ≈ 6 => approximately five or approximately six", "3~5"),
    Sign(r"(?<=[\w)%°℃]) ?> ?(?=-?[$€£¥￥]?\d)|(?<=[\d%°℃]) ?> ?(?=[\w(])"
         r"|(?<=\b[A-Za-z]) ?> ?(?=[A-Za-z]\b)", "大于", "is greater than",
         "5＞4 => 五大于四", "x > 5 => x is greater than five", "Settings > General -> 5"),
    Sign(r"(?<=[\w)%°℃]) ?< ?(?=-?[$€£¥￥]?\d)|(?<=[\d%°℃]) ?< ?(?=[\w(])"
         r"|(?<=\b[A-Za-z]) ?< ?(?=[A-Za-z]\b)", "小于", "is less than",
         "气温<5度 => 气温小于五度", "3 < 5 => three is less than five", "<- 5"),
    Sign(f"{_ALONE}>(?=[$€£¥￥]?\\d)", "大于", "more than", "（>5） => 大于五", "(>5 cats) => (more than five cats)", "=>5"),
    Sign(f"{_ALONE}<(?=[$€£¥￥]?\\d)", "小于", "less than", "（<5） => 小于五", "(<5 cats) => (less than five cats)", "<-5"),
    Sign(r"(?<![\w)+])\+ ?(?=\d)(?!\d{1,3}[ -]\(?\d|\d{8})", "正", "plus", "温度+5℃ => 温度正五摄氏度", "+5°C => plus five degrees Celsius", "C++ 5"),
    Sign(r" ?± ?(?=\d)", "正负", "plus or minus", "误差±5% => 误差正负百分之五", "3 ± 2 => three plus or minus two"),
    Sign(r"(?<=[\d)]) ?[×✕] ?(?=[\d(])|(?<=\d)(?<!\b0) ?[*x] ?(?=\d)", "乘", "times",
         "2*3 => 二乘三", "2 × 3 => two times three", "a * b"),
    Sign(r"(?:(?<=[\d)²³方])|(?<=\b[A-Za-z])) ?= ?(?=-?[\d(])", "等于", "equals",
         "2+3=5 => 二加三等于五", "6×7=42 => six times seven equals forty two", "a = b"),
    Sign(r"(?<=[\d)]) ?÷ ?(?=[\d(])", "除以", "divided by", "6÷2 => 六除以二", "6 ÷ 2 => six divided by two"),
    Sign(r"√ ?(?=\d)", "根号", "the square root of", "√9 => 根号九", "√9 => the square root of nine"),
]
# fmt: on

# Left as it is: nobody reads a URL out, and parts of one mean nothing
URL = r"(?<![A-Za-z0-9])(?:https?://|www\.)[A-Za-z0-9](?:[A-Za-z0-9./_?=&%#:~+-]*[A-Za-z0-9/])?"
# What people say of an address: mail, and a site by its name and ending
ADDRESS = (
    r"(?<![A-Za-z0-9._-])[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]+"
    r"|(?<![A-Za-z0-9.])(?:[A-Za-z0-9-]+\.)+(?:com|cn|net|org|edu|gov|io)(?![A-Za-z0-9])"
    r"(?:/[A-Za-z0-9./_-]*[A-Za-z0-9])?"
)
_IN_ADDRESS = {
    ".": ("点", "dot"), "@": ("艾特", "at"), "-": ("杠", "dash"), "_": ("下划线", "underscore"), "/": ("斜杠", "slash"),
    ":": ("冒号", "colon"), "?": ("问号", "question mark"), "=": ("等于", "equals"), "&": ("和", "and"), "+": ("加", "plus"),
}  # fmt: skip


def spoken_address(address: str, language: str) -> str:
    """A web or mail address with its signs as words and its digits apart."""
    if language == "zh":
        return "".join(_IN_ADDRESS[char][0] if char in _IN_ADDRESS else char for char in address)
    words = (f" {_IN_ADDRESS[char][1]} " if char in _IN_ADDRESS else char for char in address)
    return " ".join(re.sub(r"(\d)", r" \1 ", "".join(words)).split())


def sign_rules(language: str) -> list[Rule]:
    """The signs as rules of a language, "zh" or "en"."""
    chinese = language == "zh"
    examples = [(sign, sign.example_zh if chinese else sign.example_en) for sign in SIGNS]
    return [
        Rule(sign.pattern, sign.zh if chinese else partial(_apart, sign.en), *example.split(" => "), sign.untouched)
        for sign, example in examples
    ]


def _apart(words: str, match: Match) -> str:
    """The words with a blank behind them and, but for the start of a bracket, one before them."""
    inside = match.string[match.start() - 1 : match.start()] in ("", "(", "[", '"', "“")
    return f"{words} " if inside else f" {words} "
