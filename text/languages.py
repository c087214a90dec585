"""Which language and script a text is in: by its letters, by py3langid and small words, and by tags such as <|fr|>."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

from cosyvoice.cli.text import blocks
from cosyvoice.tokenizer.tokenizer import TAG

KANA = {"HIRAGANA", "KATAKANA"}
EAST = KANA | {"HANGUL", "CJK", "BOPOMOFO"}  # written without small and capital letters, often without blanks
NORMALISED = {"en", "zh"}  # languages whose numbers stock, too, reads rightly
SCRIPTS = {"HANGUL": "Hangul", "CJK": "Chinese characters", "LATIN": "Latin letters", "CYRILLIC": "Cyrillic letters"}
NO_LETTERS = "no letters"

# ---- Latin letters: py3langid's probabilities, raised by each small word -------------------------------------------

# Words that a sentence can hardly do without, or that stand beside numbers
SMALL_WORDS = {
    "en": """a an the and or but of to in on at for with from by is are was were be been am not it its this that these
        those i you he she we they his her my your our their me him us them have has had do does did will would
        can could should may must if when where who which what how why there here than then as so all some any
        one more very about into over after before up out just only also said please hours minutes days years
        o'clock degrees""",
    "de": """der die das den dem des ein eine einen einem einer eines und oder aber ich du er sie es wir ihr mich mir
        dich dir ihm ihn uns euch ist sind war waren bin bist sein hat habe haben hatte wird werden wurde wurden
        nicht kein keine mit von vom zu zum zur im in auf für an am aus bei beim nach über unter vor um als wie
        wenn dass weil noch nur auch schon so sehr mehr hier dort heute morgen gestern mein meine dein kann
        können muss müssen soll bitte danke ja seit bis durch gegen ohne zwischen gibt diese dieser dieses man
        was wo kostet dauert uhr jahr jahre jahren stunde stunden minuten sekunden tag tage tagen woche wochen
        monate monaten seite kapitel zimmer grad prozent stück januar februar märz mai juni juli august oktober
        dezember etwa ungefähr einwohner wohnt lebt geboren gekauft kam rufen menschen personen beginnt will her
        also""",
    "fr": """le la les un une des du de et ou mais je tu il elle on nous vous ils elles me te se ce cet cette ces mon
        ma mes ton ta son sa ses notre votre leur leurs est sont était étaient suis es êtes être a ai as avons
        avez ont avait avoir ne pas plus que qui quoi dont où dans en au aux à par pour avec sans sur sous chez
        entre vers depuis pendant avant après très bien aussi comme si y fait faire peut tout tous toute toutes
        merci bonjour aujourd hui ici c j l d n s qu coûte dure environ encore heure heures an ans année années
        jour jours semaine semaines mois siècle page chapitre chambre degrés habitants euros mètres janvier
        février mars avril mai juin juillet août septembre octobre novembre décembre habite vit né acheté sorti
        coûté appelez personnes commence film maison or minute minutes seconde secondes kilos""",
    "es": """el la los las un una unos unas y o pero yo tú él ella nosotros ellos me te se nos le les lo mi mis tu tus
        su sus es son era eran soy eres está están estaba ser estar fue ha he han hay había tiene tengo tienen no
        sí que qué quien donde dónde cuando como cómo de del en a al por para con sin sobre entre hasta desde muy
        más menos también ya si este esta estos estas ese esa eso esto todo todos toda gracias hola hoy ayer
        mañana aquí cada porque cuesta dura hace quedan hora horas año años día días minutos segundos semana
        semanas mes meses siglo página capítulo habitación grados habitantes euros metros calle enero febrero
        marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre vive viven nació compré salió
        costó ganó llame vinieron personas tenemos empieza película has""",
    "it": """il lo la i gli le un uno una e ed o ma io tu lui lei noi voi loro mi ti ci vi si è sono era erano sei
        siamo essere ho hai ha abbiamo hanno aveva non che chi cui dove quando come di del dello della dei degli
        delle da dal dalla in nel nella nei nelle a al alla ai alle con su sul sulla per tra fra più meno molto
        anche già se questo questa questi queste quello quella tutto tutti grazie ciao oggi ieri domani qui
        perché sua suo mio mia dell all nell dall sull l d c costa dura circa ancora ora ore anno anni giorno
        giorni minuti secondi settimana settimane mese mesi secolo pagina capitolo camera gradi abitanti euro
        metri via gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre
        abita vive nacque nato comprato uscito costato chiami persone comincia casa""",
    "pt": """o a os as um uma uns umas e ou mas eu tu ele ela nós eles elas me te se lhe meu minha seu sua seus suas é
        são era eram sou está estão estava ser estar foi tem tenho têm há havia não sim que quem onde quando como
        de do da dos das em no na nos nas num numa ao aos à às por pelo pela para com sem sobre entre até desde
        muito mais menos também já este esta esse essa isto isso todo todos toda obrigado olá hoje ontem amanhã
        aqui porque você vocês custa dura faltam hora horas ano anos dia dias minutos segundos semana semanas mês
        meses século página capítulo quarto graus habitantes euros metros rua janeiro fevereiro março abril maio
        junho julho agosto setembro outubro novembro dezembro mora moram temos nasceu comprei saiu custou ganhou
        ligue vieram pessoas começa filme casa""",
}
_SMALL_WORDS = {code: frozenset(words.split()) for code, words in SMALL_WORDS.items()}
_ENGLISH_ONLY = _SMALL_WORDS["en"].difference(*(words for code, words in _SMALL_WORDS.items() if code != "en"))
# Letters besides a-z. A small word with another one is of no such language; names may have any.
LETTERS = {"en": "éèïöñç", "de": "äöüß", "fr": "àâæçèéêëîïôœùûüÿ", "es": "áéíñóúü", "it": "àèéìíîòóùú"} | {
    "pt": "áâãàçéêíóôõúü"
}
# What a text in Latin letters may be in, too
RIVALS = "af ca cs cy da eo et eu fi ga gl hr hu id is la lb lt lv mt nl no pl ro sk sl sq sv sw tl tr vi".split()
SMALL_WORD_ODDS = 3.0  # by which a small word raises the odds of its language
MAX_SMALL_WORDS = 4  # that count
SURE, SURE_OF_ENGLISH = 0.8, 0.5  # probabilities; taking a text for English does no more harm than not knowing it
AHEAD = 4.0  # times likelier than the second, which suffices where its small words are the most, too

