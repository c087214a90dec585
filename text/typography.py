"""Typography beside digits as plain ASCII: dashes, colons, blanks, quotes, full-width signs, fractions in one sign."""

import unicodedata

from text.rules import Match, Rule, apply

_DASH = "\u2010-\u2015\u2212\ufe58\ufe63\uff0d-"  # hyphens, figure, en and em dash, minus; small and full-width ones
_MINUS = "\u2212\ufe63\uff0d"  # never a pause
_SHORT_DASH = "\u2010-\u2013"  # no em dash, which is a pause
_MEASURED = "[\\d%‰°℃℉元块年月日号点时分秒万亿度岁米斤]"  # beside it a dash or a tilde makes a range
_MONEY = "$€£¥￥"


def _shifted(match: Match) -> str:
    """Full-width letters as the usual ones."""
    return unicodedata.normalize("NFKC", match[0])


def _digit(match: Match) -> str:
    return str(unicodedata.decimal(match[0]))


def _numeral(match: Match) -> str:
    return str(int(unicodedata.numeric(match[0])))


def _range(match: Match) -> str:
    """Two clock times or a smaller and a greater number without blanks around the dash."""
    clocks = [":" in number for number in match.groups()]
    rising = not any(clocks) and float(match[1]) < float(match[2])
    return f"{match[1]}-{match[2]}" if all(clocks) or rising else match[0]


def _fraction(match: Match) -> str:
    """3½ as 3 1/2."""
    plain = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {plain}" if match[1] else plain


# fmt: off
RULES = [
    Rule("[\u00ad\u200b\u2060\ufeff]", "", "1\u200b0", "10", "1 0"),
    Rule(r"[^\S\n\t\x20]", " ", "1\u00a0000\u2009000", "1 000 000", "1 0"),
    Rule("(?<=[０-９])，(?=[０-９]{3}(?![０-９]))", ",", "１０，０００", "10,000", "１，２"),
    Rule(r"[^\D0-9]", _digit, "２٣", "23", "①"),
    Rule("[Ａ-Ｚａ-ｚ㎀-㏟]", _shifted, "Ｂ５ 3㎏", "B5 3kg", "（）"),
    Rule("(?<=\\d)( ?)\u00b5", "\\1\u03bc", "5 \u00b5m", "5 \u03bcm", "a \u00b5"),
    Rule("[Ⅰ-Ⅻ]", _numeral, "第Ⅳ期", "第4期", "IV"),
    Rule("(?:(\\d) ?)?([¼-¾⅐-⅞])", _fraction, "3½, a ¾", "3 1/2, a 3/4", "1/2"),
    Rule(r"(?<=\d) ?[％%]|％(?=\d)", "%", "5％, 5 %", "5%, 5%", "一％"),
    Rule(r"(?<=\d)．(?=\d)", ".", "3．5", "3.5", "完．"),
    Rule(r"＋(?= ?\d)|(?<=\d)＋", "+", "＋5", "+5", "甲＋乙"),
    Rule(r"＝(?= ?-?\d)|(?<=\d)＝|(?<=\d )＝", "=", "2＝ 2", "2= 2", "甲＝乙"),
    Rule(rf"＞(?= ?-?[{_MONEY}]?\d|＝)|(?<=\d)＞|(?<=\d )＞", ">", "5＞4", "5>4", "文件＞打开"),
    Rule(rf"＜(?= ?-?[{_MONEY}]?\d|＝)|(?<=\d)＜|(?<=\d )＜", "<", "5 ＜ 6", "5 < 6", "甲＜乙"),
    Rule(r"[≥⩾≧]|>＝", ">=", "≥5, >＝5", ">=5, >=5", ">5"),
    Rule(r"[≤⩽≦]|<＝", "<=", "≤5", "<=5", "<5"),
    Rule(r"≠|！＝", "!=", "5≠4", "5!=4", "好！"),
    Rule(r"[≒≅]", "≈", "≅5", "≈5", "~5"),
    Rule(r"(?<=\d)／(?=\d)", "/", "1／2", "1/2", "和／或"),
    Rule(r"＄(?= ?\d)", "$", "＄5", "$5", "＄a"),
    Rule(r"(?<=\d)[’′＇](?= ?\d|s\b)|[‘’′](?=\d\d?s|\d\ds?\b)", "'", "6’2, ’90s, 80’s", "6'2, '90s, 80's", "‘6’ and it’s"),
    Rule(r"(?<=\d)″|(?<='\d)[”“]|(?<='\d\d)[”“]|(?<=' \d)[”“]", '"', "6'2”", "6'2\"", "“5”"),
    Rule(r"(?<![\d:：])(\d{1,3})[：∶](\d{1,3})[：∶](\d{1,3})(?!\d)", r"\1:\2:\3", "8：30：15, 5：3：2", "8:30:15, 5:3:2", "1:2：3"),
    Rule(r"(?<!\d)(?<!\d[:：])(\d{1,3})[：∶](\d{1,3})(?![\d元块个人年月%：]|\.\d)", r"\1:\2", "8：30", "8:30", "套餐1：100元"),
    Rule(r"(?<=\d)：(?=\d)", "： ", "套餐1：100元", "套餐1： 100元", "注：5"),
    Rule(rf"({_MEASURED}|\d[A-Za-z]{{1,2}})[~～〜∼˜](?=[\d{_MONEY}{_DASH}])", r"\1~", "3～5天", "3~5天", "好～5"),
    Rule(rf"({_MEASURED})[{_DASH}]{{1,2}}(?=[\d{_MONEY}])", r"\1-", "10–12, 9:00－17:00", "10-12, 9:00-17:00", "我——5"),
    Rule(rf"(\d[A-Za-z]{{1,2}}|\d [ap]\.?m\.?)[{_SHORT_DASH}{_MINUS}](?=\d)", r"\1-", "5kg–10kg", "5kg-10kg", "in 5s—10 of"),
    Rule(rf"(?<=\d) [{_MINUS}] (?=\d)", " - ", "5 − 3", "5 - 3", "a − 3"),
    Rule(rf"(?<![A-Za-z\d)])[{_MINUS}] ?(?=[{_MONEY}]?\d)", "-", "−5, －10, −$5", "-5, -10, -$5", "a−5"),
    Rule(rf"(?<![^\s(（\[])[{_SHORT_DASH}](?=\d)|(?<!\w)[{_SHORT_DASH}](?=\d)|[{_SHORT_DASH}](?=\d+(?:\.\d+)? ?[°℃度])", "-",
         "at –5, 气温–5℃", "at -5, 气温-5℃", "left – 5 of"),
    Rule(rf"(?<![\d.:/-])(\d+(?:\.\d+)?|\d\d?:\d\d) [{_DASH}] (\d\d?:\d\d|\d+(?:\.\d+)?)(?![\d:/.]*\d)", _range,
         "9:00 – 17:00, 3 - 5", "9:00-17:00, 3-5", "5 - 3"),
]
# fmt: on


def fold(text: str) -> str:
    """The text in which what stands beside digits is written in ASCII; other punctuation stays."""
    return apply(RULES, text)
