"""The flow: MaskedDiffWithXvec from speech tokens and a speaker vector to mels, on pieces of equal length.

Time is drawn as the fine-tuning draws it (cosine), without prompt prefixes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from build_mini.common import (
    SEED,
    TOKEN_HZ,
    Progress,
    learning_rate,
    load_arrays,
    log_line,
    read_manifest,
    set_learning_rate,
)
from build_mini.vocoder import mini_config
from cosyvoice.utils.common import MEL_HOP, SAMPLE_RATE, token_to_mel_length

MINUTES = 25.0
BATCH = 10
SHORTEST, LONGEST = 30, 75  # tokens of a piece
FRAMES_PER_TOKEN = SAMPLE_RATE / MEL_HOP / TOKEN_HZ
PEAK_LR = 2e-3
PLAIN_SHARE = 0.6  # of the training pieces; the others are copies at another speed
AVERAGE = 0.998  # decay of the running mean of the weights, which is what ships


@dataclass
class Item:
    """One wave: tokens (L,), mel (T, 80), raw speaker vector (192,)."""

    tokens: np.ndarray
    mel: np.ndarray
    vector: np.ndarray


def load_items(work: Path) -> dict[str, list[Item]]:
    """Items by kind: plain, copy (another speed), test (plain clips kept out of training)."""
    tokens, mels, vectors = (load_arrays(work, name) for name in ("tokens", "mels", "vectors"))
    splits = {clip.id: clip.split for clip in read_manifest(work)}
    items: dict[str, list[Item]] = {"plain": [], "copy": [], "test": []}
    for name, mel in mels.items():
        clip_id, _, speed = name.partition("@")
        is_test = splits[clip_id] == "test"
        if is_test and speed:
            continue
        kind = "test" if is_test else "copy" if speed else "plain"
        items[kind].append(Item(tokens[name], mel, vectors[name]))
    return items


def piece(item: Item, length: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """`length` tokens and the mel frames they last, from a random place."""
    frames = token_to_mel_length(length, TOKEN_HZ)
    start = rng.randint(0, len(item.tokens) - length)
    first = min(round(start * FRAMES_PER_TOKEN), len(item.mel) - frames)
    mel = torch.from_numpy(item.mel[first : first + frames].astype(np.float32))
    return torch.from_numpy(item.tokens[start : start + length].astype(np.int64)), mel


def make_batch(
    items: dict[str, list[Item]], rng: random.Random, kinds: dict[str, float], size: int
) -> dict[str, Tensor]:
    """A batch as MaskedDiffWithXvec.forward takes it; all pieces are of one random length."""
    length = rng.randint(SHORTEST, LONGEST)
    tokens, mels, vectors = [], [], []
    while len(tokens) < size:
        item = rng.choice(items[rng.choices(list(kinds), list(kinds.values()))[0]])
        if len(item.tokens) >= length and len(item.mel) >= token_to_mel_length(length, TOKEN_HZ):
            ids, mel = piece(item, length, rng)
            tokens.append(ids)
            mels.append(mel)
            vectors.append(torch.from_numpy(item.vector))
    return {
        "speech_token": torch.stack(tokens),
        "speech_token_len": torch.full((size,), length),
        "speech_feat": torch.stack(mels),
        "speech_feat_len": torch.full((size,), mels[0].shape[0]),
        "embedding": torch.stack(vectors),
    }


@torch.inference_mode()
def test_loss(model: nn.Module, items: dict[str, list[Item]]) -> float:
    """Mean loss over fixed held-out pieces with fixed noise; no dropout of conditions, no prefix."""
    rng = random.Random(SEED)
    noise = torch.Generator().manual_seed(SEED)
    model.eval()
    total = []
    for k in range(12):
        batch = make_batch(items, rng, {"test": 1.0}, 8)
        fixed = {
            "t": torch.full((8, 1, 1), (k + 0.5) / 12),
            "noise": torch.randn(batch["speech_feat"].transpose(1, 2).shape, generator=noise),
        }
        total.append(model(batch, "cpu", random_prefix=False, guidance_dropout=False, **fixed)["loss"])
    model.train()
    return float(torch.stack(total).mean())


def start_at_mean(model: nn.Module, items: list[Item]) -> None:
    """Let the fresh model predict the average mel, which lies far from 0."""
    frames = np.concatenate([item.mel for item in items[:200]]).astype(np.float32)
    with torch.no_grad():
        model.decoder.estimator.final_proj.bias.copy_(torch.from_numpy(frames.mean(axis=0)))


def running_mean(model: nn.Module) -> torch.optim.swa_utils.AveragedModel:
    """Exponential running mean of the weights."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)


def build(work: Path, minutes: float = MINUTES) -> None:
    """Train until the budget is spent; state in work/flow.state.pt."""
    items = load_items(work)
    model = mini_config().build("flow", device="cpu").train()
    start_at_mean(model, items["plain"])
    mean = running_mean(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    parts = {"model": model, "mean": mean, "optimizer": optimizer}
    progress = Progress(work, "flow", minutes)
    progress.resume(parts)
    rng, smooth = random.Random(SEED + progress.step), None
    kinds = {"plain": PLAIN_SHARE, "copy": 1 - PLAIN_SHARE}
    for step in progress.steps(parts):
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress))
        batch = make_batch(items, rng, kinds, BATCH)
        loss = model(batch, "cpu", random_prefix=False, flow_time="cosine")["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(model)
        smooth = float(loss.detach()) if smooth is None else 0.98 * smooth + 0.02 * float(loss.detach())
        if step % progress.log_every == 0:
            print(f"flow step {step} loss {smooth:.3f} {progress.spent / 60:.1f} min", flush=True)
        if step % 400 == 0:
            print(f"flow step {step} test {test_loss(mean.module, items):.3f}", flush=True)
    log_line(work, "flow", f"{progress.step} steps, train {smooth:.3f}, held-out {test_loss(mean.module, items):.3f}")