# ---- Cyrillic letters ----------------------------------------------------------------------------------------------

RUSSIAN_LETTERS = frozenset("абвгдеёжзийклмнопрстуфхцчшщъыьэюя")
# Bulgarian has no other letters than Russian, but a ъ before a consonant, and these words; Russian has none of them
_BULGARIAN = re.compile(
    r"ъ(?![еёюя])|\b(?:се|съм|сме|са|от|за да|ще|това|тази|беше|има|имам|имаме|като|много|е)\b", re.I
)
_RUSSIAN = re.compile(r"[ыэё]|\b(?:мне|что|год|года|лет|был|есть|у|из|его|не)\b", re.I)

# ---- mixed text ----------------------------------------------------------------------------------------------------

# Where a sentence surely ends; three small letters before a full stop are no abbreviation
_SENTENCE = re.compile(r"(?:[^\W\d_]{3}\.|[!?…])[\"”’»)]*\s+|[。！？；…]+[”’」』）]*\s*|\n\s*")
_WORD = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d")
_ENGLISH_NUMBER = re.compile(
    "(?<![a-z])(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thir(?:teen|ty)|four(?:teen|ty)|forty|"
    "fif(?:teen|ty)|(?:six|seven|eigh|nine)(?:teen|ty)|twenty|hundred|thousand|million|first|second|third)(?![a-z])",
    re.IGNORECASE,
)
_SPELT_ALIKE = {"fr": "six", "it": "zero", "pt": "zero"}  # as in English
# At the end of a run: a number after a blank or a mark, with nothing but a blank after it; or an opening bracket
_TO_THE_NEXT = re.compile(
    r"(?:(?<=[\s，。、：；！？(（])|^)[^\w\s]?\d[\d.,:/%°\s–-]*(?<![.,:])(?<![.,:]\s)$|[(（[“‘「『《\"]+$"
)
_CHINESE_PARTICLES = frozenset("的了是我你您他她它们这那在吗呢吧么不有和就都也把被给")
_CHINESE_ONLY = frozenset("们这你她吗呢吧您哪么个说没东车见时过还对给钱岁为从样问间买卖吃")  # hardly ever in Japanese
EAST_WEIGHT = 3  # letters of another script that one East Asian letter stands for
LONGEST_SENTENCE = 1000  # characters
MIN_OWN_LETTERS, MIN_OWN_WORDS = 5, 3  # from which on a run of another script is no mere name or word


