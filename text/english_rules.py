"""The table of what wetext's English grammar reads wrongly: codes, money, ranges, decades, units, abbreviations."""

import re

from text.english import LIMITS, ROMAN, abbreviation, code, decades, money, no_fraction, power, span, words
from text.rules import Rule
from text.signs import ADDRESS, sign_rules, spoken_address
from text.units import ENGLISH_UNIT, english_unit

# Left as they are: TV, which wetext calls television; "No." and Sun and Sat where they are no number and no day
UNTOUCHED = (
    r"\bTV\b|\b[Nn]o\.(?! ?\d)|(?<!on )\b(?:Sun|Sat)\b"
    r"(?!\.?,? ?\d|[.–-]|,? (?:at|to|and|through|morning|afternoon|evening|night)\b)"
)

_N = r"\d+(?:,\d{3})*(?:\.\d+)?"
_START = r"(?<![\w.,:/$€£¥+-])"  # of a number
_END = r"(?!\w|[.,:/-]\d)"

# A number is a code behind one of these, with or without what may stand between
_NUMBERED = (
    r"(?:phone|fax|flight|order|account|card|tracking|serial|ref(?:erence)?|ticket|invoice|case|booking|passport|"
    r"licen[sc]e|policy|claim|member(?:ship)?|student|routing|confirmation|security|emergency)"
)
_CODES = (
    r"(?i:codes?|zip|post ?codes?|pass(?:code|word)|pin|otp|ids?|ssn|vin|isbn|ext(?:ension)?|hotline|helpline|fax|"
    rf"tel(?:ephone)?\.?|phone|mobile|cell|whatsapp|emergency|{_NUMBERED} (?:number\b|no\.|#)|ending (?:in|with)|"
    r"room|suite|apartment|apt|gate|flight|(?<=\bthe |\bour )number(?= is)|(?<=\bmy )number(?= is)|(?<=\byour )number(?= is))"
)
_DIAL = r"(?i:call|diall?|r[aiu]ng|phone?|text(?: (?!\d)[\w\"“”' ]{1,40} to\b)?)(?:s|ed|ing)?"
_BETWEEN = (
    r"(?:[ :#=]|\b(?:is|are|was|reads?|at|on|us|me|him|her|them|number|now|to|the|either|with|code|your|my|our)\b|"
    r"\bno\.)*"
)
_CODE = r"\+?\d(?:[ -]?\d){2,}"
_LIST = rf"(?:(?:,? (?:or|and) |, |/){_CODE})*"
# ... but an amount before what is counted. One can call many: there only the words of _THEN may follow a code
_PLURAL = (
    r"(?:(?!(?:is|was|has|does|its|this|as|works|expires|means|starts|ends|belongs|opens|shows|appears|across|always|"
    r"perhaps|sees|saw|brings|begins|comes|goes)\b)[a-z]{2,}s|people|men|women|children)\b"
)
_COUNTED = rf"(?! (?:{_PLURAL}|(?:percent|yen|hundred|thousand|million|billion)\b))"
_THEN = (
    r"(?! (?!(?:or|and|now|if|for|in|at|to|on|when|immediately|right|from|before|after|as|instead|again|today|any|toll|"
    r"with|is|was|but|because|while|ext)\b)[a-z])"
)
_STARTS = "It|He|She|We|They|You|I|This|That|The|But|And|So|In|On|At|If|When|Then|His|Her|Our|My"  # of a sentence
_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_LASTS = r"(?:takes?|took|wait(?:s|ed|ing)?|last(?:s|ed|ing)?|runs|for) (?:about |only |just |another |up to )?"
_SIZES = "k|K|m|M|bn|b|B|tn|thousand|million|billion|trillion"
_COUNTRY_SIGNS, _NAMES = r"(?:US|AU?|CA?|HK|NZ|S|NT)?\$|[€£¥￥₹¢]", "USD|EUR|GBP|CNY|RMB|JPY"

