"""The data doctor's report as one page: every clip with its figures and a player, worst first, sortable."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from clips.audio_doctor import Finding
from clips.measuring import ECHO_SEC
from clips.report import summary_lines, worst_first
from common.webpage import document

# Columns: figure, heading, digits
FIGURES = (
    ("duration_sec", "s", 2),
    ("level_db", "level, dBFS", 1),
    ("peak_db", "peak, dBFS", 1),
    ("snr_db", "speech above pauses, dB", 0),
    ("clipped_share", "clipped share", 4),
    ("lead_silence_sec", "silence before, s", 2),
    ("trail_silence_sec", "silence after, s", 2),
    ("fall_db", f"fall in {ECHO_SEC} s, dB", 0),
    ("bandwidth_hz", "band up to, Hz", 0),
    ("sample_rate", "Hz", 0),
    ("chars_per_sec", "characters/s", 1),
    ("speaker_cosine", "cosine to the others", 3),
    ("text_help", "what the text tells, nats/s", 0),
    ("cer", "character error rate", 2),
)
WORDS = {"clip": "", "status": "", "what is wrong": "long", "text": "long"}  # first columns, and which are wide
STYLE = """
audio { width: 14rem }
td { font-variant-numeric: tabular-nums }
th { font-size: .8rem; vertical-align: bottom }
.long { min-width: 16rem }
"""


def report_page(findings: Sequence[Finding], notes: Sequence[str], input_dir: Path, page_dir: Path) -> str:
    """The page, to be written into page_dir; players read the recordings where they lie, below input_dir."""
    columns = [column for column in FIGURES if any(column[0] in finding.figures for finding in findings)]
    head = "".join(f'<th class="sorts words {kind}">{heading}</th>' for heading, kind in WORDS.items())
    head += "".join(f'<th class="sorts">{html.escape(heading)}</th>' for _, heading, _ in columns)
    rows = "".join(row(finding, columns, link(input_dir / finding.file, page_dir)) for finding in worst_first(findings))
    lines = [*notes, *summary_lines(findings)]
    body = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    body += f"<p><small>A click on a heading sorts.</small></p><table><thead><tr>{head}</tr></thead>"
    return document("Data report", f"{body}<tbody>{rows}</tbody></table>", style=STYLE, wide=True, sorts=True)


def link(recording: Path, page_dir: Path) -> str:
    """The recording as seen from the page: a relative path where there is one."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(recording, page_dir)).as_posix()))
    except ValueError:  # another drive
        return recording.resolve().as_uri()


def row(finding: Finding, columns: Sequence[tuple[str, str, int]], address: str) -> str:
    """One clip."""
    player = f'<audio controls preload="none" src="{html.escape(address)}"></audio>'
    reasons = "<br>".join(
        f"<b>{name}</b>: {html.escape(reason)}" for name, reason in zip(finding.flags, finding.reasons, strict=True)
    )
    cells = [
        f"<td>{html.escape(finding.clip)}<br>{player}</td>",
        f'<td class="words {finding.status}">{finding.status}</td>',
        f'<td class="words long" data-value="{len(finding.flags)}">{reasons}</td>',
        f'<td class="words long">{html.escape(str(finding.figures.get("text", "")))}</td>',
    ]
    for name, _, digits in columns:
        value = finding.figures.get(name)
        shown = "" if value is None else f"{value:.{digits}f}"
        cells.append(f'<td data-value="{"" if value is None else value}">{shown}</td>')
    return f"<tr>{''.join(cells)}</tr>"
