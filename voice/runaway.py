"""Signs that a spoken segment went wrong: loops in its tokens, silence and nothing at all in its sound."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clips.measuring import FRAME_SEC

SILENCE_BELOW_PEAK_DB = 45  # a frame so far below the loudest one counts as silence
NOTHING_RMS = 0.01  # -40 dBFS: speech whose loudest 20 ms are quieter than this is no speech
LONGEST_PERIOD_SEC = 1.0
FEWEST_REPEATS = 3


def loop_seconds(tokens: Sequence[int], token_rate_hz: int) -> float:
    """Length of the longest stretch that repeats one pattern (of at most a second) at least FEWEST_REPEATS times."""
    sequence, longest = torch.tensor(list(tokens)), 0
    for period in range(1, min(round(LONGEST_PERIOD_SEC * token_rate_hz), len(sequence) - 1) + 1):
        run = _longest_run(sequence[period:] == sequence[:-period]) + period
        if run >= FEWEST_REPEATS * period and run > period + 1:
            longest = max(longest, run)
    return longest / token_rate_hz


def silence_seconds(wave: Tensor, sample_rate: int) -> float | None:
    """Longest silence of a sound (1, N), inside or at its ends; None for one that holds no sound at all."""
    size = round(FRAME_SEC * sample_rate)
    if wave.shape[1] < size:
        return None
    frames = wave[0, : wave.shape[1] // size * size].view(-1, size)
    rms = frames.pow(2).mean(1).sqrt()
    if rms.max() < NOTHING_RMS:
        return None
    return _longest_run(rms < rms.max() * 10 ** (-SILENCE_BELOW_PEAK_DB / 20)) * FRAME_SEC


def listen(wave: Tensor, sample_rate: int, max_silence_sec: float) -> list[str]:
    """What is wrong with a sound (1, N): no sound, or a silence that is too long."""
    seconds = silence_seconds(wave, sample_rate)
    if seconds is None:
        return ["no sound"]
    return [f"{seconds:.1f} s of silence"] if seconds > max_silence_sec else []


def _longest_run(flags: Tensor) -> int:
    """Length of the longest run of True in a 1-D bool tensor."""
    edges = torch.cat([torch.tensor([-1]), (~flags).nonzero().flatten(), torch.tensor([len(flags)])])
    return int(edges.diff().max()) - 1
