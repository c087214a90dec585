"""The data doctor's findings for people, as text, and a clip's line in report.json."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from clips.audio_doctor import FLAGS, Finding

REPORT_FIGURES = (
    "text written duration_sec sample_rate channels peak_db level_db dc_offset channel_db snr_db clipped_share "
    "lead_silence_sec trail_silence_sec edge_db fall_db bandwidth_hz chars_per_sec speaker_cosine text_help cer heard "
    "text_tokens speech_tokens"
).split()
FEWEST_CLIPS, FEWEST_SEC, FAIR_CLIPS = 10, 30, 20  # with fewer a voice is poor; good from FAIR_CLIPS on
GOOD_CLIPS = "20-50 clips of 2-15 s"
DULL_FLAGS = {"low_sample_rate", "low_bandwidth"}  # of clips without high sounds


def report_entry(finding: Finding) -> dict[str, Any]:
    """The clip's line in report.json; figures that were not measured are left out."""
    figures = {name: finding.figures[name] for name in REPORT_FIGURES if name in finding.figures}
    head = {"clip": finding.clip, "flags": finding.flags, "status": finding.status, "reasons": finding.reasons}
    return {**head, "file": finding.file, **figures}


def report_text(findings: Sequence[Finding], notes: Sequence[str] = (), max_lines: int | None = None) -> str:
    """The report for people: the worst clips first, then the totals; clips without a flag are only counted.

    max_lines: of the part about single clips.
    """
    bad = [finding for finding in worst_first(findings) if finding.flags]
    width = max((len(finding.clip) for finding in bad), default=0)
    lines = [
        f"  {finding.status:8}{finding.clip if i == 0 else '':{width}}  {name}: {reason}"
        for finding in bad
        for i, (name, reason) in enumerate(zip(finding.flags, finding.reasons, strict=True))
    ]
    lines += [f"  note    {note}" for note in notes]
    if max_lines is not None and len(lines) > max_lines:
        lines[max_lines:] = [f"  ... {len(lines) - max_lines} more lines in report.txt"]
    return "\n".join([*lines, *summary_lines(findings)])


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By the gravest flag, then by the number of flags; clips without any last, by name."""
    grave = list(FLAGS).index
    return sorted(
        findings,
        key=lambda finding: (
            grave(finding.flags[0]) if finding.flags else len(FLAGS),
            -len(finding.flags),
            finding.clip,
        ),
    )


def summary_lines(findings: Sequence[Finding]) -> list[str]:
    """The totals, and what to do about the set as a whole."""
    used = [finding for finding in findings if finding.status != "dropped"]
    count = Counter(finding.status for finding in findings)
    minutes = sum(finding.figures["duration_sec"] for finding in used) / 60
    total = f"{len(used)} of {len(findings)} clips used, {minutes:.1f} min"
    total += f" ({count['kept']} clean, {count['warned']} with a warning); {count['dropped']} dropped"
    return [total, *advice(findings)]


def enough(findings: Sequence[Finding]) -> tuple[str, str]:
    """Whether the clips that are used are enough for a voice: bad, fair or good, and a sentence that says so."""
    used = [finding for finding in findings if finding.status != "dropped"]
    seconds = sum(finding.figures["duration_sec"] for finding in used)
    flagged = any(finding.status == "warned" for finding in used)
    if not used:
        return "bad", "No clip can be used: mend what is named below and prepare again."
    if len(used) < FEWEST_CLIPS or seconds < FEWEST_SEC:
        count = "1 clip" if len(used) == 1 else f"{len(used)} clips"
        return "bad", f"Very little data: {count}, {seconds:.0f} s; {GOOD_CLIPS} give a better voice."
    if len(used) < FAIR_CLIPS:
        return "fair", f"Enough to try: {len(used)} clips; {GOOD_CLIPS} give a better voice."
    if len(findings) > 2 * len(used):
        return "fair", f"Enough to try: {len(used)} clips; but more were dropped, mend those first."
    if 2 * len(dull(used)) > len(used):
        return "fair", "Enough for a voice, but for a dull one: most clips hold no high sounds."
    return "good", "Enough for a voice" + ("; listen to the clips with a warning first." if flagged else ".")


def dull(findings: Sequence[Finding]) -> list[Finding]:
    """Those without high sounds."""
    return [finding for finding in findings if DULL_FLAGS & set(finding.flags)]


def advice(findings: Sequence[Finding]) -> list[str]:
    """What to do about the set as a whole."""
    used = [finding for finding in findings if finding.status != "dropped"]
    dropped = len(findings) - len(used)
    lines = []
    if dropped > len(used):
        lines.append(
            f"WARNING: more clips were dropped ({dropped}) than used ({len(used)}). "
            "Mend the clips named above and run this again before training."
        )
    if low := dull(used):
        top_khz = max(finding.figures["bandwidth_hz"] for finding in low) / 1000
        lines.append(
            f"WARNING: {len(low)} of {len(used)} clips hold nothing above {top_khz:.1f} kHz: s, f and sh will sound "
            "dull in the trained voice. Bring recordings of 16 kHz or more where there are any."
        )
    word, sentence = enough(findings)
    if used and word == "bad":
        lines.append(sentence)
    if any(finding.status == "warned" for finding in used):
        lines.append("Clips with a warning are used. Listen to them; mend or delete those that are wrong, run again.")
    return lines
