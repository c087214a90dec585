"""Units of measurement behind a number, as words. No Latin letter follows a unit: 30 seconds are no 30 s."""

import re
from collections.abc import Iterable

from text.rules import Match

# Chinese and English (singular) of each symbol. English leaves single letters to wetext: they are words too.
# fmt: off
UNITS = {
    "nm": ("纳米", "nanometer"), "μm": ("微米", "micrometer"), "um": ("微米", "micrometer"), "mm": ("毫米", "millimeter"),
    "cm": ("厘米", "centimeter"), "dm": ("分米", "decimeter"), "m": ("米", "meter"), "km": ("公里", "kilometer"),
    "μg": ("微克", "microgram"), "ug": ("微克", "microgram"), "mg": ("毫克", "milligram"), "g": ("克", "gram"),
    "kg": ("千克", "kilogram"), "t": ("吨", ""), "lb": ("磅", "pound"), "lbs": ("磅", "pound"), "oz": ("盎司", "ounce"),
    "mL": ("毫升", "milliliter"), "ml": ("毫升", "milliliter"), "cl": ("厘升", "centiliter"), "dL": ("分升", "deciliter"),
    "L": ("升", "liter"), "l": ("升", ""), "ft": ("英尺", "foot"), "mi": ("英里", "mile"), "yd": ("码", "yard"),
    "ha": ("公顷", "hectare"),
    "ms": ("毫秒", "millisecond"), "s": ("秒", ""), "sec": ("秒", "second"), "min": ("分钟", "minute"), "h": ("小时", "hour"),
    "hr": ("小时", "hour"), "hrs": ("小时", "hour"),
    "mW": ("毫瓦", "milliwatt"), "W": ("瓦", "watt"), "kW": ("千瓦", "kilowatt"), "MW": ("兆瓦", "megawatt"),
    "Wh": ("瓦时", "watt hour"), "kWh": ("千瓦时", "kilowatt hour"), "MWh": ("兆瓦时", "megawatt hour"),
    "mV": ("毫伏", "millivolt"), "V": ("伏", "volt"), "kV": ("千伏", "kilovolt"), "mA": ("毫安", "milliampere"),
    "Ah": ("安时", "ampere hour"), "mAh": ("毫安时", "milliampere hour"), "Ω": ("欧姆", "ohm"), "kΩ": ("千欧", "kiloohm"),
    "Hz": ("赫兹", "hertz"), "kHz": ("千赫兹", "kilohertz"), "MHz": ("兆赫兹", "megahertz"), "GHz": ("吉赫兹", "gigahertz"),
    "Pa": ("帕", "pascal"), "hPa": ("百帕", "hectopascal"), "kPa": ("千帕", "kilopascal"), "MPa": ("兆帕", "megapascal"),
    "mmHg": ("毫米汞柱", "millimeter of mercury"), "mol": ("摩尔", "mole"), "mmol": ("毫摩尔", "millimole"),
    "μmol": ("微摩尔", "micromole"), "umol": ("微摩尔", "micromole"), "cal": ("卡", "calorie"), "kcal": ("千卡", "kilocalorie"),
    "kJ": ("千焦", "kilojoule"), "dB": ("分贝", "decibel"), "lx": ("勒克斯", "lux"),
    "mph": ("英里每小时", "mile per hour"), "rpm": ("转每分钟", "revolution per minute"),
}
# fmt: on
UNITS |= {symbol.upper(): UNITS[symbol] for symbol in ("kg", "km", "cm", "mm", "ml")} | {"Kg": UNITS["kg"]}
_TIMES = ("s", "sec", "min", "h", "hr")
_UNCHANGED = ("hertz", "kilohertz", "megahertz", "gigahertz", "lux")  # in the plural
_POWERS = {"2": ("平方", "square "), "²": ("平方", "square "), "3": ("立方", "cubic "), "³": ("立方", "cubic ")}
_NAMED_BY = "网手时信基套技通用"  # what 5g is of, where it is no weight

NUMBER = r"(?<![\d.,])\d+(?:,\d{3})*(?:\.\d+)?"


def _any(symbols: Iterable[str]) -> str:
    return "|".join(sorted(symbols, key=len, reverse=True))


_ENGLISH = {symbol for symbol, words in UNITS.items() if words[1]}
_END = r"(?![A-Za-zμΩ\d/²³]|['’][a-z])"
CHINESE_UNIT = (
    rf"(?<![A-Za-z\d.])({NUMBER}(?:[-~到至]{NUMBER})?[百千万亿]*)( ?)({_any(UNITS)})([²³23]?)"
    rf"(?:/({_any(UNITS)})([²³23]?))?{_END}"
)
ENGLISH_UNIT = rf"({NUMBER}) ?({_any(_ENGLISH)})([²³23]?)(?:/({_any(_ENGLISH | {'s', 'l'})})([²2]?))?{_END}"


def chinese_unit(match: Match) -> str:
    """An amount with its unit in Chinese: 60km/h as 每小时60公里, 5m² as 5平方米."""
    amount, blank, symbol, power, divisor, squared = match.groups()
    before, after = match.string[: match.start()], match.string[match.end() : match.end() + 1]
    if symbol == "g" and amount in "23456" and after and after in _NAMED_BY:  # 5g网络
        return match[0]
    if len(symbol) == 1 and not blank and re.search("[A-Za-z] $", before):  # iPhone 5s
        return match[0]
    unit = (_POWERS[power][0] if power else "") + UNITS[symbol][0]
    if not divisor:
        return amount + unit
    per = UNITS[divisor][0]
    if squared and divisor in _TIMES:
        return f"{amount}{unit}每二次方{per}"
    per = (_POWERS[squared][0] if squared else "") + per
    return f"每{per}{amount}{unit}" if divisor in _TIMES else f"{amount}{unit}每{per}"


def english_unit(match: Match) -> str:
    """An amount with its unit in English."""
    amount, symbol, power, divisor, squared = match.groups()
    name, rest = re.fullmatch("(.*?)((?: of | per ).*)?", UNITS[symbol][1]).groups("")
    if amount != "1" and name not in _UNCHANGED:
        name = "feet" if name == "foot" else f"{name}s"
    spoken = f"{amount} {_POWERS[power][1] if power else ''}{name}{rest}"
    per = {"s": "second", "l": "liter"}.get(divisor) or (UNITS[divisor][1] if divisor else "")
    return spoken + (f" per {per}" if per else "") + (" squared" if squared else "")
