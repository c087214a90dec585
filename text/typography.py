"""Typography beside digits as plain ASCII: dashes, colons, blanks, quotes, full-width signs, fractions in one sign."""

import re
import unicodedata

Match = re.Match[str]

_DASH = (
    "\u2010-\u2015\u2212\ufe58\ufe63\uff0d-"  # hyphens, figure dash, en and em dash, minus; small and full-width ones
)
_TILDES = "~～〜∼˜"
_BLANKS = re.compile(r"[^\S\n\t\x20]")  # NBSP, thin and ideographic blanks
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_FULL_WIDTH = re.compile("[Ａ-Ｚａ-ｚ]")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")  # full-width, Arabic and others
_CLOCK = re.compile(r"\d\d?:\d\d")
_ENDS_NUMBER = r"[\d%‰°℃℉元块年月日号点时分秒万亿度岁米斤]"  # beside it a dash or tilde makes a range

# (pattern, what takes its place), in this order
_FOLDS: list[tuple[str, str]] = [
    (r"(?<=\d) ?[％%]|％(?=\d)", "%"),
    (r"(?<=\d)．(?=\d)", "."),
    (r"＋(?= ?\d)|(?<=\d)＋", "+"),
    (r"＝(?= ?-?\d)|(?<=\d)＝|(?<=\d )＝", "="),
    (r"＞(?= ?-?\d)|(?<=\d)＞|(?<=\d )＞", ">"),
    (r"＜(?= ?-?\d)|(?<=\d)＜|(?<=\d )＜", "<"),
    (r"[≥⩾≧]|＞＝", ">="),
    (r"[≤⩽≦]|＜＝", "<="),
    (r"≠|！＝", "!="),
    (r"[≒≅]", "≈"),
    (r"(?<=\d)／(?=\d)", "/"),
    (r"＄(?= ?\d)", "$"),
    (r"(?<=\d)[’′＇](?= ?\d|s\b)", "'"),
    (r"[‘’′](?=\d\d?s|\d\ds?\b)", "'"),
    (r"(?<=\d)″|(?<='\d)[”“]|(?<='\d\d)[”“]|(?<=' \d)[”“]", '"'),
    # 8：30 and 3：2, but not 套餐1：100元
    (r"(?<![\d:：])(\d{1,3})[：∶](\d{1,3})[：∶](\d\d)(?!\d)", r"\1:\2:\3"),
    (r"(?<!\d)(?<!\d[:：])(\d{1,3})[：∶](\d{1,3})(?![\d元块个人年月%：]|\.\d)", r"\1:\2"),
    (r"(?<=\d)：(?=\d)", "： "),
    (rf"({_ENDS_NUMBER}|\d[A-Za-z]{{1,2}})[{_TILDES}](?=[\d$€£¥￥{_DASH}])", r"\1~"),
    # 10–12, 9:00–17:00, 555‑123‑4567; 10月—12月, 5kg–10kg. An em dash after a word is a pause.
    (rf"({_ENDS_NUMBER})[{_DASH}]{{1,2}}(?=[\d$€£¥￥])", r"\1-"),
    (r"(\d[A-Za-z]{1,2}|\d [ap]\.?m\.?)[\u2010-\u2013\u2212\uff0d](?=\d)", r"\1-"),
    (r"(?<=\d) [\u2212\uff0d] (?=\d)", " - "),
    # −5 °C, －10℃; a longer dash only behind a blank
    (r"(?<![A-Za-z\d)])[\u2212\ufe63\uff0d] ?(?=[$€£¥￥]?\d)", "-"),
    (r"(?<![^\s(（\[])[\u2010-\u2013](?=\d)|(?<!\w)[\u2010-\u2013](?=\d)", "-"),
    (r"[\u2010-\u2013](?=\d+(?:\.\d+)? ?[°℃度])", "-"),
]
_COMPILED = [(re.compile(pattern), plain) for pattern, plain in _FOLDS]
_SPACED_RANGE = re.compile(
    rf"(?<![\d.:/-])(\d+(?:\.\d+)?|\d\d?:\d\d) [{_DASH}] (\d\d?:\d\d|\d+(?:\.\d+)?)(?![\d:/.]*\d)"
)
_FRACTION = re.compile(r"(?:(\d) ?)?([¼-¾⅐-⅞])")
_SQUARED_UNITS = re.compile("[㎀-㏟]")
_NUMERAL = re.compile("[Ⅰ-Ⅻ]")


def fold(text: str) -> str:
    """The text in which what stands beside digits is written in ASCII; other punctuation stays."""
    text = _INVISIBLE.sub("", _BLANKS.sub(" ", text))
    text = _OTHER_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
    text = _FULL_WIDTH.sub(lambda match: chr(ord(match[0]) - 0xFEE0), text)
    for pattern, plain in _COMPILED:
        text = pattern.sub(plain, text)
    text = _SPACED_RANGE.sub(_range, text)
    text = _FRACTION.sub(_fraction, text)
    text = _SQUARED_UNITS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return _NUMERAL.sub(lambda match: str(int(unicodedata.numeric(match[0]))), text)


def _range(match: Match) -> str:
    """Two clock times or a smaller and a greater number without blanks around the dash."""
    clocks = [bool(_CLOCK.fullmatch(number)) for number in match.groups()]
    rising = not any(clocks) and float(match[1]) < float(match[2])
    return f"{match[1]}-{match[2]}" if all(clocks) or rising else match[0]


def _fraction(match: Match) -> str:
    """3½ as 3 1/2."""
    plain = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {plain}" if match[1] else plain
