"""The vocoder: HiFTGenerator on all voices and on their resampled copies, with spectral losses.

Its source follows the true pitch here; its pitch predictor is taught by a stage of its own (f0).
"""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from build_mini.common import (
    HERE,
    MEL_RATE,
    MODEL_DIR,
    SEED,
    TOKENIZER_RATE,
    Progress,
    aligned_clips,
    compiled,
    fast,
    learning_rate,
    log_line,
    running_mean,
    set_learning_rate,
)
from build_mini.features import SPEEDS, change_speed, mel_frame_pitch
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.utils.common import MEL_HOP
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config
from matcha.utils.audio import hann_window

MINUTES = 100.0
CLIPS_PER_VOICE = 150  # most
BATCH, CROP_FRAMES, MARGIN_FRAMES = 16, 32, 4  # the margin hides the reflected ends of a crop's mel
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512), (256, 64))  # FFT size and hop of the spectral losses
PEAK_LR = 1e-3
MEL_WEIGHT = 2.0  # the mel sees no overtones, the spectra do
TYPICAL_MEL = -5.5  # mean log-mel


def mini_config() -> ModelConfig:
    """The model's own cosyvoice.yaml, from the build folder."""
    return read_model_config(HERE / "model")


def shipped(part: str) -> nn.Module:
    """A network with the weights of the shipped model, ready to be trained on."""
    return load_part(MODEL_DIR, part).train()


def load_waves(work: Path) -> list[np.ndarray]:
    """int16 waves at 22.05 kHz: some clips of every voice as they are, and as many at another speed."""
    rng, waves, taken = random.Random(SEED), [], Counter()
    clips = [clip for clip in aligned_clips(work) if clip.split == "train" and clip.seconds > 1]
    for clip in rng.sample(clips, len(clips)):
        if taken[clip.voice] == CLIPS_PER_VOICE:
            continue
        taken[clip.voice] += 1
        for speed in (Fraction(1), rng.choice(SPEEDS)):
            wave = change_speed(clip.wave(work), speed * Fraction(TOKENIZER_RATE, MEL_RATE))
            waves.append((wave.clamp(-1, 1) * 32767).numpy().astype(np.int16))
    return waves


def crop_batch(waves: list[np.ndarray], rng: random.Random) -> Tensor:
    """(B, samples) pieces with a margin on both sides, at random loudness."""
    samples = (CROP_FRAMES + 2 * MARGIN_FRAMES) * MEL_HOP
    batch = []
    while len(batch) < BATCH:
        wave = rng.choice(waves)
        if len(wave) > samples:
            start = rng.randrange(len(wave) - samples)
            piece = torch.from_numpy(wave[start : start + samples].astype(np.float32)) / 32768
            batch.append(piece * rng.uniform(0.4, 1.1))
    return torch.stack(batch).clamp(-0.99, 0.99)


def spectral_loss(made: Tensor, real: Tensor) -> Tensor:
    """Relative and logarithmic difference of magnitudes, mean over resolutions. Source: Yamamoto et al. 2020."""
    total = made.new_zeros(())
    for size, hop in RESOLUTIONS:
        a, b = (torch.stft(x, size, hop, window=hann_window(size, x.device), return_complex=True) for x in (made, real))
        a, b = ((torch.view_as_real(x).square().sum(-1) + 1e-7).sqrt() for x in (a, b))
        total = total + (a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean()
    return total / len(RESOLUTIONS)


def losses(model: nn.Module, config: ModelConfig, wave: Tensor) -> dict[str, Tensor]:
    """Spectral and mel loss of one batch of crops, the source made with the true pitch."""
    inner = slice(MARGIN_FRAMES, MARGIN_FRAMES + CROP_FRAMES)
    with torch.no_grad():
        mel = config.feat_extractor(wave)[:, :, inner]
        f0 = mel_frame_pitch(wave)[:, inner]
    real = wave[:, inner.start * MEL_HOP : inner.stop * MEL_HOP]
    with fast():
        made = model.decode(mel, model.source(f0))
    return {
        "spectral": spectral_loss(made, real),
        "mel": (config.feat_extractor(made) - config.feat_extractor(real)).abs().mean(),
    }


@torch.no_grad()
def centre_input(first: nn.Conv1d) -> None:
    """Make a fresh network see mels around 0 by its first layer's bias: it then learns much faster."""
    first.bias -= TYPICAL_MEL * first.weight.sum(dim=(1, 2))


def in_full_precision(conv: nn.Module) -> None:
    """Let a layer work in float32 inside `fast`: what it makes are logarithms and angles."""
    plain = conv.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain(x.float())

    conv.forward = forward


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train until the budget is spent; state in work/vocoder.state.pt."""
    progress = Progress(work, "vocoder", minutes)
    if progress.finished():
        return
    config = mini_config()
    model = shipped("hift") if warm_start else config.build("hift", device="cpu")
    if not warm_start:
        centre_input(model.conv_pre)
    mean = running_mean(model)
    in_full_precision(model.conv_post)
    compiled(*model.resblocks, *model.source_resblocks)
    waves = load_waves(work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.8, 0.99), weight_decay=0.0)
    parts = {"model": model, "mean": mean, "optimizer": optimizer}
    progress.resume(parts)
    rng, smooth = random.Random(SEED + progress.step), {}
    for step in progress.steps(parts):
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        terms = losses(model, config, crop_batch(waves, rng))
        loss = terms["spectral"] + MEL_WEIGHT * terms["mel"]
        optimizer.zero_grad()
        loss.backward()
        if not nn.utils.clip_grad_norm_(model.parameters(), 5.0).isfinite():
            continue  # a magnitude overflowed: exp of the last layer
        optimizer.step()
        mean.update_parameters(model)
        for name, value in terms.items():
            smooth[name] = 0.96 * smooth.get(name, float(value.detach())) + 0.04 * float(value.detach())
        if step % progress.log_every == 0:
            figures = " ".join(f"{name} {value:.3f}" for name, value in smooth.items())
            print(f"vocoder step {step} {figures} {progress.spent / 60:.1f} min", flush=True)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in smooth.items())
    log_line(work, "vocoder", f"{progress.step} steps, mean losses: {figures}")
