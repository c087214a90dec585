"""English words of numbers, amounts of money, decades and codes, as text/english_rules.py asks for them."""

import re
from functools import lru_cache

from cosyvoice.cli.text import LONGEST_NUMBER
from text.rules import Match

SIZES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
CURRENCIES = {
    **{"$": "dollar", "USD": "dollar", "€": "euro", "EUR": "euro", "£": "pound", "GBP": "pound", "¢": "cent"},
    **{"¥": "yen", "￥": "yen", "JPY": "yen", "CNY": "yuan", "RMB": "yuan", "₹": "rupee"},
    **{"US$": "US dollar", "A$": "Australian dollar", "AU$": "Australian dollar", "C$": "Canadian dollar"},
    **{"CA$": "Canadian dollar", "HK$": "Hong Kong dollar", "NZ$": "New Zealand dollar", "S$": "Singapore dollar"},
    **{"NT$": "Taiwan dollar"},
}
_UNCHANGED = ("yen", "yuan")  # in the plural
_PERIODS = {"mo": "month", "yr": "year", "wk": "week", "hr": "hour"}
_DECADES = "tens twenties thirties forties fifties sixties seventies eighties nineties".split()
ABBREVIATIONS = {
    **{"no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "p": "page", "pp": "pages"},
    **{"vol": "volume", "ch": "chapter", "approx": "approximately", "sec": "section", "ext": "extension"},
    **{"prof": "professor", "sen": "senator", "vs": "versus", "e.g": "for example", "i.e": "that is"},
    **{"etc": "et cetera"},
}
LIMITS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
ROMAN = {numeral: str(n) for n, numeral in enumerate("I II III IV V VI VII VIII IX X XI XII XIII XIV XV".split(), 1)}


def words(number: str) -> str:
    """A number in words, without commas and hyphens; digit by digit where it is too long for a name."""
    whole, _, part = number.replace(",", "").partition(".")
    if len(whole) > LONGEST_NUMBER:
        return apart(number)
    spoken = _cardinal(int(whole)).replace(",", "").replace("-", " ")
    return f"{spoken} point {apart(part)}" if part else spoken


@lru_cache(maxsize=1024)
def _cardinal(number: int) -> str:
    from num2words import num2words  # 0.1 s

    return num2words(number)


def apart(digits: str) -> str:
    """Digits in words one by one, with a pause between their groups."""
    groups = (" ".join(map(words, group)) for group in re.findall(r"\d+", digits))
    return ("plus " if digits[:1] == "+" else "") + ", ".join(groups)


def code(match: Match) -> str:
    """The last group with its numbers digit by digit; what is before it stays."""
    codes = match[match.lastindex or 0]
    before = match[0][: len(match[0]) - len(codes)].replace("#", "number ")
    blank = " " if before[-1:].isalpha() else ""
    return before + blank + re.sub(r"[+(]?\d[\d() -]*\d|\d", lambda number: apart(number[0]), codes)


def money(match: Match) -> str:
    """One amount or two with their size and currency, and what it is for."""
    sign, low, high, size, period = match.groups()
    name, (whole, _, part) = CURRENCIES[sign], low.partition(".")
    size = SIZES.get(size.lower(), size) if size else ""
    if len(part) == 2 and not high and not size:
        small = _several({"pound": "penny"}.get(name, "cent"), part)
        spoken = [f"{words(whole)} {_several(name, whole)}"] if whole != "0" or part == "00" else []
        spoken += [f"{words(part)} {small}"] if part != "00" else []
    else:
        spoken = [_short(low), *(["to", _short(high)] if high else []), *([size] if size else [])]
        spoken.append(_several(name, "2" if high or size else low))
    return " ".join(spoken) + (f" per {_PERIODS.get(period, period)}" if period else "")


def _short(amount: str) -> str:
    """An amount in words, without noughts at the end of its decimals."""
    return words(amount.rstrip("0").rstrip(".") if "." in amount else amount)


def _several(name: str, amount: str) -> str:
    """The name of a currency in the singular or plural."""
    if name in _UNCHANGED or amount.lstrip("0") == "1":
        return name
    return "pence" if name == "penny" else f"{name}s"


def decades(match: Match) -> str:
    """Every decade in the match by its name: 1990s, the '90s, 1900s."""
    text = re.sub(r"\b2000['’]?s", "two thousands", match[0])
    text = re.sub(r"\b(\d\d)00['’]?s", r"\1 hundreds", text)
    text = re.sub(r"\b(\d\d)([1-9])0['’]?s", lambda found: f"{found[1]} {_DECADES[int(found[2]) - 1]}", text)
    return re.sub(r"['’]?\b([2-9])0['’]?s", lambda found: _DECADES[int(found[1]) - 1], text)


def span(match: Match) -> str:
    """Two numbers, where the second is the greater one, or a year and the last digits of a later one."""
    low, high = (float(number.replace(",", "")) for number in match.groups())
    later = len(match[1]) == 4 and len(match[2]) == 2 and high > low % 100
    return f"{match[1]} to {match[2]}" if later or low < high and "/" not in match[0] else match[0]


def no_fraction(match: Match) -> str:
    """24/7, 9/11, 50/50 and 80/20 without the stroke; any other fraction stays."""
    first, second = map(int, match.groups())
    pair = (first, second) in ((24, 7), (9, 11)) or first >= second >= 20 and first + second in (40, 100)
    return f"{first} {second}" if pair else match[0]


def power(match: Match) -> str:
    """A raised 2 or 3."""
    return " squared" if match[0] == "²" else " cubed"


def abbreviation(match: Match) -> str:
    """An abbreviation in full, with a capital where it has one."""
    short = match[0].strip(". ")
    full = ABBREVIATIONS[short.lower()]
    apart_from_next = match[0].endswith(" ") or match.string[match.end() : match.end() + 1].isdigit()
    return (full.capitalize() if short[0].isupper() else full) + (" " if apart_from_next else "")
