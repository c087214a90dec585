"""Features of the two ONNX graphs: Whisper log-mels for the tokenizer, Kaldi filterbanks for the speaker encoder.

Every aligned clip is stored twice: as it is, and resampled by a random factor, which shifts pitch, formants and rate
together.
"""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import scipy.signal
import torch
import torchaudio.compliance.kaldi
import whisper.audio
from torch import Tensor
from tqdm import tqdm

from build_mini.common import (
    MEL_RATE,
    SEED,
    SOURCES,
    TOKENIZER_RATE,
    Clip,
    aligned_clips,
    log_line,
    read_manifest,
    save_arrays,
)
from cosyvoice.utils.common import MEL_HOP
from voice.metrics import F0_HOP, pitch_track

SPEEDS = tuple(Fraction(*pair) for pair in ((4, 5), (8, 9), (9, 8), (5, 4)))  # > 1: higher, faster, smaller speaker
COPIES_PER_VOICE = 450
CLIPS_PER_SPEAKER = 60  # most filterbanks of each voice at each speed


def change_speed(wave: Tensor, speed: Fraction) -> Tensor:
    """The wave (N,) played `speed` times as fast, (about N / speed,)."""
    if speed == 1:
        return wave
    faster = scipy.signal.resample_poly(wave.numpy(), speed.denominator, speed.numerator)
    return torch.from_numpy(faster.astype(np.float32))


def mel_frame_pitch(waves: Tensor) -> Tensor:
    """Pitch (B, N // MEL_HOP) in Hz of waves (B, N) at MEL_RATE, 0 where unvoiced; of the middle of each mel frame."""
    tracks = [pitch_track(change_speed(wave, Fraction(MEL_RATE, TOKENIZER_RATE))[None]) for wave in waves]
    middles = (torch.arange(waves.shape[1] // MEL_HOP) + 0.5) * MEL_HOP / MEL_RATE  # s
    nearest = (middles * TOKENIZER_RATE / F0_HOP).round().long().clamp(max=len(tracks[0]) - 1)
    return torch.from_numpy(np.stack(tracks)).float()[:, nearest]


def whisper_logmel(wave: Tensor) -> Tensor:
    """(128, N // 160) log-mel of a 16 kHz wave (N,), not padded."""
    return whisper.audio.log_mel_spectrogram(wave, n_mels=128)


def kaldi_fbank(wave: Tensor) -> Tensor:
    """(T, 80) Kaldi filterbank minus its mean over time, of a 16 kHz wave (N,)."""
    bank = torchaudio.compliance.kaldi.fbank(wave[None], num_mel_bins=80, dither=0.0, sample_frequency=TOKENIZER_RATE)
    return bank - bank.mean(dim=0, keepdim=True)


def logmels(work: Path, clips: list[Clip]) -> dict[str, np.ndarray]:
    """float16 (128, T) by clip id, and by "id@p/q" for the copies at speed p/q that some clips of each voice have."""
    rng = random.Random(SEED)
    arrays, copies = {}, Counter()
    for clip in tqdm(clips, "log-mels"):
        wave = clip.wave(work)
        arrays[clip.id] = whisper_logmel(wave).numpy().astype(np.float16)
        if copies[clip.voice] < COPIES_PER_VOICE:
            copies[clip.voice] += 1
            speed = rng.choice(SPEEDS)
            arrays[f"{clip.id}@{speed}"] = whisper_logmel(change_speed(wave, speed)).numpy().astype(np.float16)
    return arrays


def speaker_banks(work: Path) -> dict[str, np.ndarray]:
    """float16 (T, 80) by "voice@speed|clip id": each voice at each speed counts as one speaker."""
    rng = random.Random(SEED)
    by_voice: dict[str, list[Clip]] = {}
    for clip in (*aligned_clips(work), *read_manifest(work, "espeak")):
        if clip.split == "train" and clip.seconds > 1.5:
            by_voice.setdefault(clip.voice, []).append(clip)
    arrays = {}
    for voice, clips in by_voice.items():
        speeds = (Fraction(1), *SPEEDS) if clips[0].phones else (Fraction(1),)
        for speed in speeds:
            for clip in rng.sample(clips, min(len(clips), CLIPS_PER_SPEAKER)):
                wave = change_speed(clip.wave(work), speed)
                arrays[f"{voice}@{speed}|{clip.id}"] = kaldi_fbank(wave).numpy().astype(np.float16)
    return arrays


def build(work: Path) -> None:
    """Write work/logmels_SOURCE.npz of every source that is new, and work/banks.npz."""
    for source in SOURCES:
        clips = read_manifest(work, source)
        target = work / f"logmels_{source}.npz"
        if not target.exists() or target.stat().st_mtime < (work / f"{source}.jsonl").stat().st_mtime:
            save_arrays(work, f"logmels_{source}", logmels(work, clips))
            log_line(work, "features", f"log-mels of {len(clips)} clips of {source}")
    banks = speaker_banks(work)
    save_arrays(work, "banks", banks)
    log_line(work, "features", f"{len(banks)} filterbanks")
