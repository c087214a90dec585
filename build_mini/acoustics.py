"""Mels and speaker vectors of some clips of each voice, and of their copies at another speed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from build_mini.common import (
    MEL_RATE,
    OWN_VOICES,
    SEED,
    TOKENIZER_RATE,
    Clip,
    log_line,
    read_manifest,
    save_arrays,
)
from build_mini.features import change_speed, kaldi_fbank
from build_mini.speaker import load_speaker_encoder
from build_mini.vocoder import mini_config

CLIPS_PER_VOICE = 330


def resampled_to_mel_rate(wave: Tensor) -> Tensor:
    """A 16 kHz wave (N,) at 22.05 kHz."""
    return change_speed(wave, Fraction(TOKENIZER_RATE, MEL_RATE))


def acoustic_clips(clips: list[Clip]) -> list[Clip]:
    """The clips whose mels are kept: all test clips and some training clips of every voice."""
    rng = random.Random(SEED)
    chosen = [clip for clip in clips if clip.split == "test"]
    for voice in (*OWN_VOICES, "ru_nsh"):
        mine = [clip for clip in clips if clip.voice == voice and clip.split != "test" and clip.seconds > 1]
        chosen += rng.sample(mine, CLIPS_PER_VOICE)
    return chosen


def copies(work: Path, clips: list[Clip], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, 16 kHz wave) of each clip as it is and at the speed that its stored copy has."""
    speeds = {clip_id: Fraction(speed) for clip_id, speed in (name.split("@") for name in names if "@" in name)}
    for clip in clips:
        wave = clip.wave(work)
        yield clip.id, wave
        yield f"{clip.id}@{speeds[clip.id]}", change_speed(wave, speeds[clip.id])


@torch.inference_mode()
def build(work: Path) -> None:
    """Write work/mels.npz ((T, 80) float16) and work/vectors.npz ((192,) float32, raw)."""
    clips = read_manifest(work)
    with np.load(work / "logmels.npz") as stored:
        names = stored.files
    encoder, feat_extractor = load_speaker_encoder(work), mini_config().feat_extractor
    mels, vectors = {}, {}
    for name, wave in copies(work, acoustic_clips(clips), names):
        mels[name] = feat_extractor(resampled_to_mel_rate(wave)[None])[0].T.numpy().astype(np.float16)
        vectors[name] = encoder(kaldi_fbank(wave)[None])[0].numpy()
    save_arrays(work, "mels", mels)
    save_arrays(work, "vectors", vectors)
    log_line(work, "acoustics", f"mels and speaker vectors of {len(mels)} waves")
