"""Speech tokens: log-mel -> small convolutional encoder -> 5 x 4 levels = 1024 codes at 25 Hz, trained to name phones.

Each token names the phones of its two 20 ms halves, through one reader per language, so that the codes mean sounds and
not languages. Copies at other speeds, warped frequency axes, filters and noise make them tell little about who speaks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from build_mini.common import (
    SEED,
    TOKEN_HZ,
    Clip,
    Progress,
    learning_rate,
    load_arrays,
    log_line,
    read_manifest,
    set_learning_rate,
)

MINUTES = 14.0
BANDS, FRAMES_PER_TOKEN, LABELS_PER_TOKEN = 128, 4, 2
DIMS, LEVELS = 5, 4  # quantiser: 4 ** 5 codes
WIDTH, BLOCKS, KERNEL, EXPANSION = 192, 5, 7, 3
BATCH, CROP_FRAMES = 48, 256
PEAK_LR = 2e-3
IGNORE = -100
NATS = 4 * 2.302585  # one unit of the feature is 4 decades of power


class Block(nn.Module):
    """Residual: depthwise convolution over time, then a two-layer perceptron; (B, C, L) -> (B, C, L)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(self.mix(x * mask).transpose(1, 2))
        return x + self.narrow(F.gelu(self.wide(y))).transpose(1, 2)


