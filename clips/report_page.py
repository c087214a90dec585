"""The data doctor's report as one page: what to mend first, then every clip with waveform, player and text as read."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from clips.audio_doctor import DROP, FLAGS, Finding
from clips.measuring import ECHO_SEC
from clips.report import advice, enough, worst_first
from clips.text_changes import Piece, changes, shortened
from clips.waveform import HEIGHT, POINTS, Mark, marks, outline
from pages.render import render

CARDS = 200  # clips with waveform and player; those after them, of which all that have flags are worse, are only listed
FIRST = 3  # kinds of trouble that the summary names: those of most clips, the gravest of equals
NAMED = 6  # clips of each
QUOTED = 40  # characters of a text within a reason: the whole text stands below
# Figure, title, digits, unit
FIGURES = (
    ("level_db", "level", 1, " dBFS"),
    ("peak_db", "peak", 1, " dBFS"),
    ("snr_db", "speech above pauses", 0, " dB"),
    ("clipped_share", "clipped", 4, ""),
    ("lead_silence_sec", "silence before", 2, " s"),
    ("trail_silence_sec", "silence after", 2, " s"),
    ("fall_db", f"fall in {ECHO_SEC} s", 0, " dB"),
    ("bandwidth_hz", "band up to", 0, " Hz"),
    ("sample_rate", "sample rate", 0, " Hz"),
    ("chars_per_sec", "speaking rate", 1, " characters/s"),
    ("speaker_cosine", "similarity to the others", 3, ""),
    ("text_help", "intelligibility score", 0, " nats/s"),
    ("cer", "character error rate", 2, ""),
)


@dataclass(frozen=True)
class Trouble:
    """A flag and the clips that have it."""

    flag: str
    drops: bool
    clips: list[tuple[int, str]]  # place on the page, name
    reason: str  # of the first of them


@dataclass(frozen=True)
class Card:
    """What the page shows of a clip."""

    clip: str
    status: str
    seconds: float | None
    sound: str  # address of the recording
    reasons: list[tuple[str, str]]  # flag, sentence
    path: str | None  # of the waveform
    marks: list[Mark]
    written: list[Piece]  # [] where it is read as it is written
    read: list[Piece]
    figures: list[str]


def report_page(findings: Sequence[Finding], notes: Sequence[str], input_dir: Path, page_dir: Path) -> str:
    """The page, to be written into page_dir; players read the recordings where they lie, below input_dir."""
    ordered = worst_first(findings)
    cards = [card(finding, link(input_dir / finding.file, page_dir)) for finding in ordered]
    used = [finding for finding in findings if finding.status != "dropped"]
    word, sentence = enough(findings)
    found = troubles(ordered)
    return render(
        "data_report.html",
        title="Data report",
        verdict=word,
        enough=sentence,
        minutes=sum(finding.figures["duration_sec"] for finding in used) / 60,
        count=Counter(finding.status for finding in findings),
        used=len(used),
        troubles=found,
        first=sorted(found, key=lambda trouble: -len(trouble.clips))[:FIRST],
        named=NAMED,
        notes=[*notes, *(line for line in advice(findings) if line != sentence)],
        cards=cards[:CARDS],
        listed=cards[CARDS:],
        height=HEIGHT,
        points=POINTS,
    )


def troubles(findings: Sequence[Finding]) -> list[Trouble]:
    """What is wrong, the gravest first; findings: as they stand on the page."""
    found = []
    for flag, (kind, _) in FLAGS.items():
        flagged = [(place, finding) for place, finding in enumerate(findings) if flag in finding.flags]
        if flagged:
            clips = [(place, finding.clip) for place, finding in flagged]
            found.append(Trouble(flag, kind == DROP, clips, reason(flagged[0][1], flag)))
    return found


def card(finding: Finding, sound: str) -> Card:
    """What the page shows of a clip whose recording lies at the address `sound`."""
    figures, wave = finding.figures, finding.figures.get("waveform")
    written, read = changes(figures.get("written", ""), figures.get("text", ""))
    return Card(
        clip=finding.clip,
        status=finding.status,
        seconds=figures.get("duration_sec"),
        sound=sound,
        reasons=[(flag, reason(finding, flag)) for flag in finding.flags],
        path=wave and outline(wave.peaks),
        marks=marks(wave, finding.flags, figures) if wave else [],
        written=written if any(piece.changed for piece in (*written, *read)) else [],
        read=read,
        figures=[
            f"{title} {figures[name]:.{digits}f}{unit}" for name, title, digits, unit in FIGURES if name in figures
        ],
    )


def reason(finding: Finding, flag: str) -> str:
    """What is wrong and what to do, with no more than the start of the text in it."""
    figures = finding.figures
    return FLAGS[flag][1].format_map(figures | {"text": shortened(figures.get("text", ""), QUOTED)})


def link(recording: Path, page_dir: Path) -> str:
    """The recording as seen from the page: a relative path where there is one."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(recording, page_dir)).as_posix()))
    except ValueError:  # another drive
        return recording.resolve().as_uri()
