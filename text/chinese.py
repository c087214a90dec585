"""Chinese words of numbers, amounts of money and codes, as text/chinese_rules.py asks for them."""

import re

from text.rules import Match

DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
CODE_DIGITS = str.maketrans("0123456789", "零幺二三四五六七八九")  # as a telephone number is read
CURRENCIES = {
    **dict.fromkeys(["¥", "￥", "RMB", "CNY"], "元"),
    **dict.fromkeys(["$", "US$", "USD"], "美元"),
    **dict.fromkeys(["HK$", "HKD"], "港元"),
    **dict.fromkeys(["€", "EUR"], "欧元"),
    **dict.fromkeys(["£", "GBP"], "英镑"),
    **{"NT$": "新台币", "A$": "澳元", "AU$": "澳元", "C$": "加元", "S$": "新加坡元", "JPY": "日元"},
}
_ABBREVIATIONS = {
    **{"Mr": "Mister ", "Mrs": "Missis ", "Dr": "Doctor ", "Prof": "Professor ", "No": "number ", "no": "number "},
    **{"e.g": "例如", "i.e": "也就是", "Ph.D": "PhD"},
}


def cardinal(number: int) -> str:
    """A whole number below 100 000 000 in Chinese."""
    high, low = divmod(number, 10_000)
    named = "".join(digit + unit for digit, unit in zip(f"{low:04}", "千百十 ", strict=True))
    spoken = re.sub("(?:0[千百十 ])+", "0", named).rstrip("0 ").translate(DIGITS)
    spoken = f"{cardinal(high)}万{spoken}" if high else spoken.lstrip("零")
    return re.sub("^一十", "十", spoken) or "零"


def code(match: Match) -> str:
    """The digits of the last group one by one, with a pause for each blank or hyphen; what is before it stays."""
    digits = match[match.lastindex or 0]
    spoken = re.sub("[ ()（）-]+", "，", digits.replace("+", "加")).strip("，").translate(CODE_DIGITS)
    return match[0][: len(match[0]) - len(digits)] + spoken


def digits(match: Match) -> str:
    """The match with its digits one by one, and without what groups thousands."""
    return match[0].translate(DIGITS)


def span(match: Match) -> str:
    """A range, where the second number is the greater one; 5-3 may be anything."""
    return f"{match[1]}到{match[2]}" if float(match[1]) < float(match[2]) else match[0]


def money(match: Match) -> str:
    """An amount with the currency behind it that is written, else that of its sign."""
    sign, amount, other, size, unit = match.groups()
    return f"{amount}{'到' + other if other else ''}{size or ''}{unit or CURRENCIES[sign]}"


def without_commas(match: Match) -> str:
    """An amount without the commas in it; a decimal that wetext would take for a month has its dot as a word."""
    return re.sub("[,，]", "", match[1]) + (match[2] or "").replace(".", "点").translate(DIGITS)


def ratio(match: Match) -> str:
    """Two numbers of which the first is the greater one, which makes no fraction and no date."""
    return f"{match[1]}比{match[2]}" if int(match[1]) >= int(match[2]) > 12 else match[0]


def fraction(match: Match) -> str:
    """1/2 or 3 1/2 in words."""
    whole, upper, lower = (number and cardinal(int(number)) for number in match.groups())
    return f"{whole + '又' if whole else ''}{lower}分之{upper}"


def abbreviation(match: Match) -> str:
    """An abbreviation without its dot, in full where it has a reading."""
    short = match[0].strip(". ,")
    return _ABBREVIATIONS.get(short, f"{short} ")
