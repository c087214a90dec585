"""How English texts are read before wetext reads what is left: codes, money, ranges, decades, units, abbreviations."""

import re

from cosyvoice.cli.text import number_words
from text.rules import Match, Rule
from text.signs import ADDRESS, sign_rules, spoken_address
from text.units import ENGLISH_UNIT, english_unit

# Left as they are: TV, which wetext calls television; "No." and Sun and Sat where they are no number and no day
UNTOUCHED = r"\bTV\b|\b[Nn]o\.(?! ?\d)|\b(?:Sun|Sat)\b(?!\.?,? ?\d|[.-]|,? (?:at|to|and|through|morning|afternoon|evening|night)\b)(?<!on ...)"

_N = r"\d+(?:,\d{3})*(?:\.\d+)?"
_ALONE = r"(?<![\w.,:/$€£¥+-])"  # a number starts here
_DONE = r"(?![\w]|[.,:/-]\d)"  # and ends here

# A number is a code behind one of these
_CODES = (
    r"(?:[Cc]odes?|ZIP|[Zz]ip|[Pp]ost ?codes?|[Pp]ass(?:code|word)|PIN|[Pp]in|OTP|IDs?|SSN|VIN|ISBN|[Ee]xt(?:ension|\.)|[Hh]otline|"
    r"[Hh]elpline|[Ff]ax|[Tt]el(?:ephone|\.)?|[Pp]hone|[Mm]obile|[Cc]ell|WhatsApp|"
    r"(?:[Ff]light|[Oo]rder|[Aa]ccount|[Cc]ard|[Tt]racking|[Ss]erial|[Rr]eference|[Tt]icket|[Ii]nvoice|[Cc]ase|[Bb]ooking|[Pp]assport|"
    r"[Ll]icen[sc]e|[Pp]olicy|[Mm]ember(?:ship)?|[Ss]tudent|[Rr]outing|[Cc]onfirmation|[Ss]ecurity|[Pp]hone|[Ff]ax) (?:[Nn]umber|[Nn]o\.|#))"
)
_DIAL = r"(?:[Cc]all|[Dd]ial|[Tt]ext|[Rr]ing|[Pp]hone)(?:s|ed|ing)?"
_BETWEEN = r"(?:[ :#=]|\b(?:is|are|was|reads?|at|on|us|me|him|her|them|number|now|to|the|either|with|code|your|my|our)\b|\bno\.)+"
_CODE = r"\+?\d(?:[ -]?\d){2,}"
_LIST = rf"(?:(?:,? (?:or|and) |, |/){_CODE})*"
# ... but an amount before one of these, or, where one can call many, before any noun
_COUNTED = (
    r"(?! (?:dollars|euros|pounds|yen|cents|people|times|pages|words|letters|digits|years|days|weeks|months|hours|minutes|seconds|"
    r"miles|meters|percent|units|items|points|users|hundred|thousand|million|billion)\b)"
)
_THEN = "or|and|now|if|for|in|at|to|on|when|immediately|right|from|before|after|as|instead|again|today|any|toll|with|is|was|but|because|while|ext"

_STARTS = "It|He|She|We|They|You|I|This|That|The|But|And|So|In|On|At|If|When|Then|His|Her|Our|My"  # of a sentence

_SIZES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "￥": "yen", "₹": "rupee"}
_COUNTRIES = {
    "US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "HK": "Hong Kong",
    "NZ": "New Zealand", "S": "Singapore", "NT": "Taiwan",
}  # fmt: skip
_NAMES = {"USD": "$", "EUR": "€", "GBP": "£", "CNY": "yuan", "RMB": "yuan", "JPY": "¥"}
_PERIODS = {"mo": "month", "yr": "year", "wk": "week", "hr": "hour"}
_LASTS = r"(?:takes?|took|wait(?:s|ed|ing)?|last(?:s|ed|ing)?|runs|for) (?:about |only |just |another |up to )?"
_DECADES = "tens twenties thirties forties fifties sixties seventies eighties nineties".split()
_SHORT = {
    "no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "p": "page", "pp": "pages", "vol": "volume",
    "ch": "chapter", "approx": "approximately", "sec": "section",
}  # fmt: skip
_WORDS = {
    "Prof": "Professor",
    "Sen": "Senator",
    "vs": "versus",
    "e.g": "for example",
    "i.e": "that is",
    "etc": "et cetera",
}
_ROMAN = dict(zip("II III IV V VI VII VIII IX X XI XII XIII XIV XV".split(), range(2, 16), strict=True))


