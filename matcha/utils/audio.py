"""Log-mel spectrogram of a waveform, and the filter bank and window that it is made with."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

MAGNITUDE_EPS = 1e-9  # inside the square root
LOG_FLOOR = 1e-5  # smallest mel magnitude; its logarithm is -11.5129

# Slaney mel scale: linear below 1 kHz (3 mel per 200 Hz), logarithmic above (27 mel per factor 6.4)
LINEAR_HZ_PER_MEL = 200.0 / 3
LOG_START_HZ = 1000.0
LOG_START_MEL = LOG_START_HZ / LINEAR_HZ_PER_MEL
LOG_STEP = math.log(6.4) / 27


def hz_to_mel(hz: float) -> float:
    """Slaney mel value of a frequency."""
    if hz < LOG_START_HZ:
        return hz / LINEAR_HZ_PER_MEL
    return LOG_START_MEL + math.log(hz / LOG_START_HZ) / LOG_STEP


def mel_to_hz(mel: Tensor) -> Tensor:
    """Frequencies in Hz of Slaney mel values, any shape."""
    above = LOG_START_HZ * torch.exp(LOG_STEP * (mel - LOG_START_MEL))
    return torch.where(mel < LOG_START_MEL, mel * LINEAR_HZ_PER_MEL, above)


@torch.inference_mode(False)  # a cached inference tensor could not be used in training
def mel_filters(sampling_rate: int, n_fft: int, num_mels: int, fmin: float, fmax: float | None) -> Tensor:
    """Triangular filters (num_mels, n_fft // 2 + 1), float32 on the CPU, each of area 2 / (its width in Hz).

    fmax None means half the sampling rate. Source: Slaney 1998, Auditory Toolbox."""
    top = sampling_rate / 2 if fmax is None else fmax
    options = {"dtype": torch.float64, "device": "cpu"}
    edges = mel_to_hz(torch.linspace(hz_to_mel(fmin), hz_to_mel(top), num_mels + 2, **options))
    bins = torch.arange(n_fft // 2 + 1, **options) * sampling_rate / n_fft
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


@lru_cache(maxsize=16)
def cached_mel_filters(
    sampling_rate: int, n_fft: int, num_mels: int, fmin: float, fmax: float | None, device: torch.device
) -> Tensor:
    """`mel_filters` on a device."""
    with torch.inference_mode(False):
        return mel_filters(sampling_rate, n_fft, num_mels, fmin, fmax).to(device)


@lru_cache(maxsize=16)
def hann_window(size: int, device: torch.device) -> Tensor:
    """Periodic Hann window (size,), float32."""
    with torch.inference_mode(False):
        return torch.hann_window(size, device=device, dtype=torch.float32)


def mel_spectrogram(
    y: Tensor,
    n_fft: int,
    num_mels: int,
    sampling_rate: int,
    hop_size: int,
    win_size: int,
    fmin: float,
    fmax: float | None,
    center: bool = False,
) -> Tensor:
    """Log-mel spectrogram (B, num_mels, N // hop_size) of waveforms y (B, N) in [-1, 1], natural logarithm, float32.

    The wave is extended by reflection so that frame k is centred on sample (k + 0.5) * hop_size.
    Raises ValueError for center=True and for a wave that is too short to reflect."""
    if center:
        raise ValueError("mel_spectrogram: center=True is not supported; set center: False in cosyvoice.yaml")
    pad = (n_fft - hop_size) // 2
    if y.shape[-1] <= pad:
        raise ValueError(f"mel_spectrogram: {y.shape[-1]} samples are too few; give at least {pad + 1}")
    y = F.pad(y.float()[:, None], (pad, pad), mode="reflect")[:, 0]
    window = hann_window(win_size, y.device)
    spectrum = torch.stft(y, n_fft, hop_size, win_size, window, center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + MAGNITUDE_EPS).sqrt()
    filters = cached_mel_filters(sampling_rate, n_fft, num_mels, fmin, fmax, y.device)
    return (filters @ magnitude).clamp(min=LOG_FLOOR).log()