def without_tags(text: str) -> str:
    """What is spoken of a text: <|en|> and the like steer the model."""
    return TAG.sub("", text)


def tagged_language(text: str) -> str | None:
    """The language code that a text is tagged with, "fr" of <|fr|>; None for other tags, such as <|endofprompt|>."""
    codes = [tag.strip("<|>") for tag in TAG.findall(text)]
    return next((code for code in codes if re.fullmatch("[a-z]{2,3}", code)), None)


def language_of(text: str) -> str:
    """The likeliest language code of a whole text: its tag, else by most letters; "en" where Latin ones do not tell."""
    if tagged := tagged_language(text):
        return tagged
    letters = Counter[str]()
    for language, piece in stretches(text):
        for kind, count in Counter(_scripts(piece)).items():
            letters[language or _likeliest(piece, kind)] += count * (EAST_WEIGHT if kind in EAST else 1)
    return max(letters, key=lambda code: letters[code], default="en")


def stretches(text: str) -> list[tuple[str, str]]:
    """(language code, piece) of each stretch of the text; the pieces joined are the text. "" where it is not sure.

    A language is decided sentence by sentence. A name or a word in other letters belongs to the sentence around it, a
    clause in other letters stands for itself; numbers go with the words that they touch or precede.
    """
    if tagged := tagged_language(text):
        return [(tagged, text)]
    found = [part for sentence in _sentences(text) for part in _parts(sentence)]
    sure = {language for language, piece in found if language and _kind_of(piece) == "LATIN"}
    if len(sure) == 1:  # a short sentence is in the language of the others
        found = [(language or _if_latin(piece, *sure), piece) for language, piece in found]
    return _joined(found)


def script(text: str) -> str:
    """The script of most letters; kana anywhere means Japanese."""
    names = _scripts(text)
    if KANA & set(names):
        return "Japanese"
    most = Counter(names).most_common(1)
    return SCRIPTS.get(most[0][0], most[0][0].title()) if most else NO_LETTERS


def digits_in_english(written: str, normalised: str, language: str = "en") -> bool:
    """Whether normalising made English words of digits that stand in another language.

    language: code of what is spoken, where more is known than the letters tell; Latin ones may tell nothing."""
    found = [(code, piece) for code, piece in stretches(written) if any(map(str.isdigit, piece))]
    own = {_SPELT_ALIKE.get(code) for code, _ in found}
    before, after = ([word.lower() for word in _ENGLISH_NUMBER.findall(text)] for text in (written, normalised))
    if sum(word not in own for word in after) <= sum(word not in own for word in before):
        return False
    by_letters = {code or (language if _kind_of(piece) in ("", "LATIN") else "") for code, piece in found}
    return not by_letters <= NORMALISED