def words(number: str) -> str:
    """A number in words, without commas and hyphens."""
    whole, _, part = number.replace(",", "").partition(".")
    return " ".join(re.sub("[,-]", " ", number_words(whole)).split()) + (f" point {apart(part)}" if part else "")


def apart(digits: str) -> str:
    """Digits in words one by one, with a pause for what stands between their groups."""
    groups = (" ".join(number_words(digit) for digit in group) for group in re.findall(r"\d+", digits))
    return ("plus " if digits[:1] == "+" else "") + ", ".join(groups)


def _code(match: Match) -> str:
    """The last group as codes, digit by digit; what is before it stays."""
    codes = match[match.lastindex or 0]
    before = match[0][: len(match[0]) - len(codes)]
    return before + " " * before[-1:].isalpha() + re.sub(r"[+(]?\d[\d() -]*\d|\d", lambda code: apart(code[0]), codes)


def _short(amount: str) -> str:
    """An amount without noughts at its end, which would be read as "oh"."""
    return amount.rstrip("0").rstrip(".") if "." in amount else amount


def _money(match: Match) -> str:
    """One amount or two with their size and currency, and what it is for."""
    country, sign, low, high, size, period = match.groups()
    name = (f"{_COUNTRIES[country]} " if country else "") + _CURRENCIES[sign]
    size = _SIZES.get(size.lower(), size) if size else ""
    whole, _, part = low.partition(".")
    if len(part) == 2 and not high and not size and sign in "$€£":
        small = ("penny" if part == "01" else "pence") if sign == "£" else "cent" + "s" * (part != "01")
        spoken = [f"{words(whole)} {_several(name, whole)}"] * (whole != "0" or part == "00") + [
            f"{words(part)} {small}"
        ] * (part != "00")
    else:
        amount = words(_short(low)) + (f" to {words(_short(high))}" if high else "")
        spoken = [amount, *([size] if size else []), _several(name, "2" if high or size else low)]
    return " ".join(spoken) + (f" per {_PERIODS.get(period, period)}" if period else "")


def _several(name: str, amount: str) -> str:
    return name if amount == "1" or name.endswith("yen") else f"{name}s"


def _decades(match: Match) -> str:
    """Every decade in the match by its name."""
    return re.sub("['’]?([2-9])0['’]?s", lambda found: _DECADES[int(found[1]) - 1], match[0])


def _range(match: Match) -> str:
    """Two numbers, where the second is the greater one, or a year and the last digits of a later one."""
    low, high = (float(number.replace(",", "")) for number in match.groups())
    later = len(match[1]) == 4 and len(match[2]) == 2 and high > low % 100
    return f"{match[1]} to {match[2]}" if low < high or later else match[0]


