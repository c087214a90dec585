"""Speaker vectors: Kaldi filterbank -> time-delay network -> mean and spread over time -> 192 numbers.

Trained to tell many voices apart (additive angular margin); a voice at another speed counts as another speaker.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from build_mini.common import SEED, Progress, fast, learning_rate, load_arrays, log_line, set_learning_rate

MINUTES = 8.0
BANDS, WIDTH, POOLED, DIM = 80, 224, 384, 192
BATCH = 64
SCALE, MARGIN = 24.0, 0.2  # of the angular softmax
PEAK_LR = 2e-3


class SpeakerEncoder(nn.Module):
    """`forward` is the ONNX graph: (B, T, 80) mean-free filterbank -> (B, 192) raw vector of length about 14."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(BANDS, WIDTH, 5, 1), (WIDTH, WIDTH, 3, 2), (WIDTH, WIDTH, 3, 3), (WIDTH, POOLED, 1, 1)]
        self.layers = nn.Sequential()
        for cin, cout, kernel, dilation in shapes:
            conv = nn.Conv1d(cin, cout, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            self.layers.extend([conv, nn.ReLU(), nn.BatchNorm1d(cout)])
        self.project = nn.Linear(2 * POOLED, DIM)
        self.norm = nn.BatchNorm1d(DIM, affine=False)

    def forward(self, bank: Tensor) -> Tensor:
        x = self.layers(bank.transpose(1, 2))
        mean = x.mean(dim=2)
        spread = ((x - mean[:, :, None]).square().mean(dim=2) + 1e-5).sqrt()
        return self.norm(self.project(torch.cat([mean, spread], dim=1)))


def margin_logits(vectors: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Scaled cosines to every speaker's centre, the right angle enlarged. Source: Deng et al. 2019 (ArcFace), eq. 3."""
    cosine = F.linear(F.normalize(vectors), F.normalize(centres)).clamp(-1 + 1e-6, 1 - 1e-6)
    harder = torch.cos(torch.acos(cosine) + MARGIN)
    right = F.one_hot(labels, centres.shape[0]).bool()
    return SCALE * torch.where(right, harder, cosine)


def crop_batch(banks: list[np.ndarray], rng: random.Random) -> Tensor:
    """(B, T, 80) pieces of one random common length, 1 to 3 s; short clips are repeated; light filter and noise."""
    frames = rng.randint(100, 300)
    pieces = []
    for bank in banks:
        bank = np.tile(bank, (-(-frames // len(bank)), 1))
        start = rng.randint(0, len(bank) - frames)
        pieces.append(torch.from_numpy(bank[start : start + frames].astype(np.float32)))
    batch = torch.stack(pieces)
    knots = 0.5 * torch.randn(len(banks), 1, 5)
    batch = batch + F.interpolate(knots, size=BANDS, mode="linear", align_corners=True)
    level = batch.mean(dim=(1, 2), keepdim=True) - 8 + 6 * torch.rand(len(banks), 1, 1)
    batch = torch.logaddexp(batch, level + 0.5 * torch.randn_like(batch))
    return batch - batch.mean(dim=1, keepdim=True)


def load_speaker_encoder(work: Path) -> SpeakerEncoder:
    """The encoder as trained so far."""
    encoder = SpeakerEncoder()
    encoder.load_state_dict(torch.load(work / "speaker.state.pt", weights_only=True)["encoder"])
    return encoder.eval()


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train until the budget is spent; state in work/speaker.state.pt."""
    if warm_start and not (work / "speaker.state.pt").exists():
        log_line(work, "speaker", "the shipped speaker encoder is kept")
        return
    progress = Progress(work, "speaker", minutes)
    if progress.finished():
        return
    banks: dict[str, list[np.ndarray]] = {}
    for name, bank in load_arrays(work, "banks").items():
        banks.setdefault(name.split("|")[0], []).append(bank)
    speakers = sorted(banks)
    encoder, centres = SpeakerEncoder(), nn.Linear(DIM, len(speakers), bias=False)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *centres.parameters()], lr=PEAK_LR, weight_decay=0.02)
    parts = {"encoder": encoder, "centres": centres, "optimizer": optimizer}
    progress.resume(parts)
    rng = random.Random(SEED + progress.step)
    for step in progress.steps(parts):
        labels = torch.tensor([rng.randrange(len(speakers)) for _ in range(BATCH)])
        batch = crop_batch([rng.choice(banks[speakers[label]]) for label in labels], rng)
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        with fast():
            vectors = encoder(batch)
        logits = margin_logits(vectors.float(), centres.weight, labels)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % progress.log_every == 0:
            right = (logits.argmax(dim=1) == labels).float().mean()
            print(f"speaker step {step} loss {loss:.3f} acc {right:.3f} {progress.spent / 60:.1f} min", flush=True)
    log_line(work, "speaker", f"{progress.step} steps, {len(speakers)} speakers, last loss {float(loss):.3f}")
