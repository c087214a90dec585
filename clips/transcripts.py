"""The text file beside a recording: .txt, .lab, .srt or .vtt, read as the one line that is said."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import split_lines
from cosyvoice.utils.common import InputError
from cosyvoice.utils.files import MAX_BYTES, read_file

SUFFIXES = (".txt", ".lab", ".srt", ".vtt")  # the first counts where a recording has several
SUBTITLES = (".srt", ".vtt")
LONGEST_TEXT = 10_000_000  # bytes: subtitles of days

_CLOCK = r"\d+:\d\d(?::\d\d)?(?:[.,]\d+)?"
# The patterns are for lines without blanks at their ends
_CUE_TIME = re.compile(rf"\[?\s*({_CLOCK})\s*-->\s*({_CLOCK})[^\]]*?(?:\]\s*(?P<text>.*))?$")  # SRT, VTT, whisper
_CUE_NUMBER = re.compile(r"\s*\d+\s*$")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>|]*>|\{\\[^{}]*\}")  # of subtitles: <i>, <v Anna>, {\an8}; <|en|> stays
_NUMBER = r"-?\d+(?:[.,]\d+)?"
_LABEL = re.compile(rf"{_NUMBER}\t\s*{_NUMBER}(?:\t(?P<text>.*))?$")  # of Audacity's label tracks
_LABEL_FREQUENCIES = re.compile(rf"\\\t{_NUMBER}\t{_NUMBER}\s*$")  # below a label
_DECIMALS = re.compile(r"\d+[.,]\d+\s+\d+[.,]\d+\s+(?P<text>\S.*)$")
# LRC, and time codes: [0:05], 0:05.2, 00:00:05, (00:00:05), 00:00:05:12; one with hours only where these are two digits
_TIME = rf"(?:\[{_CLOCK}\]|\d+:\d\d(?::\d\d)?[.,]\d+|\(?\d\d:\d\d:\d\d(?:[.,:;]\d+)?\)?(?![\w:]))"
_STAMP = re.compile(rf"{_TIME}(?:[-–—>\s]*{_TIME})*\s*(?:[-–—:]\s+)?(?P<text>.*)$")
_LINES_OF_TIMES = (_LABEL, _DECIMALS, _STAMP)

# .lab files of speech recognisers: `0 3200000 sil`, `0.12 26 pau`, `3200000 sil`, `x^x-sil+hh=ax@1_1/A:...`
_ALIGNED = re.compile(r"\s*\d+(?:\.\d+)?\s+(?:\d+(?:\.\d+)?\s+)?\S+(?:\s+-?\d+(?:\.\d+)?)?\s*$")
_FULL_CONTEXT = re.compile(r"\s*(?:\d+\s+\d+\s+)?[^\s-]+-[^\s+]+\+\S+\s*$")
_ARPABET = re.compile(r"[A-Za-z]{1,2}[0-2]")  # a vowel with its stress
_SILENCES = {"sil", "pau", "sp", "spn", "#", "_", "<eps>", "h#"}
LONGEST_PHONE = 4  # letters
FEWEST_PHONES = 4  # in a row that is no sentence


@dataclass(frozen=True)
class Transcript:
    """What a text file says."""

    text: str
    timed: bool = False  # a text file held times beside its words; they are left out


class NoTranscript(InputError):
    """The file holds something else than what is said."""


def read_transcript(path: Path) -> Transcript:
    """Text of a file with one of SUFFIXES. Raises NoTranscript for one of another kind, InputError for one that
    cannot be read."""
    lines = split_lines(read_text(path, LONGEST_TEXT))
    suffix = path.suffix.lower()
    if suffix == ".lab" and is_alignment(lines):
        raise NoTranscript("phones are listed there in place of what is said")
    untimed = subtitle_lines(lines) if suffix in SUBTITLES else without_times(lines)
    if untimed is None and suffix in SUBTITLES:
        raise NoTranscript("subtitles have lines with times, and there is none")
    spoken = lines if untimed is None else untimed
    return Transcript(one_line(" ".join(spoken)), timed=suffix not in SUBTITLES and untimed is not None)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Text of a file in UTF-8, with or without BOM, or in UTF-16 with it; raises InputError saying what to do."""
    try:
        data = read_file(path, max_bytes)
    except OSError as error:
        raise InputError(error.strerror or str(error)) from error
    encoding = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "UTF-8"
    looks = "looks like UTF-16 or UTF-32" if b"\0" in data else "may be GBK, Windows-1252 or the like"
    try:
        text = data.decode("utf-8-sig" if encoding == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line} is not {encoding} ({looks}); save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"it is not {encoding} ({looks}); save it as UTF-8")
    return text


def one_line(text: str) -> str:
    """Text with line ends and runs of blanks (full-width ones too) made one space, and no invisible marks."""
    return " ".join(text.replace("\ufeff", "").replace("\u200b", "").split())


def subtitle_lines(lines: Sequence[str]) -> list[str] | None:
    """The spoken lines of subtitles; None where no line holds times. What stands apart from times is a comment."""
    lines = [line.strip() for line in lines]
    spoken: list[str] = []
    found = in_cue = False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if times := _CUE_TIME.match(line):
            found = in_cue = True
            spoken.append(times["text"] or "")
        elif not line:
            in_cue = False
        elif in_cue and not (_CUE_NUMBER.match(line) and _CUE_TIME.match(following)):
            spoken.append(line)
    return [_MARKUP.sub("", line) for line in spoken] if found else None


def without_times(lines: Sequence[str]) -> list[str] | None:
    """The words of a label track or another list with times on its lines; None where there are no such times."""
    full = [line.strip() for line in lines if line.strip() and not _LABEL_FREQUENCIES.match(line.strip())]
    for pattern in _LINES_OF_TIMES:
        found = [pattern.match(line) for line in full]
        if full and all(found):
            return [match["text"] or "" for match in found]
    if full and _STAMP.match(full[0]) and not any(map(_CUE_TIME.match, full)):  # then lines without a time go on
        return [match["text"] if (match := _STAMP.match(line)) else line for line in full]
    return subtitle_lines(lines)


def is_alignment(lines: Sequence[str]) -> bool:
    """Whether a .lab file lists sounds, with or without their times, instead of a sentence."""
    lines = [line for line in lines if line.strip() not in ("", "#")]  # "#" ends a head
    if len(lines) > 1 and (all(map(_ALIGNED.match, lines)) or all(map(_FULL_CONTEXT.match, lines))):
        return True
    words = " ".join(lines).split()
    if len(words) < FEWEST_PHONES or max(map(len, words)) > LONGEST_PHONE:
        return False
    one_a_line = len(words) == len(lines)
    return one_a_line or bool(_SILENCES & set(map(str.lower, words))) or any(map(_ARPABET.fullmatch, words))