# fmt: off
RULES = [
    Rule(ADDRESS, lambda match: spoken_address(match[0], "en"), "At www.a-b.com.", "At www dot a dash b dot com.", "The end.Then"),
    # codes: digit by digit
    Rule(rf"\b{_CODES}{_BETWEEN}(?:[A-Z]{{1,3}}-?)?({_CODE}{_LIST}){_DONE}{_COUNTED}", _code, "The code is 482913, zip 02139",
         "The code is four eight two nine one three, zip zero two one three nine", "the code has 300 lines"),
    Rule(rf"\b{_DIAL}{_BETWEEN}({_CODE}{_LIST}){_DONE}(?! (?!(?:{_THEN})\b)[a-z])", _code, "Dial 112 or 911", "Dial one one two or nine one one",
         "Call 300 people"),
    Rule(rf"{_ALONE}[1-9]\d{{0,2}}(?: \d{{3}})+(?! ?\d|[-.,:/]\d|\w)", lambda match: f"{int(match[0].replace(' ', '')):,}", "1 000 000 people", "one million people",
         "In 2019 300 people"),
    Rule(r"(?<![\w.,:/+-])((?:\d{4}[ -]){2,}\d{1,4}|\(\d{3}\) ?\d{3}[ -]\d{4}|\+\d{1,3}(?:[ -]\(?\d{1,5}\)?){2,5}|0\d{2,}(?:[ -]\d{2,})*|\d{11,})(?!\w|[.,:/-]\d)", _code,
         "4111 1111 1111 1111, +1 415 555 2671", "four one one one, one one one one, one one one one, one one one one, plus one, "
         "four one five, five five five, two six seven one", "1000 1300"),
    Rule(r"(?<=, )[A-Z]{2} (\d{5}(?:-\d{4})?)(?![\w-]|,\d)", _code, "Boston, MA 12345", "Boston, Massachusetts one two three four five", "In May, US 12 of"),
    Rule(r"(?<![\d-])(?<![\d)] )(555-\d{4})\b(?!-)", _code, "555-1234", "five five five, one two three four", "800-555-1234"),
    Rule(rf"\b(?!(?:{'|'.join(_NAMES)}))[A-Z]{{2,3}}-?(\d{{3,}}){_DONE}", _code, "flight CA1234", "flight CA one two three four", "mp3"),
    # money
    Rule(rf"{_ALONE}(?:({'|'.join(_NAMES)}) ?({_N})|({_N}) ?({'|'.join(_NAMES)}))(?!\w)", lambda m: _amount(m[1] or m[4], m[2] or m[3]),
         "USD 5, 300 RMB", "five dollars, three hundred yuan"),
    Rule(rf"(?<![\w.,$€£])({_N}) ?([$€£¥])(?!\w)", r"\2\1", "3€", "three euros"),
    Rule(rf"(?<![\w$€£])((?:{'|'.join(_COUNTRIES)})(?=\$))?([$€£¥￥₹]) ?({_N})(?:[kKmMbB]n?(?=-))?(?:-[$€£]?({_N}))? ?((?:k|K|m|M|bn|b|B|tn|thousand|million|billion|"
         r"trillion)\b)?(?:/(?=[a-z])(\w+))?(?!\w|[.,]\d)", _money, "$3.50, A$5, $10-15k, €5/hr",
         "three dollars fifty cents, five Australian dollars, ten to fifteen thousand dollars, five euros per hour", "$x"),
    Rule(r"(?<![\w.,])(\d+) ?¢", lambda match: f"{match[1]} cent{'s' * (match[1] != '1')}", "50¢", "fifty cents"),
    # fractions that are none, and ranges
    Rule(r"(?<![\w.,/])(24/7|9/11|\d\d/\d\d)(?![\w/]|[.,]\d)", lambda match: match[1].replace("/", " ") if match[1] in ("24/7", "9/11") or
         sum(map(int, match[1].split("/"))) in (100, 40) else match[0], "Open 24/7, split 50/50", "Open twenty four seven, split fifty fifty"),
    Rule(r"(?<![\w.,/])(?:(5|10|100)/(?=\1(?![\w/]|[.,]\d))|(\d+(?:\.\d)?)/(?=(?:5|10)(?: stars?\b)))", lambda match: f"{match[1] or match[2]} out of ",
         "5/5, 3/5 stars", "five out of five, three out of five stars"),
    Rule(r"(?i)\b((?:rat|scor)(?:ed?|ing)(?: (?:it|them|her|him|at|is|was|of|an?))*:? )(\d+(?:\.\d)?)/(\d+)(?![\w/]|[.,]\d| of\b)", r"\1\2 out of \3",
         "rated 4/5", "rated four out of five"),
    Rule(rf"{_ALONE}({_N})%?-((?!0\d)\d+(?:,\d{{3}})*(?:\.\d+)?)(?!\d|[.,:/-]\d)", _range, "5-10%, 1990-2000, 1914-18, 0.1-0.3",
         "five to ten percent, nineteen ninety to two thousand, nineteen fourteen to eighteen, zero point one to zero point three", "555-123-4567"),
    Rule(r"(?<![\d:.])24:00(?![\d:])", "24 o'clock", "24:00", "twenty four o'clock"),
    Rule(rf"(\d ?)([AaPp])\.[Mm]\.(?= [\"“(]?(?:{_STARTS})\b)", r"\1\2m.",
         "At 5 p.m. We left.", "At five PM. We left.", "5 p.m. Monday"),
    Rule(rf"(?<![\w.])((?:[A-Z]\.){{2,}})(?= (?:{_STARTS})\b)", lambda match: match[1].replace(".", "") + ".", "the U.S. It is", "the US. It is", "the U.S. Army"),
    # decades, which wetext takes for seconds, and seconds, which it takes for decades
    Rule(r"(?<![\d.,:])(1[1-9]|20)([1-9])0['’]?s\b", lambda match: f"{match[1]} {_DECADES[int(match[2]) - 1]}", "The 1990s", "The nineteen nineties"),
    Rule(r"(?<![\d.,:])(?:(1[1-9])00|2000)['’]?s\b", lambda match: f"{match[1]} hundreds" if match[1] else "two thousands", "in the 1900s", "in the nineteen hundreds"),
    Rule(rf"(?i)\b({_LASTS}|(?:within|after|every) )([2-9]0)s\b|\b([2-9]0)s(?= (?:later|ago|left)\b)", lambda m: f"{m[1] or ''}{m[2] or m[3]} seconds", "It takes 20s", "It takes twenty seconds", "in the 20s"),
    Rule(r"(?<=\d)( ?m(?:in)? | seconds (?:or|to|and) )([2-9]0)s\b", r"\1\2 seconds", "2m 40s", "two minutes forty seconds"),
    Rule(r"(?<![\d.,:$€£])['’]?\b[2-9]0['’]?s\b", _decades, "’90s-style, her late 20s", "nineties-style, her late twenties", "1990s"),
    Rule(r"(\d) (\d)/(\d+)(?= (?:hours?|cups?)\b)", r"\1 \2/\3", "3½ hours", "three and a half hours"),
    # units: m is a length, unless hours or seconds stand beside it, or people are counted
    Rule(r"(?<=\d) ?m(?= (?:users|people|views|viewers|followers|subscribers|downloads|copies|customers|players)\b)", " million", "1.5m users", "one point five million users"),
    Rule(rf"((?:\d ?h(?:rs?|ours?)? ?|\b[Ii]n |{_LASTS})\d+|\d+(?= ?m (?:\d+ ?s(?:econds)?|ago|later|from now)\b)) ?m\b(?! from [^n])",
         r"\1 minutes", "2h 5m, in 10m", "two hours five minutes, in ten minutes"),
    Rule(r"(\d)( ?[cmk]?m| ?ft| ?in)? ?[x×] ?(?=\d+(?:\.\d+)? ?(?:[cmk]?m|ft|in)\b)", lambda match: f"{match[1]}{match[2] or ''} {'by' if match[2] else 'times'} ",
         "10cm x 20cm", "ten centimeters by twenty centimeters"),
    Rule(ENGLISH_UNIT, english_unit, "6.1mmol/L, 120mmHg, 5m", "six point one millimoles per liter, one hundred and twenty millimeters of mercury, five meters", "2models, 30 men"),
    Rule(r"\bm/s(?:[²2]|\^2)", "meters per second squared", "m/s²", "meters per second squared"),
    Rule(r"(?<=\d)²|(?<=\bmc)²|(?<=\b[A-Za-z])(?<![\d ]m)²|(?<=\))²", " squared", "x² and 10²", "x squared and ten squared", "20 m²"),
    Rule(r"(?<=\d)³|(?<=\b[A-Za-z])(?<![\d ]m)³|(?<=\))³", " cubed", "5³", "five cubed", "20 m³"),
    Rule(r"(?<![\w.,'])([3-8])' ?(1[01]|\d)(?:\"|''|(?![\w']))", r"\1 foot \2", "He is 6'2\"", "He is six foot two"),
    Rule(rf"({_N})‰", r"\1 per mille", "5‰", "five per mille"),
    Rule(rf"{_ALONE}(?:\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|1\d{{3}}\.\d+|[1-9]000|100\d)(?!\w|[.,:/-]\d)", lambda match: words(match[0]), "1,234.5 of 1000",
         "one thousand two hundred and thirty four point five of one thousand", "1,2 and 1000th"),
    # abbreviations
    Rule(r"\b([Nn]os?|[Ff]igs?|pp?|[Vv]ol|[Cc]h|[Aa]pprox|[Ss]ec)\. ?(?=\d)", lambda m: f"{_like(_SHORT[m[1].lower()], m[1])} ", "No. 5 and fig. 3", "Number five and figure three"),
    Rule(r"(?:№|(?<![\w&])#) ?(?=\d)", "number ", "#1", "number one", "C# 5"),
    Rule(r"\b(Prof|Sen)\. (?=[A-Z])|\b([Ee]\.g|[Ii]\.e|vs)\.(?= |,)|\b(etc)\.(?=[,;:)]| [a-z])|(?<![/\w])(etc)\b(?![./]\w)", lambda m: _word(m),
         "Prof. Lee, e.g. here", "Professor Lee, for example here"),
    Rule(r"\b(St)\. (?=[A-Z][a-z]+)(?<!\b[A-Z][a-z]{2} St\. )(?<!\b[A-Z][a-z]{3} St\. )(?<!\b[A-Z][a-z]{4} St\. )", "Saint ", "near St. Paul", "near Saint Paul", "On Main St. The end"),
    Rule(rf"((?:\b(?:on|at|to|from|near|along|down|off|onto|of|On|At|To|From|Near) |\d )[A-Z][a-z]+) Dr\.(?= [a-z]|,|$|( (?:{_STARTS})\b))", lambda match: f"{match[1]} Drive{'.' * bool(match[2])}", "on Elm Dr. is", "on Elm Drive is", "Ask Dr. Lee"),
    Rule(r"\b(?:[A-Z]\. ){2,}[A-Z]\b\.?|\b(?:[A-Z]\. ){2,}", lambda match: re.sub(r"\.(?= |$)", "", match[0]), "J. O. A. N. A.", "J O A N A", "J. Smith"),
    Rule(r"\b((?:Chapter|Part|Act|Scene|Volume|Book|Section|Article|Type|Phase|Stage|Level|Episode|Season|Figure|Table|War) )([XVI]+)\b(?!\.)",
         lambda match: f"{match[1]}{_ROMAN.get(match[2], match[2])}", "Chapter IV", "Chapter four", "Part I think"),
    # versions
    Rule(r"\b802\.11(?=[a-z]{1,2}\b)", "eight oh two point eleven ", "802.11ac", "eight oh two point eleven ac"),
    Rule(r"\b([vV])(?=\d+\.\d+(?!\.?\d))", r"\1 ", "v2.0", "v two point oh"),
    Rule(r"(?<![\d.])(\d{1,3})\.(\d{1,2})\.(\d{1,3})(?!\.?\d)", r"\1 point \2 point \3", "2.10.3", "two point ten point three", "192.168.0.1"),
    *sign_rules("en"),
]
# fmt: on


def _amount(currency: str, amount: str) -> str:
    name = _CURRENCIES.get(_NAMES[currency], "yuan")
    return f"{words(_short(amount))} {name if name == 'yuan' else _several(name, amount)}"


def _like(word: str, written: str) -> str:
    """The word with a capital where what was written has one."""
    return word.capitalize() if written[0].isupper() else word


def _word(match: Match) -> str:
    """An abbreviation in full."""
    found = next(group for group in match.groups() if group)
    full = _WORDS.get(found) or _like(_WORDS[found.lower()], found)
    return f"{full} " if found in ("Prof", "Sen") else full
