"""The recordings in a folder and the text that belongs to each.

Where a recording has several texts the first of these is used, and one that differs is flagged: 001.txt, .lab, .srt,
.vtt beside it; then metadata.csv and *.list, those nearest to the recording first.
"""

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clips.metadata import METADATA, OTHER_TABLE, TABLE_NAME, ClipNames, Table, is_other_table, place, read_table
from clips.transcripts import LONGEST_TEXT, SUFFIXES, NoTranscript, read_text, read_transcript, without_times
from common.files import PART_SUFFIX
from common.terminal import shown
from config import UserError
from cosyvoice.utils.audio_files import AUDIO_SUFFIXES, AudioError, Recording, read_audio
from cosyvoice.utils.common import InputError

BEFORE_TXT = (*AUDIO_SUFFIXES, ".normalized")  # 001.wav.txt, 001.normalized.txt
DRAFT_SUFFIX = ".draft.txt"  # a machine's draft: never trained on until a person renames it to .txt
SHOWN_NAMES = 5  # of files, in one note
# What may hold texts, in whatever place it lies
DOCUMENTS = set(
    ".csv .tsv .xlsx .xls .ods .docx .doc .odt .rtf .pdf .jsonl .textgrid .eaf .trs .trn .ctm .stm .ass .lrc".split()
)
LISTS = {"", ".txt", ".data"}  # of speech toolkits: text, 84-121123.trans.txt, txt.done.data
KINDS = f"{', '.join(SUFFIXES)} files beside the audio, {METADATA} and *.list"


@dataclass
class RawClip:
    """One audio file and its transcript as found; `flags` are the doctor's names with the figures of their sentence."""

    name: str  # path without suffix, relative to the input directory, "/" between folders
    path: Path
    file: str  # the same with suffix
    text: str | None = None
    flags: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)  # file, text; the first is used
    refused: list[tuple[Path, str]] = field(default_factory=list)  # files beside the audio, and why they are not read

    def sibling(self, suffix: str) -> Path:
        """The file beside the audio with the same stem."""
        return self.path.with_name(self.path.stem + suffix)


def find_clips(input_dir: Path) -> tuple[list[RawClip], list[str]]:
    """All recordings below input_dir with their transcripts, sorted by name, and notes for the report.

    Raises UserError where there is no recording or a table of texts is wrong."""
    files, notes = _walk(input_dir)
    audio = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise UserError(
            f"no audio in {input_dir} ({len(files)} other files); put recordings there "
            "(001.wav, 001.flac, 001.mp3, ...) and beside each its text (001.txt)"
        )
    clips, left_out = _recordings(audio, input_dir)
    beside, twins = _beside(files, audio)
    left_out += [f"{_file(path, input_dir)} is left out, {_file(other, input_dir)} is used" for other, path in twins]
    for clip in clips:
        _read_beside(clip, beside.get(clip.path.with_suffix(""), []))
    used = {path for paths in beside.values() for path in paths} | {path for _, path in twins}
    tables = [path for path in files if TABLE_NAME.fullmatch(path.name)]
    named = [clip for clip in clips if "duplicate_name" not in clip.flags]
    of_tables = _read_tables(named, tables, input_dir) + _read_tables_above(named, input_dir)
    if not tables and not any(clip.texts for clip in clips):
        others = list(filter(is_other_table, files))
        tables = others if len(others) == 1 else []  # several may be parts, or contradict each other
        of_tables += _read_tables(named, tables, input_dir)
    lone = _lone_texts(files, used | set(tables))
    notes += left_out + ([f"no audio beside {_first_names(lone, input_dir)}"] if lone else []) + of_tables
    unused = [path for path in files if path not in {*tables, *audio}]
    notes += _not_read(clips, unused, input_dir)
    hint = "" if any(clip.texts for clip in clips) else _where_texts_may_be(clips, unused, lone, input_dir)
    for clip in clips:
        _choose_text(clip, hint)
    return sorted(clips, key=lambda clip: clip.name), notes


def _recordings(audio: Iterable[Path], input_dir: Path) -> tuple[list[RawClip], list[str]]:
    """One clip for each sound file, the second of a name flagged; and notes about those that were cut into clips."""
    clips, notes = [], []
    used: dict[str, RawClip] = {}

    def order(path: Path) -> tuple[str, int, str]:
        return _name(path, input_dir), AUDIO_SUFFIXES.index(path.suffix.lower()), path.name

    for path in sorted(audio, key=order):
        name, file = _name(path, input_dir), _file(path, input_dir)
        if os.path.isdir(split_folder(path)):  # unlike Path's it says no to a name that is too long to exist
            notes.append(f"{file} is left out, its clips in {shown_name(split_folder(path).name)} are used")
        elif name in used:
            clips.append(RawClip(file, path, file, flags={"duplicate_name": {"used_file": used[name].file}}))
        else:
            used[name] = RawClip(name, path, file)
            clips.append(used[name])
    return clips, notes


