"""The outline of a recording, small enough for a page with many clips, and where in it something is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clips.audio_doctor import CUT_MARGIN_DB, EDGE_SILENCE_SEC
from clips.measuring import flat_tops, frame_levels

POINTS = 40  # of an outline: 0.1 s each in a clip of 4 s
HEIGHT = 16  # of a point at full scale
SHORTEST_SEC = 0.001  # a sample or two are rounded to 0 s


@dataclass(frozen=True)
class Waveform:
    """What a picture of a recording needs."""

    seconds: float
    peaks: list[int]  # POINTS heights, 0 to HEIGHT, by the square root of the amplitude: quiet speech is seen as well
    clipped: list[int]  # points with clipped samples
    first_db: float  # level of the first frame, relative to the clip's speech level
    last_db: float


@dataclass(frozen=True)
class Mark:
    """A stretch of a waveform in which something is wrong."""

    kind: str  # clipping, silence or cut
    start: float  # in points
    width: float
    words: str


def waveform(samples: np.ndarray, sample_rate: int) -> Waveform:
    """The outline of samples (N, channels), float in [-1, 1]."""
    clipped = np.stack([flat_tops(channel) for channel in samples.T]).any(axis=0)
    levels = frame_levels(samples.mean(axis=1) - samples.mean(), sample_rate)
    speech = float(np.quantile(levels, 0.95))
    return Waveform(
        seconds=round(len(samples) / sample_rate, 3),
        peaks=heights(samples),
        clipped=[point for point, piece in enumerate(pieces(clipped)) if piece.any()],
        first_db=round(float(levels[0]) - speech, 1),
        last_db=round(float(levels[-1]) - speech, 1),
    )


def heights(samples: np.ndarray) -> list[int]:
    """POINTS heights of samples (N, channels) of any length."""
    peaks = [np.abs(piece).max(initial=0.0) for piece in pieces(samples)]
    return [round(HEIGHT * min(float(peak), 1.0) ** 0.5) for peak in peaks]


def pieces(samples: np.ndarray) -> list[np.ndarray]:
    """POINTS stretches of samples (N, ...) of one length; of fewer samples, some more than once."""
    starts = np.arange(POINTS + 1) * len(samples) // POINTS
    return [samples[start : max(end, start + 1)] for start, end in zip(starts, starts[1:], strict=False)]


def outline(peaks: Sequence[int]) -> str:
    """Upper half of the picture as an SVG path, one unit a point to the right; the lower half is its mirror image."""
    steps = [f"1{earlier - later:+d}" for earlier, later in zip(peaks, peaks[1:], strict=False)]
    return f"M0 0V-{peaks[0]}l{' '.join(steps)}h1V0z".replace("+", " ")


def marks(wave: Waveform, flags: Sequence[str], figures: Mapping[str, Any]) -> list[Mark]:
    """Where the flags of a clip are to be seen in its waveform."""
    points = POINTS / max(wave.seconds, SHORTEST_SEC)  # a second
    found = []
    if "edge_silence" in flags:
        lead, trail = figures["lead_silence_sec"], figures["trail_silence_sec"]
        if lead > EDGE_SILENCE_SEC:
            found.append(Mark("silence", 0, lead * points, f"{lead:.1f} s of silence before the speech"))
        if trail > EDGE_SILENCE_SEC:
            words = f"{trail:.1f} s of silence after the speech"
            found.append(Mark("silence", POINTS - trail * points, trail * points, words))
    if "clipping" in flags:
        for first, last in runs(wave.clipped):
            words = f"clipped from {first / points:.1f} to {(last + 1) / points:.1f} s"
            found.append(Mark("clipping", first, last + 1 - first, words))
    if "cut_off" in flags:
        found += [Mark("cut", 0, 1, "starts inside speech")] if wave.first_db > -CUT_MARGIN_DB else []
        found += [Mark("cut", POINTS - 1, 1, "ends inside speech")] if wave.last_db > -CUT_MARGIN_DB else []
    return found


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of every run of consecutive numbers, which are in order."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
