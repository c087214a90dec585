"""Pitch by normalised autocorrelation: enough to teach the vocoder's f0 predictor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOWEST_HZ, HIGHEST_HZ = 60.0, 420.0
WINDOW = 1024  # samples
SMOOTHING = 11  # samples of a moving average at 22.05 kHz: damps what lies above 1 kHz
VOICED = 0.55  # least autocorrelation of a voiced frame
QUIET = 3e-3  # frames with less amplitude (RMS) are unvoiced
NEARLY_BEST = 0.92  # the shortest lag whose peak reaches this share of the best one wins


def pitch(wave: Tensor, sample_rate: int, hop: int) -> Tensor:
    """Pitch (B, N // hop) in Hz of waves (B, N), 0 where unvoiced; frame k is centred on sample (k + 0.5) * hop."""
    longest, shortest = int(sample_rate / LOWEST_HZ), int(sample_rate / HIGHEST_HZ)
    smooth = F.avg_pool1d(wave[:, None], SMOOTHING, stride=1, padding=SMOOTHING // 2)[:, 0]
    span = WINDOW + longest
    left = (span - hop) // 2
    padded = F.pad(smooth, (left, span - hop - left))
    frames = padded.unfold(1, span, hop)
    correlation = normalised_autocorrelation(frames, longest)
    lags, strength = first_good_peak(correlation, shortest)
    loud = frames.square().mean(dim=2).sqrt() > QUIET
    hz = sample_rate / lags * (loud & (strength > VOICED))
    return F.pad(hz, (2, 2)).unfold(1, 5, 1).median(dim=2).values


def normalised_autocorrelation(frames: Tensor, longest: int) -> Tensor:
    """Correlation (B, K, longest + 1) of each frame's first WINDOW samples with those `lag` later."""
    size = 2 * frames.shape[2]
    head = frames[:, :, :WINDOW]
    spectrum = torch.fft.rfft(frames, size) * torch.fft.rfft(head, size).conj()
    products = torch.fft.irfft(spectrum, size)[:, :, : longest + 1]
    energy = F.pad(frames.square().cumsum(dim=2), (1, 0))
    shifted = energy[:, :, WINDOW : WINDOW + longest + 1] - energy[:, :, : longest + 1]
    return products / (shifted[:, :, :1] * shifted + 1e-9).sqrt()


def first_good_peak(correlation: Tensor, shortest: int) -> tuple[Tensor, Tensor]:
    """Lag (float) and height, 0 without a peak, of the shortest lag that is a peak nearly as high as the best."""
    middle = correlation[:, :, shortest:-1]
    peak = (middle >= correlation[:, :, shortest - 1 : -2]) & (middle > correlation[:, :, shortest + 1 :])
    heights = torch.where(peak, middle, 0.0)
    good = heights >= NEARLY_BEST * heights.amax(dim=2, keepdim=True)
    found = good & peak
    index = found.float().argmax(dim=2)
    before, at, after = (correlation.gather(2, (index + shortest + k)[..., None])[..., 0] for k in (-1, 0, 1))
    bend = (before - 2 * at + after).clamp(max=-1e-6)
    return index + shortest + (0.5 * (before - after) / bend).clamp(-0.5, 0.5), at * found.any(dim=2)
