"""Tables that name recordings and their texts: metadata.csv and *.list, by known headers or by what the columns hold.

A text column that holds the same everywhere, numbers or paths is refused: training would learn it without complaint.
"""

import csv
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from clips.transcripts import one_line, read_text
from common.files import split_lines
from config import UserError
from cosyvoice.utils.audio_files import AUDIO_SUFFIXES
from cosyvoice.utils.common import InputError

METADATA = "metadata.csv"
TABLE_NAME = re.compile(r"metadata.*\.(?:csv|tsv)|.+\.list", re.IGNORECASE)
OTHER_TABLE = re.compile(r".+\.(?:csv|tsv|jsonl)|(?:metadata|transcripts?)\.txt", re.IGNORECASE)
DELIMITERS = "|\t;,"  # the rarest in texts come first

# Titles of columns: small letters, without blanks, _ and -
FILE_TITLES = set(
    "file filename filepath path audio audiofile audiofilepath audiofilename audiopath wav wavfile wavfilename wavpath "
    "clip clipname recording utterance utteranceid uttid utt id fileid name 音频 文件 文件名 音频文件 路径".split()
)
TEXT_TITLES = (  # of several the one named first counts
    "normalizedtext normalisedtext textnormalized normalizedtranscription normalizedtranscript cleantext cleanedtext "
    "text transcript transcription sentence script content caption words 文本 内容 文案 台词 句子 转写 "
    "rawtext rawtranscription originaltext"
).split()
SPEAKER_TITLES = set("speaker speakername speakerid spk spkid spkname voice clientid 说话人 发音人".split())
OTHER_TITLES = set(
    "duration durations durationsec durationseconds seconds length start end begin offset language languageid lang "
    "langid locale accent gender sex age emotion emotionname style samplerate index number split phonemes phones ipa "
    "pinyin upvotes downvotes segment variant date snr cer wer score rate quality 时长 语言 情感".split()
)
LANGUAGES = set("zh cn en ja jp ko kr yue de fr es it pt ru nl pl tr ar hi vi th id cs sv auto".split())
LANGUAGES |= set("chinese english japanese korean cantonese german french spanish italian portuguese russian".split())

MOSTLY = 0.9  # share of the cells that says what a column holds
FEWEST_EQUAL = 3  # cells of a constant column: two clips may say the same
LABEL_WORDS, LABEL_REPEATS = 3, 4  # names of speakers or moods are so short, and come so often on average
ALIKE = 0.5  # raw and normalised text share so much
COMPARED_LINES, COMPARED_CHARACTERS = 50, 200
SHOWN = 5  # problems or notes

_NUMERIC = re.compile(r"[-+]?\d[\d.,:/-]*\s*(?:s|sec|ms|%)?", re.IGNORECASE)
_PATH = re.compile(rf"(?=\S*[/\\]\S)\S+|.*\S(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})", re.IGNORECASE)
_FILE_NUMBER = re.compile(rf"([0-9]{{1,18}})(?:[.,]0+)?(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})?", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r"sep=.?", re.IGNORECASE)  # first line of a file for Excel
_CODE = re.compile(r"(?=.*\d)(?=.*[A-Za-z_-])[\x21-\x7e]+")  # one word with digits: LJ001-0001, a hash


# ---- which recording a cell means ------------------------------------------------------------------------------------


