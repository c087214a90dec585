"""The language model: TransformerLM from phones and a speaker vector to speech tokens, on English clips."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from build_mini.common import (
    OWN_VOICES,
    SEED,
    Progress,
    learning_rate,
    load_arrays,
    log_line,
    read_manifest,
    set_learning_rate,
)
from build_mini.flow import running_mean
from build_mini.vocoder import mini_config

MINUTES = 25.0
TOKENS_PER_BATCH = 1600  # text and speech tokens, padding included
PEAK_LR = 1e-3


@dataclass
class Item:
    """One utterance: phone ids, speech tokens, raw speaker vector (192,)."""

    text: list[int]
    tokens: np.ndarray
    vector: np.ndarray

    def length(self) -> int:
        """Positions that it takes in the model."""
        return len(self.text) + len(self.tokens) + 3


def voice_means(work: Path) -> dict[str, np.ndarray]:
    """Mean raw speaker vector (192,) of each voice, from its training clips as recorded."""
    voices = {clip.id: clip.voice for clip in read_manifest(work) if clip.split != "test"}
    vectors = load_arrays(work, "vectors")
    return {
        voice: np.mean([v for name, v in vectors.items() if voices.get(name) == voice], axis=0)
        for voice in (*OWN_VOICES, "ru_nsh")
    }


def load_items(work: Path) -> dict[bool, list[Item]]:
    """English items by "is test": clips with their voice's mean vector, copies at other speeds with their own."""
    tokens, vectors, means = load_arrays(work, "tokens"), load_arrays(work, "vectors"), voice_means(work)
    config = mini_config()
    encode = config.get_tokenizer().encode
    clips = {clip.id: clip for clip in read_manifest(work) if clip.lang == "en"}
    texts = {clip_id: encode(clip.text, allowed_special=config.allowed_special) for clip_id, clip in clips.items()}
    items: dict[bool, list[Item]] = {False: [], True: []}
    for name, ids in tokens.items():
        clip_id, _, speed = name.partition("@")
        if clip_id not in clips or (speed and (name not in vectors or clips[clip_id].split == "test")):
            continue
        vector = vectors[name] if speed else means[clips[clip_id].voice]
        items[clips[clip_id].split == "test"].append(Item(texts[clip_id], ids, vector))
    return items


def pad(rows: list[np.ndarray | list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids side by side, 0 behind their ends, and their lengths."""
    tensors = [torch.as_tensor(np.asarray(row, dtype=np.int64)) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths


def collate(items: list[Item]) -> dict[str, Tensor]:
    """A batch as TransformerLM.forward takes it."""
    text, text_len = pad([item.text for item in items])
    speech, speech_len = pad([item.tokens for item in items])
    vectors = torch.from_numpy(np.stack([item.vector for item in items]).astype(np.float32))
    return {
        "text_token": text,
        "text_token_len": text_len,
        "speech_token": speech,
        "speech_token_len": speech_len,
        "embedding": vectors,
    }


def make_batches(items: list[Item], rng: random.Random) -> list[list[Item]]:
    """All items once, in batches of neighbours in length, shuffled."""
    ordered = sorted(items, key=lambda item: item.length() + rng.uniform(-6, 6))
    batches: list[list[Item]] = [[]]
    for item in ordered:
        if batches[-1] and (len(batches[-1]) + 1) * max(i.length() for i in (*batches[-1], item)) > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(item)
    rng.shuffle(batches)
    return batches


@torch.inference_mode()
def test_figures(model: nn.Module, items: list[Item]) -> tuple[float, float]:
    """Mean loss and accuracy over the held-out sentences."""
    model.eval()
    found = [model(collate(batch), "cpu") for batch in make_batches(items, random.Random(SEED))]
    model.train()
    return tuple(float(torch.stack([out[key] for out in found]).mean()) for key in ("loss", "acc"))


def build(work: Path, minutes: float = MINUTES) -> None:
    """Train until the budget is spent; state in work/llm.state.pt."""
    items = load_items(work)
    model = mini_config().build("llm", device="cpu").train()
    mean = running_mean(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    parts = {"model": model, "mean": mean, "optimizer": optimizer}
    progress = Progress(work, "llm", minutes)
    progress.resume(parts)
    rng, queue = random.Random(SEED + progress.step), []
    for step in progress.steps(parts):
        queue = queue or make_batches(items[False], rng)
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress, warmup_steps=200))
        out = model(collate(queue.pop()), "cpu")
        optimizer.zero_grad()
        out["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(model)
        if step % progress.log_every == 0:
            loss, right = out["loss"].detach(), out["acc"]
            print(f"llm step {step} loss {loss:.3f} acc {right:.3f} {progress.spent / 60:.1f} min", flush=True)
        if step % 400 == 0:
            loss, right = test_figures(mean.module, items[True])
            print(f"llm step {step} test loss {loss:.3f} acc {right:.3f}", flush=True)
    loss, right = test_figures(mean.module, items[True])
    log_line(work, "llm", f"{progress.step} steps, held-out: loss {loss:.3f}, accuracy {right:.3f}")
