"""The user's recordings and transcripts: found and read."""

import os
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.files import PART_SUFFIX, split_lines
from config import UserError
from cosyvoice.utils.audio_files import AUDIO_SUFFIXES, AudioError, Recording, read_audio
from cosyvoice.utils.common import InputError
from cosyvoice.utils.files import require_file

METADATA = "metadata.csv"
DRAFT_SUFFIX = ".draft.txt"  # a machine's draft: never trained on until a person renames it to .txt
SHOWN_TEXTS = 5  # without a recording, in one note


@dataclass
class RawClip:
    """One audio file and its transcript as found; `flags` are the doctor's names with the figures of their sentence."""

    name: str  # path without suffix, relative to the input directory, "/" between folders
    path: Path
    file: str  # the same with suffix
    text: str | None = None
    flags: dict[str, dict[str, str]] = field(default_factory=dict)

    def sibling(self, suffix: str) -> Path:
        """The file beside the audio with the same stem."""
        return self.path.with_name(self.path.stem + suffix)


# ---- finding ---------------------------------------------------------------------------------------------------------


def find_clips(input_dir: Path) -> tuple[list[RawClip], list[str]]:
    """All recordings below input_dir with their transcripts, sorted by name, and notes for the report.

    A .txt beside the audio wins over metadata.csv. Raises UserError where there is no recording or metadata.csv is
    broken.
    """
    files, notes = _walk(input_dir)
    audio = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise UserError(
            f"no audio in {input_dir} ({len(files)} other files); put recordings there "
            "(001.wav, 001.flac, 001.mp3, ...) and beside each its text (001.txt)"
        )
    audio.sort(key=lambda path: (_name(path, input_dir), AUDIO_SUFFIXES.index(path.suffix.lower()), path.name))
    clips: list[RawClip] = []
    used: dict[str, RawClip] = {}
    for path in audio:
        name, file = _name(path, input_dir), _file(path, input_dir)
        if os.path.isdir(split_folder(path)):  # unlike Path's it says no to a name that is too long to exist
            notes.append(f"{file} is left out, its clips in {printable(split_folder(path).name)} are used")
        elif name in used:
            clips.append(RawClip(file, path, file, flags={"duplicate_name": {"used_file": used[name].file}}))
        else:
            used[name] = RawClip(name, path, file)
            clips.append(used[name])
    transcripts, twins = _transcripts(files, audio)
    notes += [f"{_file(path, input_dir)} is left out, {_file(other, input_dir)} is used" for path, other in twins]
    notes += _lone_texts(files, {*transcripts.values(), *(path for path, _ in twins)}, input_dir)
    listed, csv_notes = read_metadata(input_dir / METADATA, clips)
    for clip in clips:
        _attach_text(clip, transcripts.get(clip.path.with_suffix("")), listed.get(clip.name))
    return sorted(clips, key=lambda clip: clip.name), notes + csv_notes


def _transcripts(files: Iterable[Path], audio: Sequence[Path]) -> tuple[dict[Path, Path], list[tuple[Path, Path]]]:
    """{audio file without suffix: its .txt}, and each .txt that another one of the same name is used for, with that.

    The same name may be spelled in two ways (an e with an accent is one character in NFC and two in NFD, as on a Mac),
    so that a .txt whose own spelling has no audio serves another's."""
    stems = {path.with_suffix("") for path in audio}
    exact: dict[Path, Path] = {}
    twins = []
    for path in (path for path in files if path.suffix.lower() == ".txt"):
        stem = path.with_suffix("")
        if stem in exact and stem in stems:  # 001.TXT beside 001.txt
            twins.append((exact[stem], path))
        exact[stem] = path
    spare = {_place(str(stem)): path for stem, path in exact.items() if stem not in stems}
    found = {stem: exact.get(stem) or spare.get(_place(str(stem))) for stem in stems}
    return {stem: path for stem, path in found.items() if path is not None}, twins


