"""The vocoder: HiFTGenerator on all voices and on their resampled copies, with spectral losses.

Its source follows the true pitch here; its pitch predictor is taught by a stage of its own (f0).
"""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from build_mini.common import (
    HERE,
    MEL_RATE,
    OWN_VOICES,
    SEED,
    TOKENIZER_RATE,
    Progress,
    learning_rate,
    log_line,
    read_manifest,
    set_learning_rate,
)
from build_mini.features import SPEEDS, change_speed
from build_mini.pitch import pitch
from cosyvoice.utils.common import MEL_HOP
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config
from matcha.utils.audio import hann_window

MINUTES = 25.0
CLIPS_PER_VOICE = 220
BATCH, CROP_FRAMES, MARGIN_FRAMES = 8, 24, 4  # the margin hides the reflected ends of a crop's mel
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512), (256, 64))  # FFT size and hop of the spectral losses
PEAK_LR = 2e-3
MEL_WEIGHT = 5.0
TYPICAL_MEL = -5.5  # mean log-mel


def mini_config() -> ModelConfig:
    """The model's own cosyvoice.yaml, from the build folder."""
    return read_model_config(HERE / "model")


def load_waves(work: Path) -> list[np.ndarray]:
    """int16 waves at 22.05 kHz: some clips of every voice as they are, and as many at another speed."""
    rng = random.Random(SEED)
    clips, waves = read_manifest(work), []
    for voice in (*OWN_VOICES, "ru_nsh"):
        mine = [clip for clip in clips if clip.voice == voice and clip.split == "train" and clip.seconds > 1]
        for clip in rng.sample(mine, CLIPS_PER_VOICE):
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
        f0 = pitch(wave, MEL_RATE, MEL_HOP)[:, inner]
    real = wave[:, inner.start * MEL_HOP : inner.stop * MEL_HOP]
    made = model.decode(mel, model.source(f0))
    return {
        "spectral": spectral_loss(made, real),
        "mel": (config.feat_extractor(made) - config.feat_extractor(real)).abs().mean(),
    }


@torch.no_grad()
def centre_input(first: nn.Conv1d) -> None:
    """Make a fresh network see mels around 0 by its first layer's bias: it then learns much faster."""
    first.bias -= TYPICAL_MEL * first.weight.sum(dim=(1, 2))


def build(work: Path, minutes: float = MINUTES) -> None:
    """Train until the budget is spent; state in work/vocoder.state.pt."""
    config = mini_config()
    model = config.build("hift", device="cpu")
    centre_input(model.conv_pre)
    waves = load_waves(work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.8, 0.99), weight_decay=0.0)
    parts = {"model": model, "optimizer": optimizer}
    progress = Progress(work, "vocoder", minutes)
    progress.resume(parts)
    rng, smooth = random.Random(SEED + progress.step), {}
    for step in progress.steps(parts):
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        terms = losses(model, config, crop_batch(waves, rng))
        loss = terms["spectral"] + MEL_WEIGHT * terms["mel"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        for name, value in terms.items():
            smooth[name] = 0.96 * smooth.get(name, float(value.detach())) + 0.04 * float(value.detach())
        if step % progress.log_every == 0:
            figures = " ".join(f"{name} {value:.3f}" for name, value in smooth.items())
            print(f"vocoder step {step} {figures} {progress.spent / 60:.1f} min", flush=True)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in smooth.items())
    log_line(work, "vocoder", f"{progress.step} steps, mean losses: {figures}")
