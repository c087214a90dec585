"""English that wetext reads wrongly, written so that it reads it right: decades, money, numbers, versions."""

import re
from collections.abc import Callable

_AMOUNT = r"\d+(?:,\d{3})*(?:\.\d+)?"  # 5, 1,000, 12,345.67
_ALONE = r"(?<![\w.,:/$€£-])"  # what comes next is the start of a number, not a part of a longer one
_DECADES = "tens twenties thirties forties fifties sixties seventies eighties nineties".split()


def _digits(match: re.Match[str]) -> str:
    """The words before a number, and its digits one by one with a pause for a hyphen."""
    return match[1] + " ".join(match[2]).replace(" - ", ", ")


def _meters(match: re.Match[str]) -> str:
    """A length in meters, unless hours before it or seconds after it say that m means minutes."""
    hours, amount, seconds = match.groups()
    return match[0] if hours or seconds else f"{amount} {'meter' if amount == '1' else 'meters'}"


# (pattern, what takes its place), applied in this order; above each what wetext says otherwise.
_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    # 24/7: "twenty four sevenths", 9/11: "nine elevenths", 50/50: "fifty fiftieths"; 3/4 is read well
    (r"(?<![\w.,/])(24/7|9/11)(?![\w/]|[.,]\d)", lambda match: match[1].replace("/", " ")),
    (r"(?<![\w.,/])(\d+)/\1(?![\w/]|[.,]\d)", r"\1 \1"),
    # 1990-2000: "one thousand nine hundred and ninety to two thousand", 1000-2000: "ten hundred to two thousand"
    (r"(?<![\w.,:/$€£-])([12]\d{3})[-–]([12]\d{3})(?!\w|[.,:/–-]\d)", r"\1 to \2"),
    # US$5: "five us dollars", as the pronoun
    (
        rf"\bUS\$ ?({_AMOUNT}(?: (?:m|b|tr)illion)?)(?!\w)",
        lambda match: f"{match[1]} US {'dollar' if match[1] == '1' else 'dollars'}",
    ),
    # 10,000m: "ten thousand minutes"
    (
        rf"(\d ?h(?:rs?|ours?)? ?)?(?<![\w.,:/$€£-])({_AMOUNT}(?:-{_AMOUNT})?) ?m\b(?!\.\w|[/'’^])( ?\d+ ?s\b)?",
        _meters,
    ),
    # 1990s: "one thousand nine hundred and ninety seconds"
    (r"(?<![\d.,:])(1[1-9]|20)([1-9])0['’]?s\b", lambda match: f"{match[1]} {_DECADES[int(match[2]) - 1]}"),
    (r"(?<![\d.,:])(1[1-9])00['’]?s\b", r"\1 hundreds"),
    # '90s-style: "ninety s-style"; 80's: "the eighty's"
    (r"(?<![\d.,:$€£])['’]?\b([2-9])0['’]?s\b", lambda match: _DECADES[int(match[1]) - 1]),
    # 3€: "three€", 3.50€: "three.fifty€", $ 5: "dollar five", $5k: "dollar five k"; wetext knows the sign in front
    (rf"(?<![\w.,$€£])({_AMOUNT}) ?([$€£])(?!\w)", r"\2\1"),
    (r"([$€£]) (?=\d)", r"\1"),
    (r"([$€£]\d{1,3})k\b", r"\1,000"),
    (r"(?<![\w.,])1 ?¢", "1 cent"),
    (r"(?<=\d) ?¢", " cents"),
    (rf"₹ ?({_AMOUNT})", r"\1 rupees"),
    # No. 5: "Number. five", and a sentence ends there
    (r"\b([Nn])o\. ?(?=\d)", r"\1umber "),
    (r"\b([Nn])os\. ?(?=\d)", r"\1umbers "),
    # No. I said no: "number I said no"; a blank before the dot keeps the word, and goes again below
    (r"\bNo\.(?! ?\d)", "No ."),
    (r"№ ?(?=\d)|(?<![\w&])# ?(?=\d)", "number "),
    # ~5: "approximatelyfive"
    (r"(?<![\w/~])~ ?(?=\d)", "approximately "),
    # 1001: "ten zero one", 1000 euros: "ten hundred euros"
    (_ALONE + r"([$€£]?)1(00\d)\b(?![,:/-]\d)", r"\g<1>1,\2"),
    # $1,000, 1,234, $1500, 1234.5: "thousand dollars"
    (_ALONE + r"(?=[$€£]?1,\d{3}\b(?!,\d)|[$€£]1\d{3}\b|1\d{3}\.\d+\b(?!\.\d))", "one "),
    # 2.10.3: "two.ten point three"; four parts are an address, which is read well
    (r"(?<![\d.])(\d{1,3})\.(\d{1,2})\.(\d{1,3})(?!\.?\d)", r"\1 point \2 point \3"),
    # 555-1234: "five hundred and fifty five to one thousand ..."; with an area code it is read well
    (r"((?<![\d-])(?<![\d)] ))(555-\d{4})\b(?!-)", _digits),
    (r"(?i)\b((?:call|dial|phone|tel|number)(?: us| me)?(?: at| on| is)?[.:]? )([2-9]\d\d-\d{4})\b(?!-)", _digits),
    (r"(?i)\b((?:call|dial)(?:s|ed|ing)? )(911|999|112)\b(?![.,:-]\d)", _digits),
    # St. Louis: left so, and the dot may end a segment. After a name (Main St. The) it is a street.
    (r"(^|[^\w\s]\s*|\b[a-z]+\s|\b(?:In|At|To|From|Near|The)\s)St\. (?=[A-Z])", r"\1Saint "),
]
_COMPILED = [(re.compile(pattern), spoken) for pattern, spoken in _RULES]


def reworded(text: str, normalize: Callable[[str], str]) -> str:
    """What `normalize`, wetext's English grammar, makes of the text once what it reads wrongly is put otherwise."""
    for pattern, spoken in _COMPILED:
        text = pattern.sub(spoken, text)
    # "one " went before 1,000 km and 1,000-2,000 too, where wetext says it
    return re.sub(r"\bone one thousand\b", "one thousand", normalize(text)).replace("No .", "No.")