def _scripts(text: str) -> list[str]:
    """The script of each letter, as Unicode names it."""
    return [_script_of(char) for char in without_tags(text) if char.isalpha()]


@lru_cache(maxsize=4096)
def _script_of(char: str) -> str:
    first, *more = unicodedata.name(char, "").split(" ")
    return more[0] if first in ("FULLWIDTH", "HALFWIDTH") and more else first  # Ａ is a Latin letter, ｶ kana


def _kind(char: str) -> str:
    """The script of a letter, one name for all East Asian ones; "" for other characters."""
    if not char.isalpha():
        return ""
    name = _script_of(char)
    return "EAST" if name in EAST else name


def _kind_of(piece: str) -> str:
    """The script of most of its letters, an East Asian one for several; "" without letters."""
    weights = Counter[str]()
    for kind in map(_kind, piece):
        weights[kind] += EAST_WEIGHT if kind == "EAST" else 1
    del weights[""]
    return max(weights, key=lambda kind: weights[kind], default="")


def _if_latin(piece: str, language: str) -> str:
    return language if _kind_of(piece) == "LATIN" else ""


# ---- sentences and what is in them -------------------------------------------------------------------------------


def _sentences(text: str) -> Iterator[str]:
    """The text cut after each sentence, and within those that no one would write."""
    ends = [0, *(end.end() for end in _SENTENCE.finditer(text)), len(text)]
    for start, end in pairwise(ends):
        if start < end:
            yield from blocks(text[start:end], LONGEST_SENTENCE)


def _parts(sentence: str) -> list[tuple[str, str]]:
    """(language, piece) of each stretch of a sentence."""
    runs = _runs(sentence)
    own = {kind for kind, run in runs if _is_clause(kind, run)} or {_kind_of(sentence)}
    found: list[tuple[str, str]] = []
    guests = ""  # at the start of the sentence
    for kind, run in runs:
        if kind in own and (len(own) == 1 or kind != "LATIN" or _is_clause(kind, run)):
            found.append((kind, guests + run))
            guests = ""
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + run)
        else:
            guests += run
    east = _east_language(sentence)
    together = [(kind, "".join(piece for _, piece in group)) for kind, group in groupby(found, lambda part: part[0])]
    return [(_language(kind, piece, east), piece) for kind, piece in together]


def _is_clause(kind: str, run: str) -> bool:
    """Whether a run of one script is more than a name, a word or a few."""
    if kind == "EAST":
        letters = [char for char in run if _kind(char) == kind]
        return len(letters) >= MIN_OWN_LETTERS or bool(_CHINESE_PARTICLES.intersection(letters))
    words = [word for word in _WORD.findall(run) if len(word) > 1]
    small = [word for word in words if word.islower()]
    return len(words) >= MIN_OWN_WORDS and len(small) >= 2 if kind == "LATIN" else len(words) >= 2


def _runs(sentence: str) -> list[tuple[str, str]]:
    """(script, run) of each run in one script, each with the digits and marks that belong to it."""
    runs: list[tuple[str, str]] = []
    for kind, chars in groupby(sentence, _kind):
        piece = "".join(chars)
        if not runs or not kind or not runs[-1][0] or runs[-1][0] == kind:
            last = runs.pop() if runs else ("", "")
            runs.append((last[0] or kind, last[1] + piece))
        else:
            before, after = _divided(runs[-1][1])
            runs[-1] = (runs[-1][0], before)
            runs.append((kind, after + piece))
    return runs


def _divided(run: str) -> tuple[str, str]:
    """A run, and what at its end belongs to the next one: a number that a blank parts from it, an opening bracket."""
    end = _TO_THE_NEXT.search(run)
    return (run[: end.start()], run[end.start() :]) if end else (run, "")


