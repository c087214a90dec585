"""English that wetext reads wrongly, written so that it reads it right: decades, money, numbers, versions."""

import re
from collections.abc import Callable

Match = re.Match[str]
Spoken = str | Callable[[Match], str]

_AMOUNT = r"\d+(?:,\d{3})*(?:\.\d+)?"  # 5, 1,000, 12,345.67
_ALONE = r"(?<![\w.,:/$€£-])"  # what comes next is the start of a number, not a part of a longer one
_DECADES = "tens twenties thirties forties fifties sixties seventies eighties nineties".split()
_SIZES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}
_COUNTRIES = {
    **{"US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian"},
    **{"HK": "Hong Kong", "NZ": "New Zealand", "S": "Singapore", "NT": "Taiwan"},
}
_PERIODS = {"mo": "month", "yr": "year", "wk": "week", "hr": "hour"}

# What begins a sentence after U.S. or Elm Dr., where a name may follow as well
_STARTS = (
    "It|He|She|We|They|You|I|This|That|These|Those|There|The|But|And|So|In|On|At|If|When|What|Why|How|Then|His|Her|Its|"
    "Our|My|Their"
)
_STREET = r"(?:(?i:\b(?:on|at|to|from|near|along|down|off|onto|of)) |\d )"  # before the name of one
_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_TIMES = "morning|evening|night|afternoon|noon|to|through|and|from|only|at|until"
_ZONES = "Eastern|Pacific|Central|Mountain|Greenwich|British|Local|[A-Z]{2,4}\\b"

# What makes m, which wetext takes for minutes, a length
_LENGTH_AFTER = (
    r"[ -](?:long|tall|wide|deep|high|away|thick|apart|above|below|across|race|run|dash|sprint|swim|freestyle|hurdles|"
    r"relay|butterfly|backstroke|breaststroke|pool|track|mark|radius|distance|tower|cable|rope|wall|fence|drop|fall|"
    r"dive|jump|climb|waves?|tunnel|bridge|yacht)\b| from (?!now)| per (?:second|minute|hour)\b| ?[x×] ?\d"
)
_LENGTH_BEFORE = (
    r"\b(?:(?:I|we|you|they|s?he|to|can|could|will|must|who) (?:run|ran|runs)|running|sw[aiu]ms?|swimming|"
    r"walk(?:s|ed|ing)?|jump(?:s|ed|ing)?|climb(?:s|ed|ing)?|fell|falls?|dives?|dived|threw|throws?|raced?|"
    r"(?:height|length|width|depth|distance|radius|altitude)(?: of| is| was)?) "
    r"?(?:the |about |over |only )?"
)
_LASTING = re.compile(  # what is said to be 45m long and lasts
    r"\b(?:meetings?|films?|movies?|lectures?|episodes?|videos?|pauses?|queues?|delays?|songs?|shows?|clips?|calls?|"
    r"talks?|sessions?|class|classes|waits?|breaks?|podcasts?|it) (?:is|was|are|were|will be|lasts?) "
    r"(?:about |only |over )?$"
)
_MANY = (
    "users|people|followers|subscribers|views|viewers|downloads|copies|customers|players|residents|inhabitants|visitors|"
    "workers|jobs|voters|votes|tonnes|tons|barrels|dollars|euros|pounds|streams|members|fans|readers|listeners|"
    "passengers|units|students|children|adults|homes|households|tokens|parameters"
)
_WAITING = (
    "takes?|took|taking|waits?|waited|waiting|lasts?|lasted|lasting|rests?|rested|hold|held|plank|sleep|sleeps|pauses?|"
    "paused|every|within|after|for|than|another|remaining|timeout|timer"
)
_COUNTDOWN = (
    "ago|later|left|timer|delay|timeout|remaining|each|apart|early|late|faster|slower|rest|break|pause|clip|video|ad"
)
_EIGHTIES = (
    "music|songs?|tunes|pop|rock|disco|soul|style|fashion|hits|movies?|films?|shows?|kids?|vibes?|classics?|party|"
    "themed?|era|icons?|nostalgia|hair"
)

_KINGS = (
    "Henry|Louis|George|Edward|Charles|James|William|Richard|Elizabeth|Pope|Paul|Benedict|Pius|Leo|Philip|Napoleon|"
    "Nicholas|Alexander|Frederick|Peter|Catherine|Ivan|Francis|Ferdinand|Wilhelm|Ramses"
)
_PARTS = "Chapter|Part|Act|Scene|Volume|Book|Section|Article|Type|Phase|Stage|Level|Episode|Season|Figure|Table"
_ROMAN = r"(?=[XVI]{2}|V)(X{0,3})(IX|IV|V?I{0,3})(?!\w)(?!(?<= V)\.)"  # never the pronoun I nor an initial