class SpeechTokenizer(nn.Module):
    """`forward` is the ONNX graph: feats (B, 128, T), feats_length (B,) -> indices (B, T // 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(BANDS, WIDTH, 5, padding=2)
        self.down = nn.Conv1d(WIDTH, WIDTH, FRAMES_PER_TOKEN, stride=FRAMES_PER_TOKEN)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.to_levels = nn.Linear(WIDTH, DIMS)

    def levels(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """Unrounded levels (B, L, 5) in [0, 3]."""
        frames = torch.arange(feats.shape[2], device=feats.device)
        mask = (frames < feats_length[:, None]).to(feats.dtype)[:, None]
        mean = (feats * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
        x = F.gelu(self.stem((feats - mean) * mask))
        x = self.down(x * mask)
        token_mask = mask[:, :, FRAMES_PER_TOKEN - 1 :: FRAMES_PER_TOKEN]
        for block in self.blocks:
            x = block(x, token_mask)
        return torch.sigmoid(self.to_levels(self.norm(x.transpose(1, 2)))) * (LEVELS - 1)

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """Token ids (B, T // 4), int64."""
        steps = torch.round(self.levels(feats, feats_length)).long()
        return (steps * LEVELS ** torch.arange(DIMS, device=feats.device)).sum(dim=2)


class PhoneReader(nn.Module):
    """Names the phones of every token from its five levels alone: logits (B, 2 L, phones) of one language."""

    def __init__(self, phones: dict[str, int]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(DIMS, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU())
        self.heads = nn.ModuleDict({lang: nn.Linear(256, LABELS_PER_TOKEN * n) for lang, n in phones.items()})

    def forward(self, levels: Tensor, lang: str) -> Tensor:
        logits = self.heads[lang](self.hidden(levels / (LEVELS - 1) * 2 - 1))
        batch, tokens, width = logits.shape
        return logits.view(batch, tokens * LABELS_PER_TOKEN, width // LABELS_PER_TOKEN)


def straight_through(levels: Tensor) -> Tensor:
    """Rounded levels whose gradient is that of the unrounded ones."""
    return levels + (torch.round(levels) - levels).detach()


def phone_tables(clips: list[Clip]) -> dict[str, list[str]]:
    """Sorted phone names by language."""
    return {lang: sorted({p for c in clips if c.lang == lang for p in c.phones}) for lang in ("en", "ru")}


@dataclass
class Item:
    """One stored log-mel with its phone ids per 20 ms."""

    feats: np.ndarray  # (128, T) float16
    labels: np.ndarray  # (T // 2,) int64


def label_track(clip: Clip, table: list[str], frames: int, speed: Fraction) -> np.ndarray:
    """Phone id of each 20 ms, of the clip played `speed` times as fast."""
    times = (np.arange(frames // LABELS_PER_TOKEN) + 0.5) * 0.02 * float(speed)
    index = np.searchsorted(np.asarray(clip.ends), times).clip(max=len(clip.phones) - 1)
    return np.array([table.index(phone) for phone in clip.phones])[index]


def load_items(work: Path, clips: list[Clip], tables: dict[str, list[str]]) -> dict[tuple[str, bool], list[Item]]:
    """Items by (language, is test)."""
    known = {clip.id: clip for clip in clips}
    items: dict[tuple[str, bool], list[Item]] = {}
    for name, feats in load_arrays(work, "logmels").items():
        clip_id, _, speed = name.partition("@")
        clip = known[clip_id]
        labels = label_track(clip, tables[clip.lang], feats.shape[1], Fraction(speed or 1))
        items.setdefault((clip.lang, clip.split == "test"), []).append(Item(feats, labels))
    return items


def crop_batch(items: list[Item], rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """feats (B, 128, crop), lengths (B,), labels (B, crop // 2), IGNORE past the end; pieces start on whole tokens."""
    feats = torch.zeros(len(items), BANDS, CROP_FRAMES)
    labels = torch.full((len(items), CROP_FRAMES // LABELS_PER_TOKEN), IGNORE)
    lengths = torch.zeros(len(items), dtype=torch.long)
    for row, item in enumerate(items):
        spare = max(0, item.feats.shape[1] - CROP_FRAMES) // FRAMES_PER_TOKEN
        start = rng.randint(0, spare) * FRAMES_PER_TOKEN
        piece = item.feats[:, start : start + CROP_FRAMES]
        length = piece.shape[1] // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN
        feats[row, :, :length] = torch.from_numpy(piece[:, :length].astype(np.float32))
        tracks = item.labels[start // LABELS_PER_TOKEN : (start + length) // LABELS_PER_TOKEN]
        labels[row, : len(tracks)] = torch.from_numpy(tracks)
        lengths[row] = length
    return feats, lengths, labels


def band_centres() -> np.ndarray:
    """Centre of each of the 128 bands in Hz (Slaney mel scale, 0 to 8000 Hz)."""
    import librosa

    return librosa.mel_frequencies(n_mels=BANDS + 2, fmin=0, fmax=8000)[1:-1]


def disguise(feats: Tensor, rng: np.random.Generator, centres: np.ndarray) -> Tensor:
    """The same sounds by another speaker through another channel: warped bands, smooth filter, level, noise."""
    batch = feats.shape[0]
    warps = np.exp(rng.uniform(-0.18, 0.18, batch))
    position = np.stack([np.interp(centres * warp, centres, np.arange(BANDS)) for warp in warps])
    low = torch.from_numpy(position).floor().long().clamp(max=BANDS - 2)
    share = (torch.from_numpy(position) - low).float()[:, :, None]
    index = low[:, :, None].expand(-1, -1, feats.shape[2])
    feats = feats.gather(1, index) * (1 - share) + feats.gather(1, index + 1) * share
    knots = torch.from_numpy(rng.normal(0, 0.12, (batch, 1, 6))).float()
    feats = feats + F.interpolate(knots, size=BANDS, mode="linear", align_corners=True).transpose(1, 2)
    feats = feats * torch.from_numpy(rng.uniform(0.85, 1.15, (batch, 1, 1))).float()
    floor = feats.amin(dim=(1, 2), keepdim=True) + torch.from_numpy(rng.uniform(0, 0.9, (batch, 1, 1))).float()
    feats = torch.logaddexp(feats * NATS, floor * NATS) / NATS  # adds a noise floor's power
    return feats + 0.03 * torch.randn_like(feats)


def phone_loss(tokenizer: SpeechTokenizer, reader: PhoneReader, batch: tuple, lang: str) -> tuple[Tensor, Tensor]:
    """Cross-entropy and share of right phones over one batch of one language."""
    feats, lengths, labels = batch
    logits = reader(straight_through(tokenizer.levels(feats, lengths)), lang)
    loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, label_smoothing=0.05)
    real = labels != IGNORE
    return loss, (logits.argmax(dim=2) == labels)[real].float().mean().detach()


@torch.inference_mode()
def test_accuracy(tokenizer: SpeechTokenizer, reader: PhoneReader, items: list[Item], lang: str) -> float:
    """Share of right 20 ms phone labels on held-out clips."""
    rng = random.Random(SEED)
    right = [
        phone_loss(tokenizer, reader, crop_batch(items[i : i + 64], rng), lang)[1] for i in range(0, len(items), 64)
    ]
    return float(torch.stack(right).mean())


def make_models(tables: dict[str, list[str]]) -> tuple[SpeechTokenizer, PhoneReader]:
    """Fresh tokenizer and reader."""
    return SpeechTokenizer(), PhoneReader({lang: len(table) for lang, table in tables.items()})


def load_tokenizer(work: Path) -> SpeechTokenizer:
    """The tokenizer as trained so far."""
    tokenizer = SpeechTokenizer()
    tokenizer.load_state_dict(torch.load(work / "tokens.state.pt", weights_only=True)["tokenizer"])
    return tokenizer.eval()


def build(work: Path, minutes: float = MINUTES) -> None:
    """Train until the budget is spent; state in work/tokens.state.pt."""
    clips = read_manifest(work)
    tables = phone_tables(clips)
    items = load_items(work, clips, tables)
    tokenizer, reader = make_models(tables)
    optimizer = torch.optim.AdamW([*tokenizer.parameters(), *reader.parameters()], lr=PEAK_LR, weight_decay=0.01)
    parts = {"tokenizer": tokenizer, "reader": reader, "optimizer": optimizer}
    progress = Progress(work, "tokens", minutes)
    progress.resume(parts)
    rng, noise = random.Random(SEED + progress.step), np.random.default_rng(SEED + progress.step)
    centres = band_centres()
    for step in progress.steps(parts):
        lang = "ru" if step % 3 == 0 else "en"
        feats, lengths, labels = crop_batch(rng.sample(items[lang, False], BATCH), rng)
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        loss, right = phone_loss(tokenizer, reader, (disguise(feats, noise, centres), lengths, labels), lang)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if step % progress.log_every == 0:
            print(
                f"tokens step {step} {lang} loss {loss:.3f} acc {right:.3f} {progress.spent / 60:.1f} min", flush=True
            )
    figures = ", ".join(f"{k} {test_accuracy(tokenizer, reader, items[k, True], k):.3f}" for k in ("en", "ru"))
    log_line(work, "tokens", f"{progress.step} steps, {TOKEN_HZ} Hz, phone accuracy on held-out clips: {figures}")