class ClipNames:
    """The recordings that a table may name, and every spelling by which it may."""

    def __init__(self, clips: Iterable[tuple[str, str]], folder: Path) -> None:
        """clips: (path without suffix, with suffix) as seen from the table's folder."""
        self.folder = folder
        self.paths: dict[str, set[str]] = {}
        self.files: dict[str, set[tuple[str, str]]] = defaultdict(set)  # by the last part of the path: (path, name)
        self.folded: dict[str, set[tuple[str, str]]] = defaultdict(set)  # the same in small letters
        self.numbers: dict[int, set[str]] = defaultdict(set)
        for name, file in clips:
            for path in map(place, (name, file)):
                last = path.rpartition("/")[2]
                self.paths[path] = {name}
                self.files[last].add((path, name))
                self.folded[last.casefold()].add((path, name))
            if (number := _number(place(name).rpartition("/")[2])) is not None:
                self.numbers[number].add(name)

    def meant(self, cell: str) -> set[str]:
        """The recordings that a cell may mean: by its path, by the file alone, or by either with another suffix; where
        there is none in these letters, by the same in small and capital ones."""
        spellings = _spellings(cell)
        for spelling in spellings:
            if spelling in self.paths:
                return self.paths[spelling]
            if alike := self.files.get(spelling.rpartition("/")[2]):
                return self._existing(place(cell), _longest_tail(spelling, alike))
        for spelling in spellings:
            if alike := self.folded.get(spelling.rpartition("/")[2].casefold()):
                return self._existing(place(cell), _longest_tail(spelling, alike))
        return set()

    def by_number(self, cell: str) -> set[str]:
        """The recordings whose name is the same number: spreadsheets make 1 or 1.0 of 001."""
        return self._existing(place(cell), self.numbers.get(_number(cell), set()))

    def _existing(self, path: str, alike: set[str]) -> set[str]:
        """What a path means by which a file is found: that recording or none; else those with a name alike."""
        if not os.path.isfile(self.folder / path):
            return alike
        return self.paths.get(place(os.path.relpath(self.folder / path, self.folder)), set())


def _spellings(cell: str) -> list[str]:
    """A cell as a path: as it stands, without the suffix (a wav was made a flac since), and as a URL says it."""
    plain = unquote(re.sub(r"[?#].*", "", cell) if "://" in cell else cell)
    return [
        spelling
        for whole in dict.fromkeys(map(place, (cell, plain)))
        for spelling in ([whole, whole.rpartition(".")[0]] if _is_audio(whole) else [whole])
    ]