# ---- texts -----------------------------------------------------------------------------------------------------------


def _beside(files: Sequence[Path], audio: Iterable[Path]) -> tuple[dict[Path, list[Path]], list[tuple[Path, Path]]]:
    """{audio file without suffix: its text files in the order of SUFFIXES}; (the one used, another of the same name).

    The same name may be spelled in two ways (an e with an accent is one character in NFC and two in NFD, as on a Mac),
    so that a text whose own spelling has no audio serves another's."""
    stems = {path.with_suffix("") for path in audio}
    beside: dict[Path, list[Path]] = defaultdict(list)
    twins = []
    for suffix in SUFFIXES:
        exact: dict[Path, Path] = {}
        for path in (path for path in files if path.suffix.lower() == suffix):
            stem = path.with_suffix("")
            if stem in exact and stem in stems:  # 001.TXT beside 001.txt
                twins.append((path, exact[stem]))
            exact[stem] = path
        spare = {place(str(stem)): path for stem, path in exact.items() if stem not in stems}
        for stem in (stem for stem in exact if stem.suffix.lower() in BEFORE_TXT):
            spare.setdefault(place(str(stem.with_suffix(""))), exact[stem])
        for stem in stems:
            if path := exact.get(stem) or spare.get(place(str(stem))):
                beside[stem].append(path)
    return beside, twins


def _read_beside(clip: RawClip, paths: Iterable[Path]) -> None:
    """Add the texts of the files beside a recording."""
    for path in paths:
        file = shown_name(path.name)
        try:
            transcript = read_transcript(path)
        except InputError as error:
            if not clip.texts and not isinstance(error, NoTranscript):
                clip.flags["unreadable_text"] = {"text_problem": f"{file}: {error}"}
                return
            clip.refused.append((path, str(error)))
            continue
        if transcript.timed and not clip.texts:
            clip.flags["timed_text"] = {"text_file": file}
        clip.texts.append((file, transcript.text))


def _read_tables(clips: Iterable[RawClip], tables: Iterable[Path], input_dir: Path) -> list[str]:
    """Add the texts of tables to the recordings in their folders and below, the nearest first; notes."""

    def order(path: Path) -> tuple[int, bool, str]:
        return -len(path.parts), path.name.lower() != METADATA, path.name

    notes = []
    for path in sorted(tables, key=order):
        below = {_name(clip.path, path.parent): clip for clip in clips if clip.path.is_relative_to(path.parent)}
        notes += _read_table(path, below, _file(path, input_dir)).notes
    return notes


def _read_tables_above(clips: Sequence[RawClip], input_dir: Path) -> list[str]:
    """Add the texts of tables in the folder above, as LJSpeech has wavs/ and ../metadata.csv; notes.

    That folder may belong to something else: only what names recordings here counts."""
    folder = Path(os.path.abspath(input_dir))
    try:
        names = sorted(name for name in os.listdir(folder.parent) if TABLE_NAME.fullmatch(name))
    except OSError:
        return []
    notes = []
    for name in sorted(names, key=lambda name: name.lower() != METADATA):
        try:
            _read_table(folder.parent / name, {f"{folder.name}/{clip.name}": clip for clip in clips}, f"../{name}")
        except UserError as error:
            if not any(clip.texts for clip in clips):
                raise
            notes.append(f"not read: {error}")
    return notes


def _read_table(path: Path, clips: Mapping[str, RawClip], title: str) -> Table:
    """A table, its texts added to the clips that it names. clips: by their names as seen from the table."""
    names = ClipNames(((name, name + clip.path.suffix) for name, clip in clips.items()), path.parent)
    table = read_table(path, names, title)
    for name, text in table.texts.items():
        untimed = without_times([text])
        if untimed is not None and not clips[name].texts:
            clips[name].flags["timed_text"] = {"text_file": title}
        clips[name].texts.append((title, text if untimed is None else " ".join(untimed)))
    return table