def _joined(found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one language as one; what holds no letter goes with what is before it, else after it."""
    languages: list[str] = []
    pieces: list[list[str]] = []  # of each
    letters = False  # in the last
    for language, piece in found:
        has_letters = bool(_kind_of(piece))
        if languages and (languages[-1] == language or not has_letters or not letters):
            languages[-1] = language if has_letters else languages[-1]
            pieces[-1].append(piece)
            letters |= has_letters
        else:
            languages.append(language)
            pieces.append([piece])
            letters = has_letters
    return [(language, "".join(parts)) for language, parts in zip(languages, pieces, strict=True)]


# ---- the language of letters -------------------------------------------------------------------------------------


def _language(kind: str, piece: str, east: str) -> str:
    if kind == "EAST":
        return east
    return {"LATIN": _latin_language, "CYRILLIC": _cyrillic_language}.get(kind, lambda _: "")(piece)


def _east_language(sentence: str) -> str:
    """ "ja", "ko" or "zh" of a sentence that holds East Asian letters. A Japanese word does not make it Japanese."""
    names = Counter(_scripts(sentence))
    if names["HANGUL"]:
        return "ko"
    hiragana = names["HIRAGANA"] - sentence.count("の")
    if hiragana or names["KATAKANA"] + names["HIRAGANA"] and not _CHINESE_ONLY.intersection(sentence):
        return "ja"
    return "zh"


def _cyrillic_language(piece: str) -> str:
    """ "ru", or "" for other languages in Cyrillic letters."""
    letters = {char for char in piece.lower() if _kind(char) == "CYRILLIC"}
    foreign = letters - RUSSIAN_LETTERS or len(_BULGARIAN.findall(piece)) > len(_RUSSIAN.findall(piece))
    return "" if foreign else "ru"


@lru_cache(maxsize=1024)
def _latin_language(piece: str) -> str:
    """One of SMALL_WORDS where it is sure, else ""."""
    words = _WORD.findall(piece.lower() if piece.isupper() else piece)
    small, english = {word.lower() for word in words}, _ENGLISH_ONLY.intersection(words)
    if len(small & _ENGLISH_ONLY) >= 2:
        return "en"
    counts = {code: len(small & known) if _spells(code, words) else 0 for code, known in _SMALL_WORDS.items()}
    odds = {
        code: probability * SMALL_WORD_ODDS ** min(counts.get(code, 0), MAX_SMALL_WORDS)
        for code, probability in _identifier().rank(_DIGITS.sub("", piece))
    }
    best, second = sorted(odds, key=lambda code: -odds[code])[:2]
    if best not in SMALL_WORDS or best != "en" and (english or _is_name(words, best)):
        return ""
    sure = odds[best] >= (SURE_OF_ENGLISH if best == "en" else SURE) * sum(odds.values())
    ahead = counts[best] > max(count for code, count in counts.items() if code != best)
    return best if sure or ahead and odds[best] >= AHEAD * odds[second] else ""


def _is_name(words: Sequence[str], code: str) -> bool:
    """Whether the words could all be of a name, as in Rio de Janeiro. German nouns have capitals without being one."""
    plain = [word for number, word in enumerate(words) if not number or word.islower() or code == "de"]
    known = sum(word.lower() in _SMALL_WORDS[code] for word in plain)
    return known < 2 and not any(len(word) > 3 and word.islower() for word in words)


def _spells(code: str, words: Sequence[str]) -> bool:
    """Whether all words but names are in letters of the language."""
    return all(not word.islower() or set(word) <= _ALPHABETS[code] for word in words)


_ALPHABETS = {code: frozenset("abcdefghijklmnopqrstuvwxyz" + more) for code, more in LETTERS.items()}


def _likeliest(piece: str, kind: str) -> str:
    """Language code of a piece that is in none of the languages that `stretches` is sure of."""
    return "en" if kind == "LATIN" else _identifier(all_languages=True).classify(piece)[0]


@lru_cache(maxsize=2)
def _identifier(all_languages: bool = False) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 0.5 s

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if not all_languages:
        identifier.set_languages([*SMALL_WORDS, *RIVALS])
    return identifier