def _longest_tail(path: str, alike: Iterable[tuple[str, str]]) -> set[str]:
    """Of recordings with the same file name, (path, name), those that share most of the last folders with a path."""
    folders = path.casefold().split("/")[-2::-1]

    def shared(other: str) -> int:
        pairs = zip(folders, other.casefold().split("/")[-2::-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(shared(other) for other, _ in alike)
    return {name for other, name in alike if shared(other) == most}


def _number(file: str) -> int | None:
    """The number that a file is named by; None where it is none, or a path."""
    match = _FILE_NUMBER.fullmatch(file)
    return int(match[1]) if match else None


def place(spelling: str) -> str:
    """A path in one spelling: composed accents, "/" between folders."""
    return unicodedata.normalize("NFC", spelling.replace("\\", "/").removeprefix("./"))


def _is_audio(cell: str) -> bool:
    _, dot, suffix = cell.rpartition(".")
    return dot + suffix.lower() in AUDIO_SUFFIXES


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What a table says about the recordings: {clip name: text}, and notes for the report."""

    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int  # from 1
    cells: list[str]


@dataclass(frozen=True)
class Column:
    """One column of a table, without its title."""

    number: int  # from 1
    title: str  # "" where the table has no header
    cells: list[str]

    def __str__(self) -> str:
        return f"column '{self.title}'" if self.title else f"column {self.number} ('{self.cells[0][:30]}', ...)"


def read_table(path: Path, clips: ClipNames, title: str) -> Table:
    """Texts of the recordings that a table names. title: what notes call the table.

    A line without a recording is only noted. Raises UserError where the columns cannot be told apart, the text column
    holds no texts, several people speak, or a line is wrong."""
    try:
        lines = split_lines(read_text(path))
        rows = _object_rows(lines) if path.suffix.lower() == ".jsonl" else _rows(lines, clips)
        header = rows.pop(0).cells if rows and _is_header(rows[0], clips) else []
        return _read(rows, header, clips, title)
    except InputError as error:
        raise UserError(f"{path}: {error}") from error


def is_other_table(path: Path) -> bool:
    """Whether a file surely is a table of texts, though its name does not say so: by titles of files and of texts in
    its first line, or, in a text file that is called so, by columns."""
    if not OTHER_TABLE.fullmatch(path.name):
        return False
    try:
        lines = split_lines(read_text(path))
        rows = (
            [_object_rows(lines[:1])]
            if path.suffix.lower() == ".jsonl"
            else [_parted(lines[:1], d) for d in DELIMITERS]
        )
    except InputError:
        return False
    if path.suffix.lower() == ".txt":
        return any(sign in line for line in lines[:1] for sign in "|\t")
    titles = [set(map(_key, found[0].cells)) for found in rows if found]
    return any(keys & FILE_TITLES and keys & set(TEXT_TITLES) for keys in titles)


def _read(rows: Sequence[Row], header: Sequence[str], clips: ClipNames, title: str) -> Table:
    width = len(header) or _usual_width(rows)
    whole = [row for row in rows if len(row.cells) == width]
    at = max(range(width), key=lambda at: _file_score(whole, header, at, clips), default=0)
    named, others, by_number = [], [], []
    for row in whole:
        found = clips.meant(row.cells[at])
        by_number += [] if found else sorted((row.cells[at], name) for name in clips.by_number(row.cells[at]))
        (named if found or clips.by_number(row.cells[at]) else others).append(row)
    notes = [f"{title} line {row.line}: no audio called '{row.cells[at]}'" for row in others]
    if not named:
        return Table(notes=_first(notes) or [f"{title} names no recording of this folder"])
    _refuse(_wrong_width(row, width) for row in rows if len(row.cells) != width)
    columns = [Column(i + 1, header[i] if header else "", [row.cells[i] for row in named]) for i in range(width)]
    filled = [column for column in columns if column.number != at + 1 and any(column.cells)]
    text = _text_column(filled)
    notes = _first(notes) + _check_speakers(filled, text, at + 1)
    if by_number:
        cell, name = by_number[0]
        notes.append(f"{title}: {len(by_number)} recordings are named by their number only, as {name} by '{cell}'")
    return Table(_texts(named, columns[at], text, clips), notes)


# ---- lines and cells -------------------------------------------------------------------------------------------------


def _rows(lines: Sequence[str], clips: ClipNames) -> list[Row]:
    """Lines with anything in them, parted where the most of them name a recording."""

    def fit(rows: Sequence[Row]) -> tuple[int, int, int]:
        full = [row.cells for row in rows if len(row.cells) > 1]
        hits, numbers = (sum(any(map(means, cells)) for cells in full) for means in (clips.meant, clips.by_number))
        return hits, numbers, sum(1 < len(row.cells) == _usual_width(rows) for row in rows)

    return max((_parted(lines, delimiter) for delimiter in DELIMITERS), key=fit)


def _object_rows(lines: Sequence[str]) -> list[Row]:
    """The JSON objects of lines, their keys as a header. Raises InputError for a line that is no object."""
    objects: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InputError(f"line {number} is no JSON object: {error}") from error
        if not isinstance(entry, dict):
            raise InputError(f"line {number} is no JSON object")
        objects |= {number: entry} if entry else {}
    keys = list(dict.fromkeys(key for entry in objects.values() for key in entry))
    values = [Row(number, [one_line(str(entry.get(key, ""))) for key in keys]) for number, entry in objects.items()]
    return [Row(0, keys), *values] if values else []


def _parted(lines: Sequence[str], delimiter: str) -> list[Row]:
    """Cells between delimiters; in quotes as spreadsheets write them where that fits the whole file, else as it is."""
    try:
        rows = _quoted_rows(lines, delimiter)
    except csv.Error:  # quotation marks of the texts
        rows = [Row(number, list(map(_unquoted, line.split(delimiter)))) for number, line in enumerate(lines, 1)]
    rows = [Row(row.line, list(map(one_line, row.cells))) for row in rows]
    rows = [row for row in rows if any(row.cells) and not _SEPARATOR_LINE.fullmatch(row.cells[0])]
    width = _usual_width(rows)
    return [Row(row.line, row.cells if any(row.cells[width:]) else row.cells[:width]) for row in rows]


def _quoted_rows(lines: Sequence[str], delimiter: str) -> list[Row]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows, line = [], 1
    for cells in reader:
        rows.append(Row(line, cells))
        line = reader.line_num + 1
    if delimiter in "|\t" and any("\n" in cell for row in rows for cell in row.cells):
        raise csv.Error("no spreadsheet writes such files: a quotation mark was not meant so")
    return rows


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _usual_width(rows: Sequence[Row]) -> int:
    """Columns that most lines have; the fewer of two equally usual numbers."""
    counts = Counter(len(row.cells) for row in rows if len(row.cells) > 1)
    return min(counts, key=lambda width: (-counts[width], width), default=1)


def _is_header(row: Row, clips: ClipNames) -> bool:
    known = FILE_TITLES | SPEAKER_TITLES | OTHER_TITLES | set(TEXT_TITLES)
    titles = sum(_key(cell) in known for cell in row.cells)
    return titles > 1 or titles == 1 and not any(clips.meant(cell) for cell in row.cells)


def _key(title: str) -> str:
    """A title as the lists of known ones have it."""
    return re.sub(r"[\s_-]", "", title).casefold()


def _wrong_width(row: Row, width: int) -> str:
    shown = next((cell for cell in row.cells if cell), "")[:30]
    words = f"line {row.line} ('{shown}') has {len(row.cells)} column{'s' * (len(row.cells) != 1)} and not {width}"
    advice = ': a text that holds the sign between columns stands in "quotes"'
    return words + advice * (len(row.cells) > width)


# ---- which column is which -------------------------------------------------------------------------------------------


def _file_score(
    rows: Sequence[Row], header: Sequence[str], at: int, clips: ClipNames
) -> tuple[int, bool, int, int, int]:
    """How well a column names the recordings."""
    cells = [row.cells[at] for row in rows]
    hits, numbers = (sum(map(bool, map(means, cells))) for means in (clips.meant, clips.by_number))
    return hits, bool(header) and _key(header[at]) in FILE_TITLES, sum(map(_is_audio, cells)), numbers, -at


def _text_column(columns: Sequence[Column]) -> Column:
    """The column of the texts among all but that of the files. Raises InputError where no or several could be it."""
    titled = [column for title in TEXT_TITLES for column in columns if _key(column.title) == title]
    if titled:
        if fault := _fault(titled[0]):
            raise InputError(f"{titled[0]} should hold the texts but holds {fault}")
        return next((_filled(titled[0], other) for other in titled[1:] if _alike(other, titled[0])), titled[0])
    columns = [column for column in columns if _key(column.title) not in SPEAKER_TITLES | OTHER_TITLES]
    if at := _language_at(columns):  # wav|speaker|language|text
        after = [column for column in columns if column.number == at + 1 and not _fault(column)]
        if after:
            return after[0]
    faults = {column.number: _fault(column) or _label_fault(column) for column in columns}
    fitting = [column for column in columns if not faults[column.number]]
    if len(fitting) == 2 and _alike(*fitting):  # id|raw text|normalised text
        return _filled(fitting[1], fitting[0])
    if len(fitting) > 1:
        named = " and ".join(map(str, fitting))
        raise InputError(f"{named} may both hold the texts; say which in a first line such as file|text|speaker")
    if not fitting:
        found = "; ".join(f"{column} holds {faults[column.number]}" for column in columns) or "only files are named"
        raise InputError(f"no column holds the texts: {found}; each line needs file|text")
    return fitting[0]


def _fault(column: Column) -> str | None:
    """What a column holds that can be no texts."""
    cells = [cell for cell in column.cells if cell]
    tests = {
        "only numbers": _NUMERIC.fullmatch,
        "only paths": _PATH.fullmatch,
        "only codes": _CODE.fullmatch,
        "only languages": lambda cell: cell.casefold() in LANGUAGES,
    }
    for what, matches in tests.items():
        if sum(map(bool, map(matches, cells))) >= MOSTLY * len(cells):
            return what
    return "the same in every line" if len(cells) >= FEWEST_EQUAL and len(set(cells)) == 1 else None


def _label_fault(column: Column) -> str | None:
    """The few short names that a column holds again and again: of speakers or moods."""
    cells = [cell for cell in column.cells if cell]
    values = set(cells)
    is_label = len(values) * LABEL_REPEATS <= len(cells) and all(map(_is_name, values))
    return f"the names {_quoted(sorted(values))} again and again" if is_label else None


def _is_name(value: str) -> bool:
    return len(value.split()) <= LABEL_WORDS and not value.endswith(tuple(".!?。！？"))


def _language_at(columns: Iterable[Column]) -> int | None:
    """Number of the column of language codes in a table without header."""
    return next((c.number for c in columns if not c.title and _fault(c) == "only languages"), None)


def _alike(raw: Column, normalised: Column) -> bool:
    """Whether two columns hold two spellings of the same texts, where both are filled."""
    pairs = [pair for pair in zip(raw.cells, normalised.cells, strict=True) if all(pair)][:COMPARED_LINES]
    starts = [(a.casefold()[:COMPARED_CHARACTERS], b.casefold()[:COMPARED_CHARACTERS]) for a, b in pairs]
    ratios = [SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in starts]
    return bool(ratios) and sorted(ratios)[len(ratios) // 2] >= ALIKE


def _filled(texts: Column, others: Column) -> Column:
    """A column of texts, its empty cells filled from another spelling of them."""
    cells = [text or other for text, other in zip(texts.cells, others.cells, strict=True)]
    return Column(texts.number, texts.title, cells)


def _check_speakers(columns: Sequence[Column], text: Column, file_at: int) -> list[str]:
    """Notes about a column that may name speakers. Raises InputError where one names several: by its title, or by its
    place before the language or, without titles, between file and text. file_at: number of the files' column."""
    language_at = _language_at(columns)
    notes = []
    for column in columns:
        names = Counter(cell for cell in column.cells if cell)
        between = not column.title and file_at < column.number < text.number and bool(_label_fault(column))
        is_speaker = _key(column.title) in SPEAKER_TITLES or column.number + 1 == language_at or between
        if column.number == text.number or len(names) < 2:
            continue
        if is_speaker:
            found = ", ".join(f"'{name}' ({count})" for name, count in names.most_common(SHOWN))
            raise InputError(
                f"{column} names {len(names)} speakers: {found}{', ...' if len(names) > SHOWN else ''}; one voice is "
                "learned, so keep one person's recordings in a folder of their own with --input-dir, or take the "
                "column out where all are one person"
            )
        if _key(column.title) not in OTHER_TITLES and _label_fault(column):
            notes.append(f"{column} is not read; where {_quoted(sorted(names))} are people, keep one's recordings only")
    return notes


# ---- what the lines say ----------------------------------------------------------------------------------------------


def _texts(rows: Sequence[Row], files: Column, text: Column, clips: ClipNames) -> dict[str, str]:
    """{clip name: text}. Raises InputError naming lines that contradict each other or may mean several clips."""
    texts: dict[str, str] = {}
    first_line: dict[str, int] = {}
    problems = []
    for row, file, words in zip(rows, files.cells, text.cells, strict=True):
        found = sorted(clips.meant(file) or clips.by_number(file))
        if len(found) > 1:
            problems.append(f"line {row.line}: '{file}' could be {' or '.join(found)}; give the sub-folder")
        elif texts.setdefault(found[0], words) != words:
            problems.append(f"line {row.line}: '{file}' has another text in line {first_line[found[0]]}")
        else:
            first_line.setdefault(found[0], row.line)
    _refuse(problems)
    return texts


def _refuse(problems: Iterable[str]) -> None:
    if problems := list(problems):
        more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
        raise InputError(f"{'; '.join(problems[:SHOWN])}{more}")


def _first(notes: Sequence[str]) -> list[str]:
    """At most SHOWN notes, the last of them saying how many more there are."""
    more = f" (and {len(notes) - SHOWN} more lines)" if len(notes) > SHOWN else ""
    return [*notes[: SHOWN - 1], *(note + more for note in notes[SHOWN - 1 : SHOWN])]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
