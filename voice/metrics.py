"""What can be measured in a spoken sentence without listening to it, and how sure a mean over sentences is.

Pure functions, no files. Waves are (1, N) in [-1, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from swift_f0 import SwiftF0
from torch import Tensor

from cosyvoice.utils.common import EXTRACTOR_RATE

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
F0_HOP = 256  # samples, as the pitch network has it
VOICED = 0.5  # confidence of a voiced frame
HARMONICS_WINDOW = 2048  # samples: its bins of 8 Hz part the harmonics of the deepest voice
FEWEST_VOICED = 10  # frames; with fewer a sentence has no pitch
SEMITONES = 12  # an octave
SEAM = -1  # no speech token
PHRASE = 4  # speech tokens in a row that count as said again
CONFIDENCE = 0.95
SMALLEST = 1e-12  # denominator


class Pitch(NamedTuple):
    """The pitch of a wave."""

    hz: float  # median
    spread: float  # standard deviation, semitones
    lowest_db: float  # median level of the lowest harmonic beside the stronger of the next two


def pitch_track(wave: Tensor) -> np.ndarray:
    """Pitch in Hz, (N // F0_HOP,), of a wave (1, N) at EXTRACTOR_RATE; 0 where unvoiced.

    Frame k is centred on sample k * F0_HOP. Source: Nieradzik 2025 (SwiftF0), whose network comes inside the package.
    """
    found = _pitch_detector().detect(wave[0].numpy(), EXTRACTOR_RATE, LOWEST_HZ, HIGHEST_HZ)
    return np.where(found.confidence >= VOICED, found.pitch_hz, 0.0)


@lru_cache(maxsize=1)
def _pitch_detector() -> SwiftF0:
    return SwiftF0(threads=1)  # more threads gain nothing on one sentence


def pitch(wave: Tensor) -> Pitch | None:
    """Pitch of a wave (1, N) at EXTRACTOR_RATE; None without voiced frames."""
    track = pitch_track(wave)
    frames = np.flatnonzero(track)
    if len(frames) < FEWEST_VOICED:
        return None
    samples, hz = wave[0].numpy(), track[frames]
    levels = [_lowest_harmonic_db(samples, frame * F0_HOP, f0) for frame, f0 in zip(frames, hz, strict=True)]
    return Pitch(float(np.median(hz)), float(np.std(SEMITONES * np.log2(hz))), float(np.median(levels)))


def _lowest_harmonic_db(samples: np.ndarray, centre: int, hz: float) -> float:
    """Level of the harmonic at `hz` beside the stronger of the next two, around one sample."""
    piece = samples[max(0, centre - HARMONICS_WINDOW // 2) : centre + HARMONICS_WINDOW // 2]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), HARMONICS_WINDOW))
    frequency = np.fft.rfftfreq(HARMONICS_WINDOW, 1 / EXTRACTOR_RATE)
    first, second, third = (spectrum[np.abs(frequency - k * hz) <= hz / 6].max() for k in (1, 2, 3))
    return 20 * math.log10(max(first, SMALLEST) / max(second, third, SMALLEST))


def repeated_share(tokens: Sequence[int]) -> float:
    """Share of the runs of PHRASE speech tokens that occurred before in the same sentence, 0 to 1.

    Real speech has some: pauses and long sounds hold one token. Compare with the speaker's own clips.
    """
    phrases = [tuple(tokens[i : i + PHRASE]) for i in range(len(tokens) - PHRASE + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def in_one_row(clips: Sequence[Sequence[int]]) -> np.ndarray:
    """Speech tokens of all clips one after the other, (N,) int32, as `recited_tokens` takes them: SEAM before each."""
    pieces = [np.array([SEAM]), *(piece for clip in clips for piece in (_without_repeats(clip), [SEAM]))]
    return np.concatenate(pieces).astype(np.int32)


def recited_tokens(tokens: Sequence[int], row: np.ndarray) -> int:
    """Tokens of the longest stretch that is said as in one of the clips: those that agree less those that do not.

    row: the clips by `in_one_row`. Tokens that follow their like count once, so a pause is no recital.
    Source: Smith and Waterman 1981, without gaps.
    """
    longest, seams = 0, np.flatnonzero(row == SEAM)
    running = np.zeros(len(row), dtype=np.int32)  # best stretch that ends at each place
    for token in _without_repeats(tokens).tolist():
        alike = np.flatnonzero(row == token)
        running[1:] = running[:-1] - 1
        running[alike] += 2
        running[seams] = 0  # no stretch goes on in the next clip
        np.maximum(running, 0, out=running)
        longest = max(longest, int(running[alike].max(initial=0)))  # none is longest where it shrinks
    return longest


def _without_repeats(tokens: Sequence[int]) -> np.ndarray:
    values = np.asarray(tokens, dtype=np.int64)
    return values[np.diff(values, prepend=-1) != 0]


def cosine(vector: Tensor, centre: Tensor) -> float:
    """Cosine of two speaker vectors, (D,) or (1, D)."""
    a, b = vector.flatten().double(), centre.flatten().double()
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12))


# ---- means over sentences --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean over sentences and the range in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(
    parts: Sequence[tuple[float, float]], lowest: float = -math.inf, highest: float = math.inf
) -> Interval | None:
    """Sum of numerators over sum of denominators, one pair a sentence, with its interval; None without any.

    A plain mean has denominators of 1; a word error rate has errors over words. lowest, highest: what the figure can
    be, which bounds the interval. One sentence alone has an interval without other ends.
    """
    if not parts:
        return None
    pairs = np.asarray(parts, dtype=np.float64)
    found = _interval(*_linearised(pairs))
    return replace(found, low=max(found.low, lowest), high=min(found.high, highest))


def share_interval(outcomes: Sequence[bool]) -> Interval | None:
    """The share of sentences in which something happened; None without any.

    None of ten is no proof of never: the range has a width also where all are alike. Source: Wilson 1927."""
    if not outcomes:
        return None
    count, happened, z = len(outcomes), sum(outcomes), NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (happened + z**2 / 2) / (count + z**2)
    half = z * math.sqrt(happened * (count - happened) / count + z**2 / 4) / (count + z**2)
    return Interval(happened / count, max(centre - half, 0.0), min(centre + half, 1.0))


def difference_interval(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> Interval | None:
    """Ours minus theirs, the same sentences in the same order: what all sentences share cancels out."""
    if not ours:
        return None
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} sentences cannot be compared one by one")
    (our_ratio, our_residuals), (their_ratio, their_residuals) = _linearised(a), _linearised(b)
    return _interval(our_ratio - their_ratio, our_residuals - their_residuals)


def _linearised(pairs: np.ndarray) -> tuple[float, np.ndarray]:
    """A ratio of sums, and by how much each sentence moves it, times their number.

    Source: Cochran 1977, "Sampling Techniques", section 6.3."""
    numerators, denominators = pairs.T
    mean = max(float(denominators.mean()), SMALLEST)
    ratio = float(numerators.mean()) / mean
    return ratio, (numerators - ratio * denominators) / mean


def _interval(value: float, residuals: np.ndarray) -> Interval:
    """Student's t for the mean of the residuals: resampling four sentences would call chance proven one time in five.

    Source: Student 1908."""
    count = len(residuals)
    if count == 1:
        return Interval(value, -math.inf, math.inf)
    from scipy.special import stdtrit  # 0.5 s

    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2) * residuals.std(ddof=1) / math.sqrt(count))
    return Interval(value, value - half, value + half)


def position(value: float, low: float, high: float) -> float:
    """Where a value lies: 0 at `low`, 1 at `high`; NaN where the two are the same."""
    return (value - low) / (high - low) if high != low else math.nan