# fmt: off
RULES = [
    Rule(ADDRESS, lambda match: spoken_address(match[0], "en"),
         "a.b@c-d.org", "a dot b at c dash d dot org", "The end.Then"),
    Rule(r"\b(?i:nos?|figs?|pp?|vol|ch|approx|sec|ext)\. ?(?=\d)", abbreviation,
         "No. 5, fig. 3", "Number five, figure three", "no. Then 5"),
    Rule(r"(?<=[a-z]{2}) ?([<>]=?) ?(?=-?[$€£¥]?\d)", lambda match: f" {LIMITS[match[1]]} ",
         "must be ≥ 18, is <5", "must be at least eighteen, is less than five", "x > 5"),
    *sign_rules("en"),
    Rule(r"(?<=\d) ?- ?(?=\d+(?:\.\d+)? equals )", " minus ", "5-3=2", "five minus three equals two", "5-3"),
    # codes: digit by digit
    Rule(rf"\b{_CODES}{_BETWEEN}(?:[A-Z]{{1,3}}[- ]?)?({_CODE}{_LIST}){_END}{_COUNTED}", code,
         "code 482913, zip 02139",
         "code four eight two nine one three, zip zero two one three nine", "codes are 300 pages"),
    Rule(rf"\b{_DIAL}{_BETWEEN}({_CODE}{_LIST}){_END}{_THEN}", code,
         "Dial 112 or 911", "Dial one one two or nine one one", "Call 300 people"),
    Rule(r"(?<![\w.,:/+-])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?! ?\d|[-,:/]\d|\w)",
         lambda match: match[0].replace(" ", ","),
         "1 000 000 people", "one million people", "In 2019 300 people"),
    Rule(r"(?<![\w.,:/+-])((?:\d{4}[ -]){2,}\d{1,4}|\(\d{3}\) ?\d{3}[ -]\d{4}"
         r"|\(0\d\) ?\d{4} \d{4}|\+\d{1,3}(?:[ -]\(?\d{1,5}\)?){2,5}"
         r"|0\d{2,}(?:[ -]\d{2,})*|0\d(?: \d{4}){2}|1[38]00 \d{3} \d{3}|\d{11,}|(?<!\) )555-\d{4})(?!\w|[.,:/-]\d)",
         code,
         "5500 0000 0000 0004",
         "five five zero zero, zero zero zero zero, zero zero zero zero, zero zero zero four", "1000 1300"),
    Rule(r"(?<=, )[A-Z]{2} (\d{5}(?:-\d{4})?)(?![\w-]|,\d)", code,
         "Austin, TX 78701", "Austin, Texas seven eight seven zero one", "In May, US 12 of"),
    Rule(rf"\b(?!{_NAMES})[A-Z]{{2,3}}-?(\d{{3,}}){_END}", code,
         "flight CA1234", "flight CA one two three four", "USD500"),
    # money
    Rule(r"(?<=[(\[=])-(?=\d)|(?<![\w)])-(?=[$€£¥]\d)", "negative ", "(-5)", "(negative five)", "(5-3)"),
    Rule(rf"{_START}({_N}) ?([$€£¥¢]|(?:{_NAMES})\b)(?!\w)", r"\2\1", "3€, 300 RMB", "three euros, three hundred yuan"),
    Rule(rf"(?<![\w$€£])({_COUNTRY_SIGNS}|{_NAMES}) ?({_N})(?:(?:{_SIZES})(?=-))?(?:-[$€£]?({_N}))? ?(?:({_SIZES})\b)?"
         r"(?:/(?=[a-z])(\w+))?(?!\w|[.,]\d)", money,
         "$3.50, A$5, $10-15k, €5/hr",
         "three dollars fifty cents, five Australian dollars, ten to fifteen thousand dollars, five euros per hour",
         "$x"),
    # fractions that are none, ranges, clocks
    Rule(r"(?<![\w.,/])(\d\d?)/(\d\d?)(?![\w/]|[.,]\d)", no_fraction,
         "Open 24/7, 50/50", "Open twenty four seven, fifty fifty", "1/2"),
    Rule(r"(?<![\w.,/])(?:(?<=rated )(\d+(?:\.\d)?)/|(\d+(?:\.\d)?)/(?=(?:5|10) stars?\b)"
         r"|(5|10|100)/(?=\3(?![\w/]|[.,]\d)))",
         lambda match: f"{match[1] or match[2] or match[3]} out of ",
         "5/5, 3/5 stars", "five out of five, three out of five stars", "3/5"),
    Rule(rf"\b(?!(?:Pages?|Lines?|Rooms?|Chapters?|Verses?|Questions?|Items?|Nos?|Numbers?|{_DAYS})\b)[A-Z][a-z]+ (\d{{3}}-\d{{1,3}})(?!\w|[-.,:/]\d)", code,
         "a Boeing 737-800", "a Boeing seven three seven, eight zero zero", "Pages 120-150"),
    Rule(rf"{_START}({_N})%?[-/]((?!0\d)\d+(?:,\d{{3}})*(?:\.\d+)?)(?!\d|[.,:/-]\d)", span,
         "5-10%, 1990-2000, 1914-18",
         "five to ten percent, nineteen ninety to two thousand, nineteen fourteen to eighteen", "555-123-4567"),
    Rule(r"(?<=\d/\d)-(?=[a-z])", " ", "1/2-inch", "one half inch", "5-inch"),
    Rule(r"(?<=\d:\d\d)-(?=\d\d?:\d\d)", " to ", "9:00-24:00", "nine o'clock to twenty four o'clock", "9-10:00"),
    Rule(rf"\b((?:{_DAYS})[a-z]*\.?(?: \d\d?)?) ?[-–] ?(?=(?:{_DAYS})[a-z]*\b)", r"\1 to ",
         "Jan 5 – Feb 3", "the fifth of january to the third of february", "Mar - a"),
    Rule(r"(?<![\d:.])24:00(?![\d:])", "24 o'clock", "24:00", "twenty four o'clock", "24:001"),
    Rule(rf"(?:(?<=\d[AaPp])|(?<=\d [AaPp]))\.[Mm]\.(?= [\"“(]?(?:{_STARTS})\b)", "m.",
         "5 p.m. We", "five PM. We", "5 p.m. Monday"),
    Rule(rf"(?<![\w.])(?:[A-Z]\.){{2,}}(?= (?:{_STARTS})\b)", lambda match: match[0].replace(".", "") + ".",
         "the U.S. It is", "the US. It is", "the U.S. Army"),
    Rule(rf"(\b(?:(?i:the|in|by|of|from|since|until|after|during|before|early|late|year)|(?:{_DAYS})[a-z]*) )?"
         rf"{_START}((?:1[1-9]|20)(?!00)\d\d)(?= {_PLURAL})",
         lambda match: match[0] if match[1] else words(match[2]),
         "He got 1776 votes. In 1984 people",
         "He got one thousand seven hundred and seventy six votes. In nineteen eighty four people", "1984 was"),
    # decades and seconds, each of which wetext takes for the other
    Rule(rf"(?i)\b(?:{_LASTS}|(?:within|after|every) |\d+ ?m(?:in)? )[2-9]0s(?: (?:or|to|and) [2-9]0s)*\b"
         r"|\b[2-9]0s(?= (?:later|ago|left)\b)",
         lambda match: re.sub(r"(?<=\d)s", " seconds", match[0]),
         "It takes 20s", "It takes twenty seconds", "in the 20s"),
    Rule(r"(?<![\d.,:$€£])(?:['’]?\b[2-9]0|\b1[1-9]\d0|\b20\d0)['’]?s\b", decades,
         "The 1990s, ’90s-style", "The nineteen nineties, nineties-style", "15s"),
    # units: m is a length, unless hours or seconds stand beside it, or people are counted
    Rule(r"(?<=\d) ?m(?= (?:users|people|views|viewers|followers|subscribers|downloads|copies|customers|players)\b)",
         " million",
         "1.5m users", "one point five million users", "5m pool"),
    Rule(rf"((?:\d ?h(?:rs?|ours?)? ?|\b[Ii]n |{_LASTS})\d+"
         r"|\d+(?= ?m (?:\d+ ?s(?:econds)?|ago|later|from now)\b)) ?m\b(?! from [^n])",
         r"\1 minutes",
         "2h 5m, in 10m", "two hours five minutes, in ten minutes", "a 50m pool"),
    Rule(r"(?<=\d)(?:(?P<unit> ?[cmk]?m| ?ft| ?in) ?[x×] ?| ?[x×] ?)(?=\d+(?:\.\d+)? ?(?:[cmk]?m|ft|in)\b)",
         lambda match: f"{match['unit'] or ''} {'by' if match['unit'] else 'times'} ",
         "5cm x 20cm", "five centimeters by twenty centimeters", "5 x 2"),
    Rule(ENGLISH_UNIT, english_unit,
         "6.1mmol/L, 120mmHg, 5m",
         "six point one millimoles per liter, one hundred and twenty millimeters of mercury, five meters",
         "2models, 30 men"),
    Rule(r"(?:(?<=\d)|(?<=\bmc)|(?<=\b[A-Za-z])(?<![\d ]m)|(?<=\)))[²³]", power,
         "x², 5³", "x squared, five cubed", "20 m²"),
    Rule(r"(?<=\d)(?<!\b1) ?(?:[°º] ?([CF])\b|([℃℉]))",
         lambda match: f" degrees {'Celsius' if match[1] == 'C' or match[2] == '℃' else 'Fahrenheit'}",
         "25°C, 77℉", "twenty five degrees Celsius, seventy seven degrees Fahrenheit", "5°"),
    Rule(r"(?<![\w.,'])([3-8])' ?(1[01]|\d)(?:\"|''|(?![\w']))", r"\1 foot \2",
         "He is 6'2\"", "He is six foot two", "'5'"),
    Rule(r"\^(?=-?\d)", " to the power of ", "3^2", "three to the power of two", "a^b"),
    Rule(rf"({_N})‰", r"\1 per mille", "5‰", "five per mille", "5%"),
    Rule(rf"{_START}(?:\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|1\d{{3}}\.\d+|[1-9]000|100\d){_END}",
         lambda match: words(match[0]),
         "1,234.5", "one thousand two hundred and thirty four point five", "1,2 and 1000th"),
    # abbreviations, letters, numerals, versions
    Rule(r"(?:№|(?<![\w&])#) ?(?=\d)", "number ", "#1", "number one", "C# 5"),
    Rule(r"\b(?:Prof|Sen)\. (?=[A-Z])|\b(?:[Ee]\.g|[Ii]\.e|vs)\.(?= |,)|\betc\.(?=[,;:)]| [a-z])"
         r"|(?<![/\w])etc\b(?![./]\w)",
         abbreviation,
         "Prof. Lee, e.g. here", "Professor Lee, for example here", "vs.5"),
    Rule(r"(^|[^\w\s]\s*|\b[a-z]+\s|\b(?:In|At|To|From|Near|The)\s)St\. (?=[A-Z])", r"\1Saint ",
         "near St. Paul", "near Saint Paul", "Main St. The"),
    Rule(r"\b(?:[A-Z]\. ){2,}(?:[A-Z]\b\.?)?", lambda match: match[0].replace(".", ""),
         "J. O. A. N. A.", "J O A N A", "J. Smith"),
    Rule(r"\b(Chapter|Part|Act|Scene|Volume|Book|Section|Article|Type|Phase|Stage|"
         r"Level|Episode|Season|Figure|Table) (?=[XVI]{2}|V)([XVI]+)\b(?!\.)",
         lambda match: f"{match[1]} {ROMAN.get(match[2], match[2])}",
         "Chapter IV", "Chapter four", "Part I think"),
    Rule(r"\b([vV])(?=\d+\.\d+(?!\.?\d))", r"\1 ", "v2.0", "v two point oh", "v8"),
    Rule(r"(?<![\d.])(\d{1,3})\.(\d{1,2})\.(\d{1,3})(?!\.?\d)", r"\1 point \2 point \3",
         "2.10.3", "two point ten point three", "192.168.0.1"),
]
# fmt: on