def _lone_texts(files: Iterable[Path], used: Container[Path], input_dir: Path) -> list[str]:
    """A note that names texts without a recording, such as 02.txt where 002.wav lies; a machine's drafts are none."""
    texts = (path for path in files if path.suffix.lower() == ".txt" and not path.name.endswith(DRAFT_SUFFIX))
    lone = [_file(path, input_dir) for path in texts if path not in used]
    more = f" and {len(lone) - SHOWN_TEXTS} more" if len(lone) > SHOWN_TEXTS else ""
    return [f"no audio beside {', '.join(lone[:SHOWN_TEXTS])}{more}"] if lone else []


def recordings_of(
    clips: Iterable[RawClip], lines: list[str], max_sec: float | None = None
) -> Iterator[tuple[RawClip, Recording]]:
    """The clips of which --split, --fix and --transcribe make new files, with their recordings of at most max_sec;
    `lines` tell why others are left out: what they make would take the name of a twin's, or they cannot be read."""
    for clip in clips:
        if "duplicate_name" in clip.flags:
            used = clip.flags["duplicate_name"]["used_file"]
            lines.append(f"{clip.file}: left out, {used} has the same name and is used")
            continue
        try:
            recording = read_audio(clip.path, max_sec)
        except AudioError as error:
            lines.append(f"{clip.file}: cannot be read: {error}")
            continue
        yield clip, recording


def split_folder(path: Path) -> Path:
    """Where the pieces of a recording lie."""
    return path.with_name(path.stem + "_split")