def _digits(match: Match) -> str:
    """The words before a number, and its digits one by one with a pause for a hyphen."""
    return match[1] + " ".join(match[2]).replace(" - ", ", ")


def _phone(match: Match) -> str:
    """A number digit by digit, with a pause between its groups."""
    groups = re.findall(r"\d+", match[0])
    return ("plus " if match[0][0] == "+" else "") + ", ".join(" ".join(group) for group in groups)


def _meters(match: Match) -> str:
    """A length in meters, unless hours before it or seconds after it say that m means minutes, or nothing says much."""
    before, hours, amount, blank, after, seconds = match.groups()
    if hours or seconds:
        return match[0]
    if after == " long" and _LASTING.search(match.string[: match.start()]):
        return match[0]
    large = "." in amount or "," in amount or len(amount.rpartition("-")[2]) >= 4  # digits
    times = re.search("[x×] ?$", match.string[max(0, match.start() - 2) : match.start()])
    if not (before or blank or after or large or times):
        return match[0]
    return f"{before or ''}{amount} {'meter' if amount == '1' else 'meters'}"


def _decades(match: Match) -> str:
    """A decade or several, 20s and 30s, with the word that tells that they are no seconds."""
    return match[1].strip("'’") + re.sub("([2-9])0s", lambda found: _DECADES[int(found[1]) - 1], match[2])


def _short(amount: str) -> str:
    """An amount without noughts at its end, which would be read as "oh"."""
    return amount.rstrip("0").rstrip(".") if "." in amount else amount


def _dollars(match: Match) -> str:
    """An amount in the dollars of a country."""
    country, amount = match.groups()
    return f"{_short(amount)} {_COUNTRIES[country]} {'dollar' if amount == '1' else 'dollars'}"


def _dollar_range(match: Match) -> str:
    """Two amounts, then their size and currency."""
    sign, low, high, size = match.groups()
    return f"{_short(low)} to {_short(high)} {_SIZES.get(size.lower(), size) + ' ' if size else ''}{_CURRENCIES[sign]}s"


def _cents(match: Match) -> str:
    """An amount with two decimals as two amounts."""
    whole, part, name = int(match[2].replace(",", "")), int(match[3]), _CURRENCIES[match[1]]
    cents = ("penny" if part == 1 else "pence") if name == "pound" else ("cent" if part == 1 else "cents")
    spoken = [f"{whole:,} {name}{'' if whole == 1 else 's'}"] if whole or not part else []
    return " ".join([*spoken, f"{part} {cents}"] if part else spoken)


def _ordinal(match: Match) -> str:
    """The number of a king."""
    number = _roman(match[2], match[3])
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number // 10 != 1 else "th"
    return f"{match[1]} the {number}{ending}"


def _roman(tens: str, ones: str) -> int:
    return 10 * len(tens) + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"].index(ones)


def _hundred(match: Match) -> str:
    """Two shares that make up a hundred; any other fraction stays."""
    return f"{match[1]} {match[2]}" if int(match[1]) + int(match[2]) == 100 else match[0]


def _years(match: Match) -> str:
    """A year and the last two digits of a later one; any other numbers stay."""
    return f"{match[1]} to {match[2]}" if int(match[2]) > int(match[1][2:]) else match[0]


