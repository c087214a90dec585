"""Log-mel spectrogram: lengths, scale, refusals, and that its caches serve training as well."""

import math

import librosa
import pytest
import torch

from matcha.utils import audio
from matcha.utils.audio import mel_filters, mel_spectrogram

RELEASED = {
    "n_fft": 1024,
    "num_mels": 80,
    "sampling_rate": 22050,
    "hop_size": 256,
    "win_size": 1024,
    "fmin": 0,
    "fmax": 8000,
    "center": False,
}


@pytest.mark.parametrize("samples", [385, 511, 512, 22050])
def test_one_frame_per_whole_hop(samples: int) -> None:
    assert mel_spectrogram(torch.zeros(2, samples), **RELEASED).shape == (2, 80, samples // 256)


def test_silence_is_close_to_the_floor_and_nothing_is_below_it() -> None:
    silence = mel_spectrogram(torch.zeros(1, 4096), **RELEASED)
    assert silence.min() >= math.log(1e-5) - 1e-4
    assert silence.max() < -8


def test_a_tone_is_loudest_in_the_band_that_holds_its_frequency() -> None:
    tone = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(22050) / 22050)
    loudest = mel_spectrogram(tone[None], **RELEASED)[0].mean(dim=1).argmax()
    centre = mel_filters(22050, 1024, 80, 0, 8000)[loudest].argmax() * 22050 / 1024
    assert abs(centre - 1000) < 50


@pytest.mark.parametrize("n_fft", [400, 401, 1024])
def test_filters_are_those_of_librosa(n_fft: int) -> None:
    expected = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=40, fmin=0, fmax=8000)
    torch.testing.assert_close(mel_filters(16000, n_fft, 40, 0, 8000), torch.from_numpy(expected), rtol=0, atol=1e-8)


def test_doubling_the_amplitude_adds_ln_2() -> None:
    wave = 0.2 * torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    difference = mel_spectrogram(2 * wave, **RELEASED) - mel_spectrogram(wave, **RELEASED)
    torch.testing.assert_close(difference, torch.full_like(difference, math.log(2)), rtol=0, atol=1e-3)


def test_two_configurations_with_the_same_top_do_not_share_filters() -> None:
    wave = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    wide = mel_spectrogram(wave, **RELEASED)
    narrow = mel_spectrogram(wave, **{**RELEASED, "num_mels": 40})
    assert (wide.shape[1], narrow.shape[1]) == (80, 40)


def test_too_short_a_wave_is_refused_with_the_length_needed() -> None:
    with pytest.raises(ValueError, match="384 samples are too few; give at least 385"):
        mel_spectrogram(torch.zeros(1, 384), **RELEASED)


def test_centred_frames_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="center=True"):
        mel_spectrogram(torch.zeros(1, 4096), **{**RELEASED, "center": True})


def test_gradient_flows_after_a_first_use_in_inference_mode() -> None:
    audio.hann_window.cache_clear()
    audio.cached_mel_filters.cache_clear()
    wave = 0.1 * torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mel_spectrogram(wave, **RELEASED)
    wave.requires_grad_()
    mel_spectrogram(wave, **RELEASED).mean().backward()
    assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0


def test_filters_are_the_same_when_first_built_under_another_default_device() -> None:
    audio.cached_mel_filters.cache_clear()
    with torch.device("meta"):
        filters = mel_filters(22050, 1024, 80, 0, None)
    assert filters.device.type == "cpu"
    assert filters.sum() > 0
