"""The vocoder's pitch predictor, taught by itself: it is small and quick to train."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from build_mini.acoustics import resampled_to_mel_rate
from build_mini.common import (
    SEED,
    Progress,
    aligned_clips,
    learning_rate,
    log_line,
    set_learning_rate,
)
from build_mini.features import SPEEDS, change_speed, mel_frame_pitch
from build_mini.vocoder import centre_input, mini_config, shipped

MINUTES = 4.0
CLIPS_PER_VOICE = 25  # most
BATCH, CROP_FRAMES = 32, 64
PEAK_LR = 3e-3
PITCH_UNIT = 100.0  # Hz: what a fresh predictor's output is scaled by
HIGH = Fraction(7, 5)  # one more speed: voices higher than those of the corpus


@torch.inference_mode()
def load_pairs(work: Path) -> list[tuple[Tensor, Tensor]]:
    """(mel (80, T), pitch (T,)) of some clips of every voice, as they are and at two other speeds."""
    rng, feat_extractor = random.Random(SEED), mini_config().feat_extractor
    pairs: list[tuple[Tensor, Tensor]] = []
    clips = [clip for clip in aligned_clips(work) if clip.split == "train" and clip.seconds > 1.5]
    for voice in sorted({clip.voice for clip in clips}):
        mine = [clip for clip in clips if clip.voice == voice]
        for clip in rng.sample(mine, min(len(mine), CLIPS_PER_VOICE)):
            for speed in (Fraction(1), rng.choice(SPEEDS), HIGH):
                wave = resampled_to_mel_rate(change_speed(clip.wave(work), speed))[None]
                pairs.append((feat_extractor(wave)[0], mel_frame_pitch(wave)[0]))
    return pairs


def crop_batch(pairs: list[tuple[Tensor, Tensor]], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Mels (B, 80, crop) at random loudness and pitch (B, crop)."""
    mels, tracks = [], []
    for mel, track in rng.sample(pairs, BATCH):
        start = rng.randint(0, mel.shape[1] - CROP_FRAMES)
        mels.append(mel[:, start : start + CROP_FRAMES] + rng.uniform(-1.0, 0.3))
        tracks.append(track[start : start + CROP_FRAMES])
    return torch.stack(mels), torch.stack(tracks)


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train until the budget is spent; state in work/f0.state.pt."""
    progress = Progress(work, "f0", minutes)
    if progress.finished():
        return
    pairs = [pair for pair in load_pairs(work) if pair[0].shape[1] > CROP_FRAMES]
    model = (shipped("hift") if warm_start else mini_config().build("hift", device="cpu")).f0_predictor
    if not warm_start:
        centre_input(model.condnet[0])
        with torch.no_grad():
            model.classifier.weight *= PITCH_UNIT
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.0)
    parts = {"model": model, "optimizer": optimizer}
    progress.resume(parts)
    rng, smooth = random.Random(SEED + progress.step), None
    for step in progress.steps(parts):
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        mel, track = crop_batch(pairs, rng)
        loss = (model(mel) - track).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = float(loss.detach()) if smooth is None else 0.98 * smooth + 0.02 * float(loss.detach())
        if step % progress.log_every == 0:
            print(f"f0 step {step} error {smooth:.2f} Hz {progress.spent / 60:.1f} min", flush=True)
    log_line(work, "f0", f"{progress.step} steps, mean error {smooth:.1f} Hz")