# (pattern, what takes its place, and perhaps (pattern, text), which takes back what is there only for wetext), applied
# in this order; above each what wetext says otherwise.
_RULES: list[tuple[str, Spoken] | tuple[str, Spoken, tuple[str, str]]] = [
    ("￥", "¥"),
    # 24/7: "twenty four sevenths", 9/11: "nine elevenths", 50/50: "fifty fiftieths"; 3/4 is read well
    (r"(?<![\w.,/])(24/7|9/11)(?![\w/]|[.,]\d)", lambda match: match[1].replace("/", " ")),
    # 5/5: "five fifths", rated 4/5: "four fifths"
    (r"(?<![\w.,/])(5|10|100)/\1(?![\w/]|[.,]\d)", r"\1 out of \1"),
    (
        r"(?i)\b((?:rat|scor)(?:ed?|ing)(?: (?:it|them|her|him|at|is|was|of|a|an))*:? )"
        r"(\d+(?:\.\d)?)/(\d+)(?![\w/]|[.,]\d| of\b)",
        r"\1\2 out of \3",
    ),
    (r"(?<![\w.,/])(\d+(?:\.\d)?)/(5|10)(?= stars?\b)", r"\1 out of \2"),
    (r"(?<![\w.,/])(\d+)/\1(?![\w/]|[.,]\d)", r"\1 \1"),
    # 80/20: "eighty twentieths"
    (r"(?<![\w.,/])(\d\d)/(\d\d)(?![\w/]|[.,]\d)", _hundred),
    # 1990-2000: "one thousand nine hundred and ninety to two thousand", 1000-2000: "ten hundred to two thousand"
    (r"(?<![\w.,:/$€£-])([12]\d{3})[-–]([12]\d{3})(?!\w|[.,:/–-]\d)", r"\1 to \2"),
    # 1914-18: "one thousand nine hundred and fourteen to eighteen"
    (r"(?<![\w.,:/$€£-])(1[1-9]\d\d|20\d\d)[-–](\d\d)(?!\w|[.,:/–-]\d)", _years),
    # 0.1-0.3: "zero point one-zero point three"
    (r"(?<![\w.,:/$€£-])(\d+\.\d+)[-–](\d+(?:\.\d+)?)(?!\d|[.,:/–-]\d)", r"\1 to \2"),
    (r"(?<![\w.,:/$€£-])(\d+)[-–](\d+\.\d+)(?!\d|[.,:/–-]\d)", r"\1 to \2"),
    # US$5: "five us dollars", as the pronoun; A$5: "A dollar five"
    (rf"(?<![\w$])({'|'.join(_COUNTRIES)})\$ ?({_AMOUNT}(?: (?:m|b|tr)illion)?)(?!\w)", _dollars),
    # $10-15: "dollar ten-fifteen", $1-2 million: "one dollar-two million"
    (
        rf"(?<![\w$€£.,])([$€£])({_AMOUNT})(?:[kKmMbB]n?)?[-–][$€£]?({_AMOUNT})"
        r" ?([kKmMbB]|[bt]n|thousand|million|billion|trillion)?(?![\w-])",
        _dollar_range,
    ),
    # $5-a-day: "dollar five-a-day"
    (rf"([$€£]{_AMOUNT})-(?=[a-z])", r"\1 "),
    # $5/month: "dollar five slash month"
    (
        rf"([$€£]{_AMOUNT})/(?=[a-z])(mo|yr|wk|hr)?\b",
        lambda match: f"{match[1]} per {_PERIODS.get(match[2], '')}",
    ),
    # $3.50: "three point five dollars"
    (
        r"(?<![\w$€£.,-])([$€£])(\d{1,3}(?:,\d{3})+|\d{1,15})\.(\d\d)"
        r"(?![\w-]|[.,]\d| ?(?:[kmb]n?|hundred|thousand|million|billion|trillion)\b)",
        _cents,
    ),
    # 5m users: "five minutes users", 10,000m: "ten thousand minutes"; 10m alone are minutes
    (rf"(?<![\w.,:/$€£-])({_AMOUNT}) ?m(?= (?:new |more |active |monthly |daily )*(?:{_MANY})\b)", r"\1 million"),
    (
        rf"(?i:({_LENGTH_BEFORE}))?(\d ?h(?:rs?|ours?)? ?)?(?<![\w.,:/$€£-])({_AMOUNT}(?:-{_AMOUNT})?)"
        r"( )?m\b(?!\.\w|[/'’^])"
        rf"(?=({_LENGTH_AFTER})|)(?! (?:ago|later)\b)( ?\d+ ?s\b)?",
        _meters,
    ),
    # 4x100m: "four times one hundred minutes", 10cm x 20cm: a letter
    (r"(?<=\d)( ?[x×] ?\d+) ?m\b(?!\.\w|[/'’^])", r"\1 meters"),
    (r"(\d ?(?:[cmk]m|ft|in)|\bmeters?) ?[x×] ?(?=\d)", r"\1 by "),
    # 9.8 m/s²: "m/s two", 10²: "ten two"; 20 m² is read well
    (r"(?<=\d) ?m/s(?:²|\^2)", " meters per second squared"),
    (r"\bm/s(?:²|\^2)", "meters per second squared"),
    (r"(?<=\d) ?m/s\b(?!\^)", " meters per second"),
    (r"(?<=\d)²|(?<=\bmc)²|(?<=\b[A-Za-z])(?<![\d ]m)²|(?<=\))²", " squared"),
    (r"(?<=\d)³|(?<=\b[A-Za-z])(?<![\d ]m)³|(?<=\))³", " cubed"),
    # 6'2": "six'two", and a quote
    (r"(?<![\w.,'’])([3-8])['’] ?(1[01]|\d)(?:[\"”″]|''|(?![\w'’]))", r"\1 foot \2"),
    # 1990s: "one thousand nine hundred and ninety seconds"
    (r"(?<![\d.,:])(1[1-9]|20)([1-9])0['’]?s\b", lambda match: f"{match[1]} {_DECADES[int(match[2]) - 1]}"),
    (r"(?<![\d.,:])(1[1-9])00['’]?s\b", r"\1 hundreds"),
    (r"(?<![\d.,:])2000['’]?s\b", "two thousands"),
    # '90s-style: "ninety s-style"; 80's: "the eighty's"
    (r"(?<![\d.,:$€£])['’]?\b([2-9])0['’]s\b", lambda match: _DECADES[int(match[1]) - 1]),
    (
        r"(?i)(?<![\w$€£])(['’]|(?:the|her|his|their|my|your|our|mid|early|late)[ -]"
        r"(?:(?:early|late|roaring|swinging) |mid-)?)"
        r"((?:[2-9]0s(?:,? (?:and|or|to|through) |, |[/-]))*[2-9]0s)\b",
        _decades,
    ),
    (rf"(?<![\w.,:$€£])()([2-9]0s)(?=[ -](?:{_EIGHTIES})\b)", _decades),
    # takes 20s: "twenties"; in the upper 70s they are
    (
        rf"(?i)\b((?:{_WAITING}) (?:about |around |over |under |only |just |the |another |up to )?)([2-9]0)s\b",
        r"\1\2 seconds",
    ),
    (rf"(?i)(?<![\w.,:/$€£-])([2-9]0)s(?=[ -](?:{_COUNTDOWN})\b)", r"\1 seconds"),
    (r"(\d ?m(?:in)? |\d seconds (?:or|to|and) )([2-9]0)s\b", r"\1\2 seconds"),
    # 3€: "three€", 3.50€: "three.fifty€", $ 5: "dollar five", $5k: "dollar five k"; wetext knows the sign in front
    (rf"(?<![\w.,$€£])({_AMOUNT}) ?([$€£¥])(?!\w)", r"\2\1"),
    (r"([$€£]) (?=\d)", r"\1"),
    (r"([$€£]\d{1,3})[kK]\b", r"\1,000"),
    (r"(?<![\w.,])1 ?¢", "1 cent"),
    (r"(?<=\d) ?¢", " cents"),
    (rf"₹ ?({_AMOUNT})", r"\1 rupees"),
    # No. I said no: "number I said no", She said no. 3 left: "number. three"; the blank keeps the word
    (r"\bNo\.(?! ?\d)", "No .", (r"\bNo \.", "No.")),
    (
        r"\b((?:said|says?|answered|replied|shouted|mean[st]|voted|[Yy]es (?:or|and)) [Nn]o)\. (?=\d)",
        r"\1 . ",
        (r"\b([Nn]o) \.", r"\1."),
    ),
    # No. 5: "Number. five", and a sentence ends there
    (r"\b([Nn])o\. ?(?=\d)", r"\1umber "),
    (r"\b([Nn])os\. ?(?=\d)", r"\1umbers "),
    # Fig. 3, p. 12, vol. 2: left so, and the dot may end a segment
    (r"\b([Ff])ig(s?)\. ?(?=\d)", r"\1igure\2 "),
    (r"(?<![\w.])p\. ?(?=\d)", "page "),
    (r"(?<![\w.])pp\. ?(?=\d)", "pages "),
    (r"\b([Vv])ol\. ?(?=\d)", r"\1olume "),
    (r"\b([Cc])h\. ?(?=\d)", r"\1hapter "),
    (r"\b([Aa])pprox\. ?(?=\d)", r"\1pproximately "),
    # Prof. Smith, e.g., i.e., vs., etc.: as above
    (r"\bProf\. (?=[A-Z])", "Professor "),
    (r"\bSen\. (?=[A-Z])", "Senator "),
    (r"\b([Ee])\.g\.", lambda match: "For example" if match[1] == "E" else "for example"),
    (r"\b([Ii])\.e\.", lambda match: "That is" if match[1] == "I" else "that is"),
    (r"\bvs\.(?= )", "versus"),
    (r"\betc\.(?=[,;:)]| [a-z])|(?<![\/\w])etc\b(?![./]\w)", "et cetera"),
    # 5 p.m. We left: "five PM We left"; U.S. It is: "US It is"
    (rf"(\d ?)([AaPp])\.[Mm]\.(?= [\"“(]?[A-Z])(?! (?:{_DAYS}|{_ZONES}))", r"\1\2m."),
    (rf"(?<![\w.])((?:[A-Z]\.){{2,}})(?= (?:{_STARTS})\b)", lambda match: match[1].replace(".", "") + "."),
    # Elm Dr. is long: "Elm doctor is long"
    (rf"({_STREET}[A-Z][a-z]+) Dr\.(?= [a-z]|,|$)", r"\1 Drive"),
    (rf"({_STREET}[A-Z][a-z]+) Dr\.(?= (?:{_STARTS})\b)", r"\1 Drive."),
    # TV: "Television", the Sun: "the Sunday", Sat down: "Saturday down"
    (r"\bTV\b", "T.V."),
    (rf"\b([Tt]he) Sun\b(?!\.?,? (?:\d|{_TIMES}))", r"\1 sun"),
    (
        r"(?:^|(?<=[.!?] ))Sun(?= (?:rises?|sets?|rose|shines?|shone|(?:is|was) (?:shining|rising|setting|up|out))\b)",
        "sun",
    ),
    (r"(?:^|(?<=[.!?] ))Sat(?= (?:down|up|in|on|by|beside|back|there|here|still|quietly|next|around|alone)\b)", "sat"),
    # Henry VIII, Chapter IV: as letters
    (rf"\b({_KINGS}) {_ROMAN}", _ordinal),
    (rf"\b({_PARTS}) {_ROMAN}", lambda match: f"{match[1]} {_roman(match[2], match[3])}"),
    (r"№ ?(?=\d)|(?<![\w&])# ?(?=\d)", "number "),
    # ~5: "approximatelyfive"
    (r"(?<![\w/~])~ ?(?=\d)", "approximately "),
    # 1001: "ten zero one", 1000 euros: "ten hundred euros"
    (_ALONE + r"([$€£]?)1(00\d)\b(?![,:/-]\d)", r"\g<1>1,\2"),
    # $1,000, 1,234, $1500, 1234.5: "thousand dollars"
    (
        _ALONE + r"(?=[$€£]?1,\d{3}\b(?!,\d)|[$€£]1\d{3}\b|1\d{3}\.\d+\b(?!\.\d))",
        "one ",
        (r"\bone one thousand\b", "one thousand"),
    ),
    # 802.11ac: "eight hundred and two.eleven", v2.0: "v two.zero"
    (r"\b802\.11(?=[a-z]{1,2}\b)", "eight oh two point eleven "),
    (r"\b([vV])(?=\d+\.\d+(?!\.?\d))", r"\1 "),
    # 2.10.3: "two.ten point three"; four parts are an address, which is read well
    (r"(?<![\d.])(\d{1,3})\.(\d{1,2})\.(\d{1,3})(?!\.?\d)", r"\1 point \2 point \3"),
    # +1 415 555 2671: "plus one four hundred and fifteen ..."
    (r"(?<![\w.+])\+\d{1,3}(?:[ -]\(?\d{1,5}\)?){2,5}(?![\w-])", _phone),
    (r"(?<![\w.,+-])0\d{2,4} \d{3,4} \d{3,4}(?![\w-])", _phone),
    # 555-1234: "five hundred and fifty five to one thousand ..."; with an area code it is read well
    (r"((?<![\d-])(?<![\d)] ))(555-\d{4})\b(?!-)", _digits),
    (r"(?i)\b((?:call|dial|phone|tel|number)(?: us| me)?(?: at| on| is)?[.:]? )([2-9]\d\d-\d{4})\b(?!-)", _digits),
    (
        r"(?i)\b((?:call|dial)(?:s|ed|ing)? )(911|999|112)\b"
        r"(?![.,:-]\d| (?:people|customers|users|homes|voters|times)\b)",
        _digits,
    ),
    # St. Louis: left so, and the dot may end a segment. After a name (Main St. The) it is a street.
    (r"(^|[^\w\s]\s*|\b[a-z]+\s|\b(?:In|At|To|From|Near|The)\s)St\. (?=[A-Z])", r"\1Saint "),
]
_COMPILED = [(re.compile(rule[0]), rule[1], *rule[2:]) for rule in _RULES]


def reworded(text: str, normalize: Callable[[str], str]) -> str:
    """What `normalize`, wetext's English grammar, makes of the text once what it reads wrongly is put otherwise."""
    for pattern, spoken, *_ in _COMPILED:
        text = pattern.sub(spoken, text)
    text = normalize(text)
    for _, _, *undo in _COMPILED:
        for pattern, written in undo:
            text = re.sub(pattern, written, text)
    return text