def _choose_text(clip: RawClip, hint: str) -> None:
    """The first text is the clip's; flags where there is none and where another one differs.

    hint: what to do where no clip has a text, or ""."""
    if "unreadable_text" in clip.flags:
        return
    if not clip.texts:
        clip.flags["missing_text"] = {"text_problem": _what_is_missing(clip) or hint or _where_to_write(clip)}
        return
    (used_file, clip.text), *others = clip.texts
    for other_file, other in others:
        if _letters(other) != _letters(clip.text):
            clip.flags["text_conflict"] = {"used_file": used_file, "other_file": other_file, "other_text": other}
            return


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _what_is_missing(clip: RawClip) -> str:
    """What stands in the place of a clip's text, and what to do with it; "" where nothing does."""
    draft, stem = clip.sibling(DRAFT_SUFFIX), shown_name(clip.path.stem)
    if clip.refused:
        path, reason = clip.refused[0]
        return f"{shown_name(path.name)} is not read: {reason}; write what is said in {stem}.txt"
    if os.path.isfile(draft):
        return f"check {stem}{DRAFT_SUFFIX} and rename it to {stem}.txt"
    return ""


def _where_to_write(clip: RawClip) -> str:
    return f"write it in {shown_name(clip.path.stem)}.txt beside the audio, or in {METADATA}"


def _where_texts_may_be(clips: Sequence[RawClip], unused: Sequence[Path], lone: Sequence[Path], input_dir: Path) -> str:
    """What to do with the file that looks like the texts of all clips; "" where there is none."""
    names = {clip.path.stem for clip in clips}
    for path in lone:
        if path.stem in names:
            return f"{_file(path, input_dir)} lies in another folder than its recording; put each text beside its own"
    tables = [path for path in unused if path.stem not in names and _may_be_table(path)]
    lists = [path for path in unused if path.suffix.lower() in LISTS and _names_recordings(path, names)]
    for path in [*tables, *lists]:
        return f"{_file(path, input_dir)} may hold the texts: save it as {METADATA}, with file,text as its first line"
    return ""


def _may_be_table(path: Path) -> bool:
    return bool(OTHER_TABLE.fullmatch(path.name)) or path.suffix.lower() in DOCUMENTS


def _names_recordings(path: Path, names: Container[str]) -> bool:
    """Whether most lines of a text begin with the name of a recording."""
    try:
        lines = read_text(path, LONGEST_TEXT).splitlines()
    except InputError:
        return False
    words = [match[1] for line in lines if (match := re.match(r'[\s("]*([^\s,;|"]+)', line))]
    return 2 * sum(word in names for word in words) > len(words)


# ---- notes about other files -----------------------------------------------------------------------------------------


def _lone_texts(files: Iterable[Path], used: Container[Path]) -> list[Path]:
    """Texts without a recording, such as 02.txt where 002.wav lies; a machine's drafts are none."""
    texts = (path for path in files if path.suffix.lower() in SUFFIXES and not path.name.endswith(DRAFT_SUFFIX))
    return [path for path in texts if path not in used]


def _not_read(clips: Sequence[RawClip], files: Iterable[Path], input_dir: Path) -> list[str]:
    """Notes that name what lies beside the recordings and what else may hold texts, and is not understood."""
    stems = {clip.path.with_suffix("") for clip in clips}
    documents = DOCUMENTS if all(clip.texts for clip in clips) else DOCUMENTS | {".json"}
    why = {path: reason for clip in clips for path, reason in clip.refused}
    for path in files:
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES and (path.with_suffix("") in stems or suffix in documents):
            why[path] = f"texts are read from {KINDS}"
    named: dict[str, list[Path]] = defaultdict(list)
    for path, reason in why.items():
        named[reason].append(path)
    return [
        f"{_first_names(names, input_dir)} {'is' if len(names) == 1 else 'are'} not read, because {reason}"
        for reason, names in named.items()
    ]


def _first_names(paths: Sequence[Path], input_dir: Path) -> str:
    more = f" and {len(paths) - SHOWN_NAMES} more" if len(paths) > SHOWN_NAMES else ""
    return f"{', '.join(_file(path, input_dir) for path in paths[:SHOWN_NAMES])}{more}"


# ---- files -----------------------------------------------------------------------------------------------------------


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


def shown_name(name: str) -> str:
    """File names with control characters, and bytes that are not UTF-8 (from old archives), spelled out."""
    return shown(os.fsencode(name).decode("utf-8", errors="backslashreplace"))


def _name(path: Path, input_dir: Path) -> str:
    return _file(path.with_suffix(""), input_dir)


def _file(path: Path, input_dir: Path) -> str:
    return shown_name(path.relative_to(input_dir).as_posix())


def _walk(top: Path) -> tuple[list[Path], list[str]]:
    """Files below top, sub-folders and linked folders included, hidden and unfinished ones left out; and notes."""
    files, seen, notes = [], set(), []

    def unreadable(error: OSError) -> None:
        if error.filename == str(top):
            raise UserError(f"{top} cannot be opened: {error.strerror}; check its permissions") from error
        notes.append(f"{shown_name(error.filename)} cannot be opened ({error.strerror}); its clips are left out")

    for folder, folders, names in os.walk(top, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(PART_SUFFIX))
        files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files, notes
