"""Mels and speaker vectors of clips of each voice and of their copies at other speeds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from build_mini.common import (
    MEL_RATE,
    SEED,
    SOURCES,
    TOKENIZER_RATE,
    Clip,
    aligned_clips,
    load_arrays,
    log_line,
    made,
    read_manifest,
    save_arrays,
)
from build_mini.features import change_speed, kaldi_fbank
from build_mini.graphs import SPEAKER_ENCODER, open_graph
from build_mini.vocoder import mini_config

CLIPS_PER_VOICE = 400  # most
VECTOR_SECONDS = 1.0  # shorter waves tell little about the speaker and have no vector


def resampled_to_mel_rate(wave: Tensor) -> Tensor:
    """A 16 kHz wave (N,) at 22.05 kHz."""
    return change_speed(wave, Fraction(TOKENIZER_RATE, MEL_RATE))


def acoustic_clips(clips: list[Clip]) -> list[Clip]:
    """The clips whose mels are kept: all test clips and some training clips of every voice."""
    rng = random.Random(SEED)
    chosen = []
    for voice in sorted({clip.voice for clip in clips}):
        mine = [clip for clip in clips if clip.voice == voice and clip.seconds > VECTOR_SECONDS]
        train = [clip for clip in mine if clip.split != "test"]
        chosen += [clip for clip in mine if clip.split == "test"]
        chosen += rng.sample(train, min(len(train), CLIPS_PER_VOICE))
    return chosen


def with_copies(work: Path, clips: list[Clip], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, 16 kHz wave) of each clip as it is, and at the speed that its stored copy has, if any."""
    speeds = {clip_id: Fraction(speed) for clip_id, speed in (name.split("@") for name in names if "@" in name)}
    for clip in tqdm(clips, "acoustics"):
        wave = clip.wave(work)
        yield clip.id, wave
        if clip.id in speeds:
            yield f"{clip.id}@{speeds[clip.id]}", change_speed(wave, speeds[clip.id])


@torch.inference_mode()
def build(work: Path) -> None:
    """Write work/mels_SOURCE.npz ((T, 80) float16) and work/vectors.npz ((192,) float32, raw)."""
    encoder, feat_extractor = open_graph(work, SPEAKER_ENCODER), mini_config().feat_extractor
    vectors = {}
    for source in SOURCES:
        with np.load(made(work, f"logmels_{source}.npz")) as stored:
            names = stored.files
        mels = {}
        for name, wave in with_copies(work, acoustic_clips(read_manifest(work, source)), names):
            mels[name] = feat_extractor(resampled_to_mel_rate(wave)[None])[0].T.numpy().astype(np.float16)
            vectors[name] = encoder.run(None, {"fbank": kaldi_fbank(wave)[None].numpy()})[0][0]
        save_arrays(work, f"mels_{source}", mels)
    save_arrays(work, "vectors", vectors)
    log_line(work, "acoustics", f"mels and speaker vectors of {len(vectors)} waves")


def speaker_means(work: Path) -> dict[str, np.ndarray]:
    """Mean raw speaker vector (192,) of every "voice@speed" and, without a speed, of every voice as recorded."""
    voices = {clip.id: clip.voice for clip in aligned_clips(work) if clip.split != "test"}
    groups: dict[str, list[np.ndarray]] = {}
    for name, vector in load_arrays(work, "vectors").items():
        clip_id, at, speed = name.partition("@")
        if clip_id in voices:
            groups.setdefault(voices[clip_id] + at + speed, []).append(vector)
    return {name: np.mean(group, axis=0) for name, group in groups.items()}
