"""Numbers of German, French, Spanish, Italian, Portuguese, Russian, Japanese and Korean text as words.

num2words knows the words; here stands what it is asked for: amounts, dates, clock times, money, units, ordinals, and
digits one by one. Each rule has an example beside it, which the tests run. Where a number stands in a case or gender
that nothing beside it tells, it is read as in counting: German "eins", Russian nominative.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

Forms = tuple[str, ...]  # of a noun: after 1, after others; in Russian after 1, after 2-4, after others

AS_ONE_BY_ONE = 7  # digits of a number without separators that counts nothing
LONGEST = 15  # digits of an amount; num2words has no names for many more
BLANK = "[ \u00a0\u2009\u202f]"
DASH = "[-–−‑~]"
LETTERS = "A-Za-zÀ-ӿ"  # that are written with blanks between words
MINUS = r"\-−–"
DAY, MONTH, YEAR = r"(0?[1-9]|[12]\d|3[01])", r"(0?[1-9]|1[0-2])", r"([12]\d{3})"
HOUR, MINUTE = r"([01]?\d|2[0-4])", r"([0-5]\d)"
DIGITS = {ord("０") + digit: str(digit) for digit in range(10)}
BESIDE_DIGITS = re.compile(r"(?<=\d)\s?[℃％〜～－]|[￥－](?=\d)")
FOLDED = {"℃": "°C", "％": "%", "〜": "~", "～": "~", "－": "-", "￥": "¥"}
# Left whole: what steers the model, and addresses
KEPT = re.compile(r"<[^<>\s]{,40}>|\[[^\[\]\s]{,40}\]|(?:https?://|www\.)\S+|[A-Za-z\d_.+-]{1,64}@[A-Za-z\d.-]+")
START = re.compile(rf"(?P<kept>{KEPT.pattern})|(?:(?<![{LETTERS}\d{MINUS}])[+{MINUS}])?(?:R?[€$£¥₽₩]{BLANK}?)?[0-9]")


@dataclass(frozen=True)
class Language:
    """The words around numbers in a language."""

    code: str  # as num2words has it
    decimal: str  # sign
    point: str  # how the decimal sign is read
    dot: str  # how it is read in 3.11.2
    minus: str
    to: str  # in "5-10"
    against: str  # in "3:1"
    months: Forms
    money: Mapping[str, Forms]
    units: Mapping[str, Forms]
    code_words: str  # after one of these a number is a code
    nil: str = ""  # 0 among single digits, where it is not num2words' word
    glue: str = " "  # between words


LANGUAGES = {
    "de": Language(
        "de", ",", "Komma", "Punkt", "minus", "bis", "zu",
        tuple("Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()),
        {"€": ("Euro",), "$": ("Dollar",), "£": ("Pfund",), "¥": ("Yen",), "₽": ("Rubel",), "₩": ("Won",)},
        {"%": ("Prozent",),
         "km/h": ("Kilometer pro Stunde",), "km²": ("Quadratkilometer",), "km": ("Kilometer",), "kg": ("Kilogramm",),
         "cm": ("Zentimeter",), "mm": ("Millimeter",), "m²": ("Quadratmeter",), "m": ("Meter",), "g": ("Gramm",),
         "ml": ("Milliliter",), "l": ("Liter",), "°C": ("Grad Celsius",), "°": ("Grad",), "min": ("Minute", "Minuten")},
        r"Telefon|Tel|Fax|Handy|Nummer|Rufnummer|Hotline|Code|PIN|PLZ|Postleitzahl|Konto\w*|anrufen|ruf|rufen Sie|"
        r"Notruf|wähl\w*",
    ),
    "fr": Language(
        "fr", ",", "virgule", "point", "moins", "à", "à",
        tuple("janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()),
        {"€": ("euro", "euros"), "$": ("dollar", "dollars"), "£": ("livre", "livres"), "¥": ("yen", "yens"),
         "₽": ("rouble", "roubles"), "₩": ("won", "wons")},
        {"%": ("pour cent",),
         "km/h": ("kilomètre heure", "kilomètres heure"), "km²": ("kilomètre carré", "kilomètres carrés"),
         "km": ("kilomètre", "kilomètres"), "kg": ("kilo", "kilos"), "cm": ("centimètre", "centimètres"),
         "mm": ("millimètre", "millimètres"), "m²": ("mètre carré", "mètres carrés"), "m": ("mètre", "mètres"),
         "g": ("gramme", "grammes"), "ml": ("millilitre", "millilitres"), "l": ("litre", "litres"),
         "°C": ("degré Celsius", "degrés Celsius"), "°": ("degré", "degrés"), "min": ("minute", "minutes")},
        r"téléphone|tél|fax|portable|numéro|code|PIN|appel\w*|compo\w*",
    ),
    "es": Language(
        "es", ",", "coma", "punto", "menos", "a", "a",
        tuple("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()),
        {"€": ("euro", "euros"), "$": ("dólar", "dólares"), "£": ("libra", "libras"), "¥": ("yen", "yenes"),
         "₽": ("rublo", "rublos"), "₩": ("won", "wones")},
        {"%": ("por ciento",),
         "km/h": ("kilómetro por hora", "kilómetros por hora"), "km²": ("kilómetro cuadrado", "kilómetros cuadrados"),
         "km": ("kilómetro", "kilómetros"), "kg": ("kilo", "kilos"), "cm": ("centímetro", "centímetros"),
         "mm": ("milímetro", "milímetros"), "m²": ("metro cuadrado", "metros cuadrados"), "m": ("metro", "metros"),
         "g": ("gramo", "gramos"), "ml": ("mililitro", "mililitros"), "l": ("litro", "litros"),
         "°C": ("grado", "grados"), "°": ("grado", "grados"), "min": ("minuto", "minutos")},
        r"teléfono|tel|fax|móvil|código|PIN|llam\w*|marqu\w*|marca",
    ),
    "it": Language(
        "it", ",", "virgola", "punto", "meno", "a", "a",
        tuple("gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split()),
        {"€": ("euro",), "$": ("dollaro", "dollari"), "£": ("sterlina", "sterline"), "¥": ("yen",),
         "₽": ("rublo", "rubli"), "₩": ("won",)},
        {"%": ("per cento",),
         "km/h": ("chilometro orario", "chilometri orari"), "km²": ("chilometro quadrato", "chilometri quadrati"),
         "km": ("chilometro", "chilometri"), "kg": ("chilo", "chili"), "cm": ("centimetro", "centimetri"),
         "mm": ("millimetro", "millimetri"), "m²": ("metro quadrato", "metri quadrati"), "m": ("metro", "metri"),
         "g": ("grammo", "grammi"), "ml": ("millilitro", "millilitri"), "l": ("litro", "litri"),
         "°C": ("grado", "gradi"), "°": ("grado", "gradi"), "min": ("minuto", "minuti")},
        r"telefono|tel|fax|cellulare|codice|PIN|chiam\w*|compon\w*",
    ),
    "pt": Language(
        "pt_BR", ",", "vírgula", "ponto", "menos", "a", "a",
        tuple("janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split()),
        {"€": ("euro", "euros"), "R$": ("real", "reais"), "$": ("dólar", "dólares"), "£": ("libra", "libras"),
         "¥": ("iene", "ienes"), "₽": ("rublo", "rublos"), "₩": ("won", "wons")},
        {"%": ("por cento",),
         "km/h": ("quilômetro por hora", "quilômetros por hora"),
         "km²": ("quilômetro quadrado", "quilômetros quadrados"),
         "km": ("quilômetro", "quilômetros"), "kg": ("quilo", "quilos"), "cm": ("centímetro", "centímetros"),
         "mm": ("milímetro", "milímetros"), "m²": ("metro quadrado", "metros quadrados"), "m": ("metro", "metros"),
         "g": ("grama", "gramas"), "ml": ("mililitro", "mililitros"), "l": ("litro", "litros"),
         "°C": ("grau", "graus"), "°": ("grau", "graus"), "min": ("minuto", "minutos")},
        r"telefone|tel|fax|celular|telemóvel|código|CEP|PIN|ligu\w*|disque",
    ),
    "ru": Language(
        "ru", ",", "", "точка", "минус", "-", "-",
        tuple("января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()),
        {"€": ("евро",), "$": ("доллар", "доллара", "долларов"), "£": ("фунт", "фунта", "фунтов"),
         "¥": ("иена", "иены", "иен"), "₽": ("рубль", "рубля", "рублей"), "₩": ("вона", "воны", "вон")},
        {"%": ("процент", "процента", "процентов"),
         "км/ч": ("километр в час", "километра в час", "километров в час"),
         "км": ("километр", "километра", "километров"), "кг": ("килограмм", "килограмма", "килограммов"),
         "см": ("сантиметр", "сантиметра", "сантиметров"), "мм": ("миллиметр", "миллиметра", "миллиметров"),
         "м": ("метр", "метра", "метров"), "г": ("грамм", "грамма", "граммов"),
         "мл": ("миллилитр", "миллилитра", "миллилитров"), "л": ("литр", "литра", "литров"),
         "°C": ("градус", "градуса", "градусов"), "°": ("градус", "градуса", "градусов"),
         "мин": ("минута", "минуты", "минут")},
        r"телефон\w*|тел|факс|номер\w*|код\w*|звони\w*|позвони\w*|индекс\w*|набер\w*",
    ),
    "ja": Language(
        "ja", ".", "点", "点", "マイナス", "から", "対", (),
        {"€": ("ユーロ",), "$": ("ドル",), "£": ("ポンド",), "¥": ("円",), "₽": ("ルーブル",), "₩": ("ウォン",)},
        {"%": ("パーセント",),
         "km/h": ("キロメートル毎時",), "km²": ("平方キロメートル",), "km": ("キロメートル",), "kg": ("キログラム",),
         "cm": ("センチメートル",), "mm": ("ミリメートル",), "m²": ("平方メートル",),
         "m": ("メートル",), "g": ("グラム",),
         "ml": ("ミリリットル",), "l": ("リットル",), "°C": ("度",), "°": ("度",)},
        "〒|電話|番号|暗証|コード|ファックス", nil="ゼロ", glue="",
    ),
    "ko": Language(
        "ko", ".", "점", "점", "마이너스", "에서", "대", (),
        {"€": ("유로",), "$": ("달러",), "£": ("파운드",), "¥": ("엔",), "₽": ("루블",), "₩": ("원",)},
        {"%": ("퍼센트",),
         "km/h": ("킬로미터",), "km²": ("제곱킬로미터",), "km": ("킬로미터",), "kg": ("킬로그램",), "cm": ("센티미터",),
         "mm": ("밀리미터",), "m²": ("제곱미터",), "m": ("미터",), "g": ("그램",), "ml": ("밀리리터",), "l": ("리터",),
         "°C": ("도",), "°": ("도",)},
        "전화|번호|비밀번호|코드|팩스", nil="공",
    ),
}  # fmt: skip


def read_numbers(text: str, language: str) -> str:
    """The text with its digits as words of the language; as it is for other languages than LANGUAGES."""
    if language not in LANGUAGES:
        return text
    text = BESIDE_DIGITS.sub(lambda sign: "".join(FOLDED.get(char, char) for char in sign[0]), text.translate(DIGITS))
    if language in NUMBER:
        text = NUMBER[language].sub(f"{NUMBER_WORDS[language]} ", text)
    read, end = "", 0
    while number := START.search(text, end):
        read += text[end : number.start()]
        if number["kept"]:
            words, end = number[0], number.end()
        else:
            words, end = _reading(Place(text, number.start(), language, LANGUAGES[language]))
            words = _apart(read, words, text[end : end + 1])
        read += words
    return read + text[end:]


# Signs and abbreviations of "number" before one
NUMBER = {
    "de": re.compile(r"\bNr\.\s?(?=\d)"),
    "fr": re.compile(r"\b[nN][°º]\s?(?=\d)"),
    "es": re.compile(r"\b[nN]\.?[°º]\s?(?=\d)"),
    "it": re.compile(r"\b[nN](?:[°º]|\.)\s?(?=\d)"),
    "pt": re.compile(r"\b[nN]\.?[°º]\s?(?=\d)"),
    "ru": re.compile(r"№\s?(?=\d)"),
}
NUMBER_WORDS = {"de": "Nummer", "fr": "numéro", "es": "número", "it": "numero", "pt": "número", "ru": "номер"}


def _apart(before: str, words: str, after: str) -> str:
    """The words with a blank where a letter would touch them. Chinese characters, kana and hangul may."""
    left = " " if before and _joins(before[-1]) and _joins(words[:1]) else ""
    return left + words + (" " if _joins(after) and _joins(words[-1:]) else "")


def _joins(char: str) -> bool:
    return char.isalnum() and char < "\u1100"


@dataclass(frozen=True)
class Place:
    """A number in a text."""

    text: str
    start: int
    language: str
    tongue: Language

    def match(self, pattern: str) -> re.Match[str] | None:
        """The pattern here."""
        return re.compile(pattern).match(self.text, self.start)

    def before(self, pattern: str) -> re.Match[str] | None:
        """The pattern right before it, in any case."""
        return re.search(rf"(?:{pattern})$", self.text[max(0, self.start - 40) : self.start], re.IGNORECASE)

    def word(self, number: int, **more: Any) -> str:
        """The number as num2words has it."""
        return cardinal(number, self.tongue.code, **more)


Read = tuple[str, int] | None  # words and where they end in the text; None: the rule is not for this place


def cardinal(number: int, code: str, **more: Any) -> str:
    """The number in words. more: `to`, and in Russian `case` and `gender`."""
    from num2words import num2words

    words = num2words(number, lang=code, **more).replace(",", "")  # Portuguese has one after each thousand
    if code == "it":
        return re.sub("(?<=[a-z])tre$", "tré", words)
    return re.sub("^одн(?:а|ой|у) (?=тысяч)", "", words) if code == "ru" else words


# ---- amounts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Amount:
    """A number that counts or measures."""

    whole: int
    fraction: str = ""  # digits after the decimal sign
    negative: bool = False

    def form(self, forms: Forms, language: str) -> str:
        """The form of a noun after it."""
        if self.fraction:
            singular = self.whole < 2 and language in ("fr", "pt")
            return forms[1 if language == "ru" and len(forms) > 1 else 0 if singular else -1]
        if language == "ru" and len(forms) > 1:
            last, teen = self.whole % 10, 10 < self.whole % 100 < 20
            return forms[0 if last == 1 and not teen else 1 if 2 <= last <= 4 and not teen else 2]
        return forms[0 if self.whole == 1 or self.whole == 0 and language == "fr" else -1]


def _pattern(tongue: Language) -> str:
    """Of an amount: with separators of thousands, and a decimal sign."""
    if tongue.decimal == ".":
        return r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![.,]?\d)"
    thousands = rf"[1-9]\d{{0,2}}(?:\.\d{{3}})+|[1-9]\d{{0,2}}(?:{BLANK}\d{{3}})+|\d+"
    return rf"(?:[1-9]\d{{0,2}}(?:,\d{{3}})+\.\d+|(?:{thousands})(?:,\d+)?)(?![.,]?\d)"


def _amount(place: Place, written: str) -> Amount | None:
    """What is written; None for what is a code: a leading zero, or too long."""
    negative, digits = written[0] in MINUS, re.sub(rf"^[+{MINUS}]|{BLANK}", "", written)
    decimal = "." if digits.rfind(".") > digits.find(",") > 0 else place.tongue.decimal
    whole, _, fraction = digits.partition(decimal)
    whole = re.sub(r"[.,]", "", whole)
    if len(whole) > LONGEST or len(fraction) > LONGEST or len(whole) > 1 and whole[0] == "0":
        return None
    return Amount(int(whole), fraction, negative)


def _in_words(place: Place, amount: Amount, end: int) -> str:
    """The amount, agreeing with what ends before and begins at `end` as far as its letters tell."""
    sign = [place.tongue.minus] if amount.negative else []
    if amount.fraction and place.language == "ru":
        return " ".join([*sign, cardinal(f"{amount.whole}.{amount.fraction}", "ru")])  # num2words takes both
    whole = AGREEING.get(place.language, _plain)(place, amount.whole, place.text[end:]) if not amount.fraction else ""
    return place.tongue.glue.join([*sign, whole or place.word(amount.whole), *_fraction(place, amount.fraction)])


def _fraction(place: Place, digits: str) -> list[str]:
    """The decimal sign and what follows it: a number of up to three digits in Romance languages, else one by one."""
    if not digits:
        return []
    zeros = len(digits) - len(digits.lstrip("0"))
    if place.language in ("fr", "es", "it", "pt") and len(digits) - zeros in (1, 2, 3):
        return [place.tongue.point, *[place.word(0)] * zeros, place.word(int(digits))]
    return [place.tongue.point, _one_by_one(place, digits)]


def _one_by_one(place: Place, digits: str) -> str:
    words = [place.tongue.nil if digit == "0" and place.tongue.nil else place.word(int(digit)) for digit in digits]
    return ("" if place.tongue.nil else " ").join(words)


# ---- agreement: a number with the noun after it ------------------------------------------------------------------

_NOUN = re.compile(r"\s?([^\W\d_]+)")
_LABEL = (  # after one of these the number is a name: "page 1", "página 1"
    r"(?:seite|kapitel|zimmer|nummer|gleis|page|chapitre|chambre|numéro|página|capítulo|habitación|número|pagina|capitolo|"
    r"camera|numero|quarto|глава|страница|номер|комната)\s+"
)


def _plain(place: Place, number: int, after: str) -> str:
    return place.word(number)


def _noun(place: Place, after: str) -> str:
    """The word after a number that is counted by it; "" where there is none."""
    found = _NOUN.match(after)
    return "" if not found or place.before(_LABEL) else found[1]


def _german(place: Place, number: int, after: str) -> str:
    """ "ein" and "eine" before a noun; years, and other numbers of hundreds, in hundreds."""
    noun = _noun(place, after)
    if number == 1 and (noun[:1].isupper() or noun in ("mal", "h", *place.tongue.units)):
        return "eine" if re.search("(?:e|ung|heit|keit|schaft|ion|tät|ei)$", noun) else "ein"
    is_year = 1100 <= number < 2000 and re.match(r"\d{4}(?!\d)", place.text[place.start :])
    return place.word(number, to="year" if is_year else "cardinal")


def _french(place: Place, number: int, after: str) -> str:
    noun, words = _noun(place, after), place.word(number)
    feminine = (
        r"(?:fois|heures?|minutes?|secondes?|années?|semaines?|journées?|pages?|personnes?|livres?|places?|\w+tions?)$"
    )
    return words + "e" if number % 10 == 1 and words.endswith("un") and re.match(feminine, noun) else words


def _spanish(place: Place, number: int, after: str) -> str:
    """ "un", "veintiún", "una", "doscientas": by the ending of the noun."""
    noun, words = _noun(place, after), place.word(number)
    if not noun.islower() or len(noun) < 3 or noun in _SPANISH_NO_NOUN:
        return words
    feminine = re.search("(?:as?|ción|ciones|dad|dades)$", noun) and not re.search("(?:día|mapa|ma)s?$", noun)
    if feminine:
        words = re.sub("cientos", "cientas", words).replace("quinientos", "quinientas")
    if words.endswith("uno"):
        shorter = re.sub("veintiuno$", "veintiún", re.sub(r"\buno$", "un", words))
        return words[:-1] + "a" if feminine else shorter
    return words


_SPANISH_NO_NOUN = {"que", "con", "por", "para", "sin", "está", "era", "fue", "más", "menos", "entre", "hasta", "desde"}


def _italian(place: Place, number: int, after: str) -> str:
    noun = _noun(place, after)
    if number != 1 or not noun.islower() or len(noun) < 2 or noun in ("è", "ha", "di", "e", "o", "a", "per", "con"):
        return place.word(number)
    return "una" if noun.endswith("a") else "uno" if re.match("z|s[^aeiou]|gn|ps", noun) else "un"


def _portuguese(place: Place, number: int, after: str) -> str:
    noun, words = _noun(place, after), place.word(number)
    feminine = re.search("(?:[aã]s?|ção|ções|dade|dades|gem|gens|vez|vezes)$", noun)
    if not feminine or len(noun) < 3 or not noun.islower() or re.search("(?:dia|mapa|ma)s?$|^(?:para|era|mas)$", noun):
        return words
    words = re.sub("(c|qu)entos|zentos", lambda found: found[0][:-2] + "as", words)
    return re.sub(r"\bum$", "uma", re.sub(r"\bdois$", "duas", words))


def _russian(place: Place, number: int, after: str) -> str:
    """ "одна", "одно", "две" and the case by the ending of the noun; the genitive after prepositions that take it."""
    noun, last, teen = _noun(place, after), number % 10, 10 < number % 100 < 20
    noun = noun if len(noun) > 2 else ""
    case = next((case for ending, case in _RUSSIAN_CASES.items() if re.search(f"(?:{ending})$", noun)), "n")
    if case == "n" and place.before(r"\b(?:до|от|около|после|более|менее|больше|меньше|свыше|без|из|из-за|старше)\s+"):
        case = "g"
    gender = "m"
    if not teen and (last == 1 and re.search("[ая]$", noun) or last == 2 and re.search("[иы]$", noun)):
        gender = "f"
    elif not teen and last == 1 and re.search("[ое]$", noun):
        gender = "n"
    elif not teen and last == 1 and re.search("[ую]$", noun):
        gender, case = "f", "a"
    return place.word(number, case=case, gender=gender)


_RUSSIAN_CASES = {"ами|ями|ьми": "i", "ам|ям": "d", "ах|ях": "p"}
_KOREAN_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_KOREAN_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_KOREAN_COUNTERS = re.compile(
    r"\s?(?:개(?!월)|명|살|마리|권|대(?!\d)|잔|병|장|시간|시|달|사람|가지|켤레|송이|그루|벌|채|척|통|쪽|번째)"
)


def _korean(place: Place, number: int, after: str) -> str:
    """Native numbers before the counters that take them, up to 99; twelve hours a day."""
    counted = _KOREAN_COUNTERS.match(after)
    highest = 12 if counted and counted[0].strip() == "시" else 99
    decade = counted and counted[0].strip() == "대" and number % 10 == 0  # 20대: in one's twenties
    if not counted or decade or not 0 < number <= highest:
        months = {6: "유", 10: "시"} if re.match(r"\s?월", after) else {}
        return months.get(number) or place.word(number)
    tens, ones = divmod(number, 10)
    return "스무" if number == 20 else _KOREAN_TENS[tens] + _KOREAN_ONES[ones]


AGREEING: dict[str, Callable[[Place, int, str], str]] = {
    "de": _german, "fr": _french, "es": _spanish, "it": _italian, "pt": _portuguese, "ru": _russian, "ko": _korean,
}  # fmt: skip


# ---- rules: what a number is -------------------------------------------------------------------------------------


def _date(place: Place) -> Read:
    """A whole date: 3.5.2024, 03/05/2024, 2024-05-03."""
    found = place.match(rf"{DAY}([./-]){MONTH}\2{YEAR}(?![\d{MINUS}])")
    if found:
        day, month, year = int(found[1]), int(found[3]), int(found[4])
    elif found := place.match(rf"{YEAR}([./-]){MONTH}\2{DAY}(?![\d{MINUS}])"):
        year, month, day = int(found[1]), int(found[3]), int(found[4])
    elif place.language == "de" and (found := place.match(rf"{DAY}\.{MONTH}\.(?=\s\S)")):  # am 24.12. feiern wir
        return f"{_german_ordinal(place, int(found[1]))} {_month(place, int(found[2]))}", found.end()
    else:
        return None
    return DATES[place.language](place, day, month, year), found.end()


def _german_date(place: Place, day: int, month: int, year: int) -> str:
    kind = "year" if 1100 <= year < 2000 else "cardinal"
    return f"{_german_ordinal(place, day)} {_month(place, month)} {place.word(year, to=kind)}"


def _russian_date(place: Place, day: int, month: int, year: int) -> str:
    first, last = (place.word(number, to="ordinal", case="g") for number in (day, year))
    return f"{first} {_month(place, month)} {last} года"


def _romance_date(between: str, first: str, place: Place, day: int, month: int, year: int) -> str:
    words = first if day == 1 and first else place.word(day)
    return between.join([words, _month(place, month), place.word(year)])


def _eastern_date(place: Place, day: int, month: int, year: int) -> str:
    if place.language == "ja":
        return f"{place.word(year)}年{place.word(month)}月{place.word(day)}日"
    return f"{place.word(year)}년 {_korean(place, month, '월')}월 {place.word(day)}일"


def _month(place: Place, month: int) -> str:
    return place.tongue.months[month - 1]


DATES: dict[str, Callable[[Place, int, int, int], str]] = {
    "de": _german_date,
    "fr": partial(_romance_date, " ", "premier"),
    "es": partial(_romance_date, " de ", ""),
    "it": partial(_romance_date, " ", "primo"),
    "pt": partial(_romance_date, " de ", "primeiro"),
    "ru": _russian_date,
    "ja": _eastern_date,
    "ko": _eastern_date,
}


def _clock(place: Place) -> Read:
    """14:30, 14h30; in German also 14.30 Uhr and 1 Uhr."""
    marks = {"fr": "[:h]|\\sh\\s", "pt": "[:h]", "es": "[:h]", "de": ":|\\.(?=\\d\\d\\sUhr)"}.get(place.language, ":")
    found = place.match(rf"{HOUR}(?:{marks}){MINUTE}(?![\d:])(?:\s?(?:Uhr|h)\b)?")
    if found:
        return _time(place, int(found[1]), int(found[2]), place.text[found.end() :]), found.end()
    if place.language == "de" and (found := place.match(r"1(?=\sUhr\b)")):
        return "ein", found.end()
    if place.language in ("fr", "pt") and (found := place.match(rf"{HOUR}\s?h(?![\w²])")):
        hours = ("heure" if int(found[1]) < 2 else "heures") if place.language == "fr" else "horas"
        return _time(place, int(found[1]), 0, "").removesuffix(f" {hours}") + f" {hours}", found.end()
    return None


def _time(place: Place, hour: int, minute: int, after: str) -> str:
    """A clock time in words. after: what follows in the text, as "horas" may."""
    hours, minutes = place.word(hour), place.word(minute)
    if place.language in ("es", "it", "pt"):
        hours = _portuguese(place, hour, " horas") if place.language == "pt" else re.sub("uno$", "una", hours)
        if minute:
            return f"{hours} {'y' if place.language == 'es' else 'e'} {minutes}"
        return hours if place.language == "it" or re.match(r"\s?hor", after) else f"{hours} hora{'s' * (hour > 1)}"
    if place.language == "de":
        return " ".join([re.sub("eins$", "ein", hours) if hour == 1 else hours, "Uhr", *([minutes] if minute else [])])
    if place.language == "fr":
        noun = "heure" if hour < 2 else "heures"
        hours = hours + "e" if hour in (1, 21) else hours
        return " ".join([hours, noun, *([minutes] if minute else [])])
    if place.language == "ru":
        zero = "ноль " if 0 < minute < 10 else ""
        return f"{hours} {zero}{minutes}" if minute else f"{hours} {Amount(hour).form(('час', 'часа', 'часов'), 'ru')}"
    if place.language == "ja":
        return f"{hours}時" + (f"{minutes}分" if minute else "")
    return f"{_korean(place, hour, '시')} 시" + (f" {minutes} 분" if minute else "")


def _phone(place: Place) -> Read:
    """Digits in groups that begin with + or 0, of four, with hyphens, or after a word such as "Telefon": one by one."""
    found = place.match(r"\+?\d[\d ()/.\u00a0-]{,30}\d")
    if not found:
        return None
    written, after_code_word = found[0], _after_code_word(place)
    groups = re.findall(r"\d+", written)
    digits = sum(map(len, groups))
    starts = written[0] == "+" or written[0] == "0" and len(groups) > 1 and not re.match(r"0[.]\d+$", written)
    starts = starts or bool(re.match(r"\d{4}(?: \d{4}){2}|\d+(?:-\d+){2}", written))
    if len(groups) == 1 or digits < (6 if after_code_word else 7) or not (starts or after_code_word) or digits > 20:
        return None
    plus = {"de": "plus", "ru": "плюс", "it": "più", "es": "más", "pt": "mais", "ja": "プラス", "ko": "플러스"}
    words = [plus.get(place.language, "plus")] if written[0] == "+" else []
    comma = "、" if place.language == "ja" else ", "
    return " ".join([*words, comma.join(_one_by_one(place, group) for group in groups)]), found.end()


# Verbs between such a word and an amount: the telephone costs 45990
COSTS = (
    "kostete?n?|hat|haben|zählt|wiegt|umfasst|coûtent?|coûtait|couvre|compte|contient|pèse|cuestan?|costó|tiene|contiene|"
    "cubre|costano?|costava|ha|copre|custam?|custou|tem|contém|cobre|стоит|стоят|стоил|имеет|весит|содержит|a"
)


def _after_code_word(place: Place) -> bool:
    """Whether one of the three words before names a phone number or a code."""
    words = rf"(?:{place.tongue.code_words})"
    if re.match("円|元|원|개|명|人|個", place.text[place.start :].lstrip("0123456789,. ")):
        return False
    if place.tongue.glue == "" or place.language == "ko":
        return bool(place.before(rf"{words}\S{{0,4}}\s?"))
    return bool(place.before(rf"\b{words}\b[.:]?\s*(?:(?!(?:{COSTS})\s)[^\W\d]+[.:]?\s+){{0,2}}(?:n[°º]\s*)?"))


def _code(place: Place) -> Read:
    """A number with a leading zero, after a word such as "code", or too long for an amount: one by one."""
    found = place.match(r"\d+(?![.,:]?\d)")
    if not found:
        return None
    digits = found[0]
    counts = re.match(r"\s[^\W\d_]{2,}", place.text[found.end() :])
    long = len(digits) > LONGEST or len(digits) >= AS_ONE_BY_ONE and not counts
    if long or len(digits) > 1 and digits[0] == "0" or len(digits) > 2 and _after_code_word(place):
        return _one_by_one(place, digits), found.end()
    return None


def _money(place: Place) -> Read:
    """An amount with a sign of money before or after it; cents are read without their name."""
    pattern, signs = _pattern(place.tongue), "|".join(map(re.escape, place.tongue.money))
    found = place.match(
        rf"(?P<minus>[{MINUS}])?(?:(?P<sign>{signs}){BLANK}?)?(?P<number>{pattern})(?:{BLANK}?(?P<after>{signs}))?"
    )
    if not found or bool(found["sign"]) == bool(found["after"]):
        return None
    amount = _amount(place, (found["minus"] or "") + found["number"])
    if amount is None:
        return None
    noun = amount.form(place.tongue.money[found["sign"] or found["after"]], place.language)
    million = re.match(
        r"\s(?:mill|mrd|миллион|миллиард|млн|mil(?:lones|hões|ioni|iardi)?\b)\w*", place.text[found.end() :], re.I
    )
    if million:  # $5 million
        return (
            f"{_in_words(place, amount, found.end())}{million[0]} {_of_millions(place.language)}{noun}",
            found.end() + million.end(),
        )
    if len(amount.fraction) == 2 and place.language not in ("ja", "ko", "ru"):
        return _with_cents(place, amount, noun), found.end()
    words = _agreeing_with(place, amount, noun)
    return f"{words}{place.tongue.glue}{noun}", found.end()


def _of_millions(language: str) -> str:
    return {"fr": "de ", "es": "de ", "it": "di ", "pt": "de "}.get(language, "")


def _with_cents(place: Place, amount: Amount, noun: str) -> str:
    """3,50: "drei Euro fünfzig"."""
    euros, cents = Amount(amount.whole, "", amount.negative), int(amount.fraction)
    noun = euros.form(_forms_of(place, noun), place.language)
    between = {"es": " con ", "it": " e ", "pt": " e "}.get(place.language, " ")
    whole = f"{_agreeing_with(place, euros, noun)} {noun}"
    return whole + (between + place.word(cents) if cents else "")


def _forms_of(place: Place, noun: str) -> Forms:
    """All forms of a noun of money."""
    return next(forms for forms in place.tongue.money.values() if noun in forms)


def _agreeing_with(place: Place, amount: Amount, noun: str) -> str:
    """The amount before a noun that is not in the text."""
    invented = Place(f"{place.text[place.start : place.start + 4]} {noun}", 0, place.language, place.tongue)
    return _in_words(invented, amount, len(invented.text) - len(noun) - 1)


def _range(place: Place) -> Read:
    """5-10: from the smaller to the greater; 3:1 and 3-1: against."""
    found = place.match(rf"(\d{{1,4}}){BLANK}?(?:{DASH}){BLANK}?(\d{{1,4}})(?![\d.,:]?\d|{DASH}\d)")
    score = place.match(r"(\d{1,3}):(\d{1,3})(?![\d:])")
    pair = found or score
    if not pair or any(len(number) > 1 and number[0] == "0" for number in pair.groups()):
        return None
    first, second = map(int, pair.groups())
    falls = first >= second  # no range: a score
    if found and (falls and max(first, second) > 99 or place.before(r"\w-")):
        return None
    word = place.tongue.to if found and not falls else place.tongue.against
    glue = "" if word == "-" or place.language in ("ja", "ko") else " "
    after = " " if place.language == "ko" else glue
    later = Place(place.text, pair.start(2), place.language, place.tongue)
    end = pair.end()
    read = None if falls else _measure(later)
    read = read or (later.word(second), end)
    return f"{place.word(first)}{glue}{word}{after}{read[0]}", read[1]


def _part(place: Place) -> Read:
    """1/2, 3/4."""
    found = place.match(r"([1-9])/([2-9])(?![\d/])")
    words = PARTS.get(place.language, {}).get(found[0]) if found else None
    if found and place.language in ("ja", "ko"):
        above, below = place.word(int(found[1])), place.word(int(found[2]))
        words = f"{below}分の{above}" if place.language == "ja" else f"{below}분의 {above}"
    return (words, found.end()) if found and words else None


PARTS = {
    "de": {"1/2": "ein halb", "1/3": "ein Drittel", "2/3": "zwei Drittel", "1/4": "ein Viertel", "3/4": "drei Viertel"},
    "fr": {"1/2": "un demi", "1/3": "un tiers", "2/3": "deux tiers", "1/4": "un quart", "3/4": "trois quarts"},
    "es": {"1/2": "medio", "1/3": "un tercio", "2/3": "dos tercios", "1/4": "un cuarto", "3/4": "tres cuartos"},
    "it": {"1/2": "mezzo", "1/3": "un terzo", "2/3": "due terzi", "1/4": "un quarto", "3/4": "tre quarti"},
    "pt": {"1/2": "meio", "1/3": "um terço", "2/3": "dois terços", "1/4": "um quarto", "3/4": "três quartos"},
    "ru": {
        "1/2": "одна вторая",
        "1/3": "одна треть",
        "2/3": "две трети",
        "1/4": "одна четверть",
        "3/4": "три четверти",
    },
}


def _ordinal(place: Place) -> Read:
    """What a language writes so: 3. Mai, 1er, 2º, 3-й, 1º de maio, 3 мая, 2024 году."""
    found = place.match(r"\d{1,4}(?!\d)")
    if not found or place.language not in ORDINALS:
        return None
    number, after = int(found[0]), place.text[found.end() :]
    read = ORDINALS[place.language](place, number, after) if number else None
    return (read[0], found.end() + read[1]) if read else None


def _german_ordinals(place: Place, number: int, after: str) -> Read:
    if re.match(r"er\b", after) and number % 10 == 0:  # 90er Jahre
        return place.word(number, to="year" if 1100 <= number < 2000 else "cardinal") + "er", 2
    months = "|".join(place.tongue.months)
    article = r"\b(?:der|die|das|den|dem|des|am|zum|zur|vom|im|beim|bis)\s+"
    if re.match(rf"\.\s(?:{months})\b", after) or place.before(article) and re.match(r"\.\s[^\W\d_]", after):
        return _german_ordinal(place, number), 1
    return None


def _german_ordinal(place: Place, number: int) -> str:
    """Ending in -n after a preposition or "den", in -r without article."""
    word = place.word(number, to="ordinal")
    prepositions = r"in|an|auf|mit|von|bei|zu|nach|seit|aus|vor"
    if place.before(rf"\b(?:am|zum|zur|vom|im|beim|den|dem|des|(?:{prepositions})\s+der|seit|bis|ab)\s+"):
        return word + "n"
    return word if place.before(r"\b(?:der|die|das)\s+") else word + "r"


def _french_ordinals(place: Place, number: int, after: str) -> Read:
    months = "|".join(place.tongue.months)
    if number == 1 and (found := re.match(rf"er\b|(?=\s(?:{months})\b)", after)):
        return "premier", found.end()
    if number == 1 and (found := re.match(r"(?:re|ère)\b", after)):
        return "première", found.end()
    found = re.match(r"(?:e|è|ème|nde?|d)\b", after)
    return (place.word(number, to="ordinal"), found.end()) if found and number > 1 else None


def _romance_ordinals(place: Place, number: int, after: str) -> Read:
    months = "|".join(place.tongue.months)
    first = {"it": rf"(?=\s(?:{months})\b)|°(?=\s(?:{months})\b)", "pt": rf"º?(?=\s(?:de\s)?(?:{months})\b)"}
    if number == 1 and place.language in first and (found := re.match(first[place.language], after)):
        return place.word(1, to="ordinal"), found.end()
    endings = {"es": "er|o|a|ro|ra|do|da|to|ta", "pt": "o|a"}.get(place.language)
    if place.language == "it" and number <= 100 and re.match(r"[°º]\s[^\W\d_]", after):
        return place.word(number, to="ordinal"), 1
    found = re.match(r"\.?[ºª]" + (rf"|\.?(?:{endings})\b" if endings else ""), after)
    if not found:
        return None
    word = place.word(number, to="ordinal")
    if "ª" in found[0] or found[0].endswith("a"):
        return re.sub(r"o\b", "a", word), found.end()
    short = place.language == "es" and (found[0].endswith("er") or re.match(r"\s[^\W\d_]", after[found.end() :]))
    return re.sub("(primer|tercer)o$", r"\1", word) if short else word, found.end()


def _russian_ordinals(place: Place, number: int, after: str) -> Read:
    ending = re.match(r"-(ый|ой|й|го|ого|его|му|ому|м|ом|ем|я|ая|ю|ую|е|ое|х|ых)\b", after)
    if ending:
        return place.word(number, to="ordinal", **_RUSSIAN_ENDINGS[ending[1][-1]]), ending.end()
    if re.match(rf"\s(?:{'|'.join(place.tongue.months)})\b", after) and number <= 31:
        return place.word(number, to="ordinal", case="g"), 0
    year = re.match(r"\s(?:год(а|у|ом)?|г\.)(?!\w)", after)
    if year and number >= 1000:
        case = {"а": "g", "у": "d" if place.before(r"\bк\s+") else "p", "ом": "i"}.get(year[1] or "", "n")
        if "г." in year[0]:
            case = (
                "p"
                if place.before(r"\bв\s+")
                else "g"
                if place.before(rf"(?:{'|'.join(place.tongue.months)})\s+")
                else "n"
            )
        return place.word(number, to="ordinal", case=case), 0
    return None


_RUSSIAN_ENDINGS = {
    "й": {}, "х": {"case": "p", "plural": True},
    "о": {"case": "g"}, "у": {"case": "d"}, "м": {"case": "p"}, "я": {"gender": "f"},
    "ю": {"case": "a", "gender": "f"}, "е": {"gender": "n"},
}  # fmt: skip
ORDINALS: dict[str, Callable[[Place, int, str], Read]] = {
    "de": _german_ordinals,
    "fr": _french_ordinals,
    "es": _romance_ordinals,
    "it": _romance_ordinals,
    "pt": _romance_ordinals,
    "ru": _russian_ordinals,
}


def _measure(place: Place) -> Read:
    """An amount, with the unit after it where no letter follows that."""
    found = place.match(rf"[+{MINUS}]?(?:{_pattern(place.tongue)})")
    amount = _amount(place, found[0]) if found else None
    if not found or amount is None:
        return None
    units = "|".join(re.escape(unit) for unit in sorted(place.tongue.units, key=len, reverse=True))
    unit = re.compile(rf"{BLANK}?({units})(?![{LETTERS}²/])").match(place.text, found.end())
    if not unit:
        return _in_words(place, amount, found.end()), found.end()
    noun = amount.form(place.tongue.units[unit[1]], place.language)
    return f"{_agreeing_with(place, amount, noun)}{place.tongue.glue}{noun}", unit.end()


def _dotted(place: Place) -> Read:
    """3.11.2: its numbers with the name of the dot between them."""
    found = place.match(r"\d{1,4}(?:\.\d{1,4})+(?![.,]?\d)")
    if not found:
        return None
    numbers = [
        _one_by_one(place, part) if len(part) > 1 and part[0] == "0" else place.word(int(part))
        for part in found[0].split(".")
    ]
    return f"{place.tongue.glue}{place.tongue.dot}{place.tongue.glue}".join(numbers), found.end()


def _reading(place: Place) -> tuple[str, int]:
    """The words of a number by the first rule that is for it, and where it ends."""
    for rule in RULES:
        if read := rule.read(place):
            return read
    sign = re.compile(r"[^0-9]*").match(place.text, place.start)
    digits = re.compile("[0-9]+").match(place.text, sign.end())
    return sign[0] + _one_by_one(place, digits[0]), digits.end()


@dataclass(frozen=True)
class Rule:
    """One kind of number, and how it is read in each language."""

    read: Callable[[Place], Read]
    examples: Mapping[str, tuple[str, str]]  # {language: (written, read)}


# In the order in which they are asked; the first that is for a number reads it
RULES = (
    Rule(
        _date,
        {
            "de": ("am 03.05.1954", "am dritten Mai neunzehnhundertvierundfünfzig"),
            "fr": ("le 01/05/2024", "le premier mai deux mille vingt-quatre"),
            "es": ("03/05/2024", "tres de mayo de dos mil veinticuatro"),
            "it": ("03/05/2024", "tre maggio duemilaventiquattro"),
            "pt": ("03/05/2024", "três de maio de dois mil e vinte e quatro"),
            "ru": ("03.05.2024", "третьего мая две тысячи двадцать четвёртого года"),
            "ja": ("2024/05/03", "二千二十四年五月三日"),
            "ko": ("2024-10-03", "이천이십사년 시월 삼일"),
        },
    ),
    Rule(
        _clock,
        {
            "de": ("um 14:30 Uhr", "um vierzehn Uhr dreißig"),
            "fr": ("à 14h30", "à quatorze heures trente"),
            "es": ("a las 14:30", "a las catorce y treinta"),
            "it": ("alle 8:05", "alle otto e cinque"),
            "pt": ("às 2h15", "às duas e quinze"),
            "ru": ("в 8:05", "в восемь ноль пять"),
            "ja": ("14:30", "十四時三十分"),
            "ko": ("2:30", "두 시 삼십 분"),
        },
    ),
    Rule(
        _phone,
        {
            "de": ("Tel. 030 123456", "Tel. null drei null, eins zwei drei vier fünf sechs"),
            "fr": ("le 01 23 45 67 89", "le zéro un, deux trois, quatre cinq, six sept, huit neuf"),
            "es": ("llame al 912 345 678", "llame al nueve uno dos, tres cuatro cinco, seis siete ocho"),
            "it": ("+39 06 12345", "più tre nove, zero sei, uno due tre quattro cinque"),
            "pt": ("ligue para 99123-4567", "ligue para nove nove um dois três, quatro cinco seis sete"),
            "ru": ("тел. 555-35-35", "тел. пять пять пять, три пять, три пять"),
            "ja": ("電話は03-1234-5678", "電話はゼロ三、一二三四、五六七八"),
            "ko": ("010-1234-5678", "공일공, 일이삼사, 오육칠팔"),
        },
    ),
    Rule(
        _money,
        {
            "de": ("3,50 €", "drei Euro fünfzig"),
            "fr": ("1 234 €", "mille deux cent trente-quatre euros"),
            "es": ("200 £", "doscientas libras"),
            "it": ("$1", "un dollaro"),
            "pt": ("R$ 1.000,50", "mil reais e cinquenta"),
            "ru": ("22 ₽", "двадцать два рубля"),
            "ja": ("¥1,000", "千円"),
            "ko": ("₩1,000", "천 원"),
        },
    ),
    Rule(
        _range,
        {
            "de": ("5-10 %", "fünf bis zehn Prozent"),
            "fr": ("10–12", "dix à douze"),
            "es": ("3:1", "tres a uno"),
            "it": ("10–12", "dieci a dodici"),
            "pt": ("10-12", "dez a doze"),
            "ru": ("5–10", "пять-десять"),
            "ja": ("10〜12", "十から十二"),
            "ko": ("5~10", "오에서 십"),
        },
    ),
    Rule(
        _part,
        {
            "de": ("3/4", "drei Viertel"),
            "fr": ("2/3", "deux tiers"),
            "es": ("1/2", "medio"),
            "it": ("3/4", "tre quarti"),
            "pt": ("1/4", "um quarto"),
            "ru": ("2/3", "две трети"),
            "ja": ("3/4", "四分の三"),
            "ko": ("3/4", "사분의 삼"),
        },
    ),
    Rule(
        _ordinal,
        {
            "de": ("am 3. Mai", "am dritten Mai"),
            "fr": ("le 1er, le 2e", "le premier, le deuxième"),
            "es": ("el 3er piso, la 2ª", "el tercer piso, la segunda"),
            "it": ("il 1° maggio", "il primo maggio"),
            "pt": ("1º de maio", "primeiro de maio"),
            "ru": ("в 2024 году", "в две тысячи двадцать четвёртом году"),
        },
    ),
    Rule(
        _code,
        {
            "de": ("007", "null null sieben"),
            "fr": ("code 4711", "code quatre sept un un"),
            "es": ("02139", "cero dos uno tres nueve"),
            "it": ("123456789", "uno due tre quattro cinque sei sette otto nove"),
            "pt": ("CEP 01310", "CEP zero um três um zero"),
            "ru": ("код 4711", "код четыре семь один один"),
            "ja": ("暗証番号は4711", "暗証番号は四七一一"),
            "ko": ("비밀번호 4711", "비밀번호 사칠일일"),
        },
    ),
    Rule(
        _measure,
        {
            "de": ("-2,5 °C", "minus zwei Komma fünf Grad Celsius"),
            "fr": ("1,80 m", "un virgule quatre-vingts mètre"),
            "es": ("1.234.567", "un millón doscientos treinta y cuatro mil quinientos sesenta y siete"),
            "it": ("20 %", "venti per cento"),
            "pt": ("2 filhas", "duas filhas"),
            "ru": ("1 минута, 5 кг", "одна минута, пять килограммов"),
            "ja": ("1,234.5km", "千二百三十四点五キロメートル"),
            "ko": ("사과 5개, 5층", "사과 다섯개, 오층"),
        },
    ),
    Rule(
        _dotted,
        {
            "de": ("Python 3.11.2", "Python drei Punkt elf Punkt zwei"),
            "fr": ("3.11", "trois point onze"),
            "es": ("3.11", "tres punto once"),
            "it": ("3.11", "tre punto undici"),
            "pt": ("3.11", "três ponto onze"),
            "ru": ("3.11", "три точка одиннадцать"),
            "ja": ("3.11.2", "三点十一点二"),
            "ko": ("3.11.2", "삼 점 십일 점 이"),
        },
    ),
)
