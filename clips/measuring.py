"""What one recording measures: levels, silences, echo, clipping, bandwidth. Pure functions of samples.

Levels are in dB below full scale (dBFS).
"""

import math
from dataclasses import dataclass

import numpy as np

FRAME_SEC = 0.02  # of a level
FLAT_RUN = 4  # equal extreme samples in a row that make a flat top
ECHO_SEC = 0.15  # after a loud sound, in which the level falls
BANDWIDTH_DROP_DB = 50.0  # the band ends where the spectrum stays this far below its peak


@dataclass(frozen=True)
class AudioFigures:
    """What one recording measures at its own sample rate; silences and bandwidth refer to its speech level."""

    duration_sec: float
    sample_rate: int
    channels: int
    peak_db: float  # dBFS
    level_db: float  # 95th percentile of 20 ms frames of the channels' mean, dBFS
    channel_db: float  # the same of the loudest channel alone
    snr_db: float  # level_db above the 5th percentile of the frames: the pauses
    clipped_share: float  # 0..1, of the worst channel
    dc_offset: float  # mean of the samples, of the worst channel
    lead_silence_sec: float
    trail_silence_sec: float
    edge_db: float  # the louder of first and last frame, relative to level_db
    fall_db: float  # how far the level falls within ECHO_SEC where loud sounds stop
    bandwidth_hz: float


def measure(samples: np.ndarray, sample_rate: int, duration_sec: float | None = None) -> AudioFigures:
    """Figures of samples (N, channels), float in [-1, 1]; duration_sec where only the start of a long file is given.

    Levels are those of the centred wave: an offset is not to be heard, and would pass for noise in the pauses."""
    offsets = samples.mean(axis=0, dtype=np.float64)
    centred = (samples - offsets).astype(samples.dtype)
    mono = centred.mean(axis=1)
    levels = frame_levels(mono, sample_rate)
    pause, level = map(float, np.quantile(levels, [0.05, 0.95]))
    lead, trail = edge_silences(levels)
    return AudioFigures(
        duration_sec=round(len(mono) / sample_rate if duration_sec is None else duration_sec, 6),
        sample_rate=sample_rate,
        channels=samples.shape[1],
        peak_db=round(float(decibel(peak(samples))), 1),
        level_db=round(level, 1),
        channel_db=round(max(float(np.quantile(frame_levels(one, sample_rate), 0.95)) for one in centred.T), 1),
        snr_db=round(level - pause, 1),
        clipped_share=round(max(map(clipped_share, samples.T)), 6),
        dc_offset=round(float(max(offsets, key=abs)), 4),
        lead_silence_sec=lead,
        trail_silence_sec=trail,
        edge_db=round(float(max(levels[0], levels[-1])) - level, 1),
        fall_db=round(fall_db(mono, sample_rate), 1),
        bandwidth_hz=round(bandwidth_hz(mono, sample_rate)),
    )


def frame_levels(mono: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dBFS of each whole frame of FRAME_SEC of samples (N,); of all of them where they make no frame."""
    size = max(1, int(FRAME_SEC * sample_rate))
    frames = mono[: len(mono) // size * size].reshape(-1, size) if len(mono) >= size else mono[None]
    energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)  # no copy of the samples, which may be an hour
    return decibel(np.sqrt(energies / frames.shape[1]))


def edge_silences(levels: np.ndarray) -> tuple[float, float]:
    """Seconds before and after the speech, by the levels of the frames; all of it before where nobody speaks."""
    loud = np.nonzero(levels > silence_threshold(levels))[0]
    lead, trail = (loud[0], len(levels) - 1 - loud[-1]) if len(loud) else (len(levels), 0)
    return round(float(lead) * FRAME_SEC, 2), round(float(trail) * FRAME_SEC, 2)


def decibel(amplitude: np.ndarray | float) -> np.ndarray:
    """20 log10, not below -120."""
    return 20 * np.log10(np.maximum(amplitude, 1e-6))


def peak(samples: np.ndarray) -> float:
    """The largest magnitude."""
    return float(max(samples.max(), -samples.min()))


def silence_threshold(levels: np.ndarray) -> float:
    """Level in dB that parts pauses from speech: midway from the noise floor, 20 to 40 dB below the speech level."""
    floor, speech = np.quantile(levels, [0.05, 0.95])
    return float(speech - np.clip((speech - floor) / 2, 20, 40))


def fall_db(mono: np.ndarray, sample_rate: int) -> float:
    """The steepest falls (97th percentile) of the level within ECHO_SEC from a loud frame; 0 for too short a clip.

    A room's echo dies away at its own pace, however abruptly the voice stops."""
    size = max(1, int(FRAME_SEC / 2 * sample_rate))
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    levels, step = decibel(np.sqrt(np.mean(np.square(frames), axis=1))), round(ECHO_SEC / FRAME_SEC * 2)
    falls = levels[:-step] - levels[step:]
    loud = levels[:-step] > np.quantile(levels, 0.95) - 10 if len(levels) else np.zeros(0, dtype=bool)
    return float(np.quantile(falls[loud], 0.97)) if len(falls) and loud.any() else 0.0


def clipped_share(samples: np.ndarray) -> float:
    """Share of samples (N,) that lie on a flat top."""
    return float(flat_tops(samples).mean())


def flat_tops(samples: np.ndarray) -> np.ndarray:
    """Which of the samples (N,) lie at the extreme value, FLAT_RUN or more in a row."""
    top = np.abs(samples).max()
    if top < 0.1:
        return np.zeros(len(samples), dtype=bool)
    at_top = np.concatenate([[0], (np.abs(samples) >= 0.998 * top).astype(np.int8), [0]])
    steps = np.diff(at_top)
    starts, ends = np.nonzero(steps == 1)[0], np.nonzero(steps == -1)[0]
    long = ends - starts >= FLAT_RUN
    steps[:] = 0
    steps[starts[long]], steps[ends[long]] = 1, -1
    return np.cumsum(steps[:-1]).astype(bool)


def bandwidth_hz(mono: np.ndarray, sample_rate: int) -> float:
    """Highest frequency at which the mean spectrum of the loud frames is within BANDWIDTH_DROP_DB of its peak."""
    size = 2 ** max(1, round(math.log2(0.032 * sample_rate)))  # of a rate that no recorder has, too
    if len(mono) < size:
        return sample_rate / 2
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[:: size // 2] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    energy = power.sum(axis=1)
    spectrum = 0.5 * decibel(power[energy >= 0.01 * np.quantile(energy, 0.95)].mean(axis=0))
    bins = max(1, round(250 * size / sample_rate))  # smoothed over 250 Hz
    spectrum = np.convolve(np.pad(spectrum, bins // 2, mode="edge"), np.ones(bins) / bins, mode="valid")
    highest = np.nonzero(spectrum >= spectrum.max() - BANDWIDTH_DROP_DB)[0][-1] * sample_rate / size
    return min(float(highest), sample_rate / 2)
