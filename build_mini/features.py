"""Features of the two ONNX graphs: Whisper log-mels for the tokenizer, Kaldi filterbanks for the speaker encoder.

Every aligned clip is stored twice: as it is, and resampled by a random factor, which shifts pitch, formants and rate
together.
"""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import scipy.signal
import torch
import torchaudio.compliance.kaldi
import whisper.audio
from torch import Tensor

from build_mini.common import OWN_VOICES, SEED, TOKENIZER_RATE, Clip, log_line, read_manifest, save_arrays

SPEEDS = tuple(Fraction(*pair) for pair in ((4, 5), (8, 9), (9, 8), (5, 4)))  # > 1: higher, faster, smaller speaker
CLIPS_PER_SPEAKER = 90  # filterbanks of each voice at each speed


def change_speed(wave: Tensor, speed: Fraction) -> Tensor:
    """The wave (N,) played `speed` times as fast, (about N / speed,)."""
    if speed == 1:
        return wave
    faster = scipy.signal.resample_poly(wave.numpy(), speed.denominator, speed.numerator)
    return torch.from_numpy(faster.astype(np.float32))


def whisper_logmel(wave: Tensor) -> Tensor:
    """(128, N // 160) log-mel of a 16 kHz wave (N,), not padded."""
    return whisper.audio.log_mel_spectrogram(wave, n_mels=128)


def kaldi_fbank(wave: Tensor) -> Tensor:
    """(T, 80) Kaldi filterbank minus its mean over time, of a 16 kHz wave (N,)."""
    bank = torchaudio.compliance.kaldi.fbank(wave[None], num_mel_bins=80, dither=0.0, sample_frequency=TOKENIZER_RATE)
    return bank - bank.mean(dim=0, keepdim=True)


def logmels(work: Path, clips: list[Clip]) -> dict[str, np.ndarray]:
    """float16 (128, T) by clip id, and by "id@p/q" for the copy at speed p/q."""
    rng = random.Random(SEED)
    arrays = {}
    for clip in clips:
        wave = clip.wave(work)
        arrays[clip.id] = whisper_logmel(wave).numpy().astype(np.float16)
        speed = rng.choice(SPEEDS)
        arrays[f"{clip.id}@{speed}"] = whisper_logmel(change_speed(wave, speed)).numpy().astype(np.float16)
    return arrays


def speaker_banks(work: Path, clips: list[Clip], espeak: list[Clip]) -> dict[str, np.ndarray]:
    """float16 (T, 80) by "voice@speed|clip id": each voice at each speed counts as one speaker."""
    rng = random.Random(SEED)
    arrays = {}
    for voice in (*OWN_VOICES, "ru_nsh"):
        mine = [clip for clip in clips if clip.voice == voice and clip.split == "train" and clip.seconds > 1.5]
        for speed in (Fraction(1), *SPEEDS):
            for clip in rng.sample(mine, CLIPS_PER_SPEAKER):
                wave = change_speed(clip.wave(work), speed)
                arrays[f"{voice}@{speed}|{clip.id}"] = kaldi_fbank(wave).numpy().astype(np.float16)
    for clip in espeak:
        arrays[f"{clip.voice}@1|{clip.id}"] = kaldi_fbank(clip.wave(work)).numpy().astype(np.float16)
    return arrays


def build(work: Path) -> None:
    """Write work/logmels.npz and work/banks.npz."""
    clips, espeak = read_manifest(work), read_manifest(work, "espeak")
    save_arrays(work, "banks", speaker_banks(work, clips, espeak))
    save_arrays(work, "logmels", logmels(work, clips))
    log_line(work, "features", f"{len(clips)} clips with log-mels, {len(clips) + len(espeak)} clips for filterbanks")