def printable(name: str) -> str:
    """File names that are not UTF-8 (from old archives) with their odd bytes spelled out."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _name(path: Path, input_dir: Path) -> str:
    return _file(path.with_suffix(""), input_dir)


def _file(path: Path, input_dir: Path) -> str:
    return printable(path.relative_to(input_dir).as_posix())


def _walk(top: Path) -> tuple[list[Path], list[str]]:
    """Files below top, sub-folders and linked folders included, hidden and unfinished ones left out; and notes."""
    files, seen, notes = [], set(), []

    def unreadable(error: OSError) -> None:
        if error.filename == str(top):
            raise UserError(f"{top} cannot be opened: {error.strerror}; check its permissions") from error
        notes.append(f"{printable(error.filename)} cannot be opened ({error.strerror}); its clips are left out")

    for folder, folders, names in os.walk(top, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(PART_SUFFIX))
        files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files, notes


def _attach_text(clip: RawClip, txt: Path | None, listed: str | None) -> None:
    try:
        clip.text = listed if txt is None else one_line(read_utf8(txt))
    except (InputError, OSError) as error:
        clip.flags["unreadable_text"] = {"text_problem": f"{printable(txt.name)}: {error}"}
        return
    if clip.text is None:
        draft, stem = clip.sibling(DRAFT_SUFFIX), printable(clip.path.stem)
        problem = f"write it in {stem}.txt beside the audio, or in {METADATA}"
        if os.path.isfile(draft):
            problem = f"check {stem}{DRAFT_SUFFIX} and rename it to {stem}.txt"
        clip.flags["missing_text"] = {"text_problem": problem}
    elif listed is not None and listed != clip.text:
        clip.flags["text_conflict"] = {"other_text": listed}


def read_utf8(path: Path) -> str:
    """Text of a UTF-8 file, with or without BOM; raises InputError saying what to do."""
    try:
        require_file(path)
        data = path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        looks = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "GBK or another local encoding"
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line} is not UTF-8 (looks like {looks}); save it as UTF-8") from error


def one_line(text: str) -> str:
    """Text with line ends and runs of blanks (full-width ones too) made one space, and no invisible marks."""
    return " ".join(text.replace("\ufeff", "").replace("\u200b", "").split())


FILE_TITLES = {"file", "filename", "file_name", "path", "audio", "audio_file", "wav", "clip", "id", "name"}
TEXT_TITLES = {"text", "transcript", "transcription", "sentence", "normalized_text"}
OTHER_SIGNS = {";": "a semicolon", "\t": "a tab", ",": "a comma"}  # between columns; the rarest in names come first


def read_metadata(path: Path, clips: Sequence[RawClip]) -> tuple[dict[str, str], list[str]]:
    """{clip name: text} from lines `file|text`, and notes; where most are `file|raw text|text` the last one counts.

    The first line may be a header; file may have a path and a suffix or neither. Raises UserError naming the lines that
    cannot be understood; a line whose audio does not exist is only noted.
    """
    if not path.is_file():
        return {}, []
    try:
        lines = split_lines(read_utf8(path))
    except (InputError, OSError) as error:
        raise UserError(f"{path}: {error}") from error
    places = _places(clips)
    bars = [line.count("|") for line in lines if line.strip()]
    if not any(bars):
        _refuse_other_signs(path, lines, places)
    most_bars = 2 if 2 * bars.count(2) > len(bars) else 1  # of file|raw text|text and of file|text
    texts: dict[str, str] = {}
    first_line: dict[str, int] = {}
    problems, notes = [], []
    for number, line in enumerate(lines, 1):
        cells = [one_line(cell) for cell in line.split("|")]
        if not line.strip() or (number == 1 and cells[0].lower() in FILE_TITLES and cells[-1].lower() in TEXT_TITLES):
            continue
        if len(cells) < 2 or not cells[0]:
            problems.append(f"line {number} is not file|text: '{line.strip()[:40]}'")
            continue
        if len(cells) > most_bars + 1:
            problems.append(f"line {number}: the text holds a |, which parts columns: '{line.strip()[:40]}'")
            continue
        found = _meant(cells[0], places)
        if not found:
            notes.append(f"{METADATA} line {number}: no audio called '{cells[0]}'")
        elif len(found) > 1:
            problems.append(f"line {number}: '{cells[0]}' could be {' or '.join(sorted(found))}; give the sub-folder")
        elif texts.setdefault(*found, cells[-1]) != cells[-1]:
            problems.append(f"line {number}: '{cells[0]}' has another text in line {first_line[min(found)]}")
        else:
            first_line.setdefault(*found, number)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise UserError(f"{path}: {'; '.join(problems[:5])}{more}")
    return texts, notes


def _refuse_other_signs(path: Path, lines: Sequence[str], places: Mapping[str, set[str]]) -> None:
    """UserError where another sign than | stands after the name of a clip, as a spreadsheet writes it."""
    for number, line in enumerate(lines, 1):
        for sign, title in OTHER_SIGNS.items():
            cell, found, _ = line.partition(sign)
            if found and _meant(one_line(cell).strip('"'), places):
                raise UserError(
                    f"{path}: columns must be parted by |, and not, as in line {number}, by {title}; write file|text"
                )


def _places(clips: Iterable[RawClip]) -> dict[str, set[str]]:
    """Every spelling by which metadata.csv may name a clip -> names of the clips meant."""
    places: dict[str, set[str]] = {}
    for clip in clips:
        if "duplicate_name" not in clip.flags:
            for spelling in (clip.name, clip.file, clip.name.rpartition("/")[2], clip.file.rpartition("/")[2]):
                places.setdefault(_place(spelling), set()).add(clip.name)
    for clip in clips:  # the full path always means that clip
        if "duplicate_name" not in clip.flags:
            places[_place(clip.name)] = places[_place(clip.file)] = {clip.name}
    return places


def _meant(cell: str, places: Mapping[str, set[str]]) -> set[str]:
    """Names of the clips that a cell may mean: by its path, by the file alone, or by either with another suffix."""
    place = _place(cell)
    stem, dot, suffix = place.rpartition(".")
    is_sound = dot + suffix.lower() in AUDIO_SUFFIXES
    spellings = [place, stem] if is_sound else [place]  # a wav was made a flac since
    spellings = [part for spelling in spellings for part in (spelling, spelling.rpartition("/")[2])]
    return next((places[spelling] for spelling in spellings if spelling in places), set())


def _place(spelling: str) -> str:
    return unicodedata.normalize("NFC", spelling.replace("\\", "/").removeprefix("./"))
