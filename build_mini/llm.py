"""The language model: TransformerLM from phones and a speaker vector to speech tokens, on English clips.

The corpora tell when each phone is spoken. One attention head is shown that ("guided"): it soon finds its place in the
text, which a small model hardly does by itself. Fine-tuning needs no such help.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from build_mini.clips import load_clips
from build_mini.common import (
    READINGS,
    SEED,
    SOURCES,
    TOKEN_HZ,
    Progress,
    aligned_clips,
    fast,
    learning_rate,
    log_line,
    running_mean,
    set_learning_rate,
    tokenizer_of,
)
from build_mini.common import Clip as CorpusClip
from build_mini.vocoder import mini_config, shipped
from cosyvoice.tokenizer.tokenizer import BOUNDARY, PUNCTUATION
from cosyvoice.transformer.attention import rel_shift
from cosyvoice.utils.common import IGNORE_ID
from dataset import Clip, collate_llm, speaker_vector

MINUTES = 110.0
POSITIONS_PER_BATCH = 3500  # text and speech tokens, padding included
PEAK_LR = 1e-3
OWN_VECTOR_SHARE = 0.3  # of the clips that come with their own speaker vector instead of their voice's mean
AS_SPOKEN = 0.8  # least share of a clip's phones that are those of its text; the others are left out
GUIDED_LAYER, GUIDE_WEIGHT = 2, 0.3
PAUSE, SCHWA = "pau", "ax"  # names in the corpus


@dataclass
class Item:
    """One utterance, and the index (S,) of the text symbol that is spoken at each speech token."""

    clip: Clip
    spoken: Tensor

    def length(self) -> int:
        """Positions that it takes in the model."""
        return len(self.clip.text_token) + len(self.clip.speech_token) + 3


def corpus_name(symbol: str) -> str:
    """What the corpus calls a symbol of the text tokenizer."""
    if symbol in PUNCTUATION:
        return PAUSE
    return SCHWA if symbol == "AH0" else symbol.rstrip("012").lower()


def spoken_symbols(symbols: list[str], clip: CorpusClip, tokens: int) -> np.ndarray | None:
    """Index (tokens,) of the symbol that is spoken at each speech token; None if the clip says something else."""
    names = [corpus_name(symbol) for symbol in symbols]
    ends = np.full(len(symbols), np.nan)
    for block in SequenceMatcher(None, names, clip.phones, autojunk=False).get_matching_blocks():
        ends[block.a : block.a + block.size] = clip.ends[block.b : block.b + block.size]
    phones = np.array([name != PAUSE and name != BOUNDARY for name in names])
    if np.isfinite(ends[phones]).mean() < AS_SPOKEN:
        return None
    ends[-1] = clip.seconds
    known = np.flatnonzero(np.isfinite(ends))
    ends = np.maximum.accumulate(np.interp(np.arange(len(ends)), known, ends[known], left=clip.ends[0]))
    for i in range(1, len(symbols)):
        if not phones[i] and i + 1 < len(symbols) and names[i] == BOUNDARY:
            ends[i] = ends[i - 1]  # a word's end takes no time
    times = (np.arange(tokens) + 0.5) / TOKEN_HZ
    return np.searchsorted(ends, times, side="right").clip(max=len(symbols) - 1)


def load_items(work: Path) -> dict[bool, list[Item]]:
    """English items by "is test": clips as recorded and the copies at other speeds that have tokens."""
    decode = mini_config().get_tokenizer().decode
    corpus = {clip.id: clip for clip in aligned_clips(work, *SOURCES, READINGS) if clip.lang == "en"}
    items: dict[bool, list[Item]] = {False: [], True: []}
    for kind, clips in load_clips(work, mels=False).items():
        for clip in clips:
            clip_id, _, speed = clip.utt.partition("@")
            if clip_id in corpus:
                symbols = decode(clip.text_token.tolist()).split(" ")
                spoken = spoken_symbols(symbols, at_speed(corpus[clip_id], speed), len(clip.speech_token))
                if spoken is not None:
                    items[kind.endswith("test")].append(Item(clip, torch.from_numpy(spoken)))
    return items


def at_speed(clip: CorpusClip, speed: str) -> CorpusClip:
    """The clip's phone ends when it is played at a speed like "5/4"; "" is as recorded."""
    factor = float(Fraction(speed or 1))
    return replace(clip, seconds=clip.seconds / factor, ends=[end / factor for end in clip.ends])


def collate(items: list[Item], rng: random.Random) -> dict[str, Tensor]:
    """A batch as TransformerLM.forward takes it, and "spoken" (B, S) with IGNORE_ID behind the tokens' ends."""
    batch = collate_llm([item.clip for item in items])
    vectors = [speaker_vector(item.clip, "utterance" if rng.random() < OWN_VECTOR_SHARE else "mean") for item in items]
    spoken = nn.utils.rnn.pad_sequence([item.spoken for item in items], batch_first=True, padding_value=IGNORE_ID)
    return batch | {"embedding": torch.stack(vectors), "spoken": spoken}


def make_batches(items: list[Item], rng: random.Random) -> list[list[Item]]:
    """All items once, in batches of neighbours in length, shuffled."""
    ordered = sorted(items, key=lambda item: item.length() + rng.uniform(-6, 6))
    batches: list[list[Item]] = [[]]
    for item in ordered:
        if batches[-1] and (len(batches[-1]) + 1) * max(i.length() for i in (*batches[-1], item)) > POSITIONS_PER_BATCH:
            batches.append([])
        batches[-1].append(item)
    rng.shuffle(batches)
    return batches


class Guide:
    """Watches the first attention head of one layer of the language model and tells how far it looks off the mark."""

    def __init__(self, model: nn.Module) -> None:
        self.attention = model.llm.encoders[GUIDED_LAYER].self_attn
        self.seen: tuple = ()
        self.attention.register_forward_pre_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple) -> None:
        self.seen = inputs

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean nats between the head's attention, where a speech token is predicted, and the symbol being spoken."""
        x, positions, mask = self.seen[:3]
        attention, head = self.attention, slice(0, self.attention.d_k)
        q, k = attention.linear_q(x)[:, :, head], attention.linear_k(x)[:, :, head]
        code = F.pad(attention.linear_pos(positions)[:, :, head], (0, 0, 1, 0))
        far = torch.matmul(q + attention.pos_bias_v[0].to(q.dtype), code.transpose(1, 2))
        near = torch.matmul(q + attention.pos_bias_u[0].to(q.dtype), k.transpose(1, 2))
        scores = (near + rel_shift(far[:, None].contiguous(), k.shape[1])[:, 0]).float() * attention.d_k**-0.5
        logs = scores.masked_fill(~mask, -torch.inf).log_softmax(dim=2)
        rows, keys = [], []
        for i, (length, spoken) in enumerate(zip(batch["text_token_len"].tolist(), batch["spoken"], strict=True)):
            spoken = spoken[spoken != IGNORE_ID]
            rows.append(logs[i, 2 + length : 2 + length + len(spoken)])  # sos, speaker, text, task, speech
            keys.append(2 + spoken)
        return F.nll_loss(torch.cat(rows), torch.cat(keys))


@torch.inference_mode()
def test_figures(model: nn.Module, items: list[Item]) -> str:
    """Mean loss and accuracy over the held-out sentences."""
    model.eval()
    rng, found = random.Random(SEED), []
    for batch in make_batches(items, rng):
        with fast():
            found.append(model(collate(batch, rng), "cpu"))
    model.train()
    loss, right = (float(torch.stack([out[key] for out in found]).mean()) for key in ("loss", "acc"))
    return f"held-out: loss {loss:.3f}, accuracy {right:.3f}"


def build(work: Path, minutes: float = MINUTES, warm_start: bool = False) -> None:
    """Train until the budget is spent; state in work/llm.state.pt."""
    progress = Progress(work, "llm", minutes, tokenizer=tokenizer_of(work))
    if progress.finished():
        return
    items = load_items(work)
    log_line(work, "llm", f"{len(items[False])} training items, {len(items[True])} held out")
    model = shipped("llm") if warm_start else mini_config().build("llm", device="cpu").train()
    mean = running_mean(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    parts = {"model": model, "mean": mean, "optimizer": optimizer}
    progress.resume(parts)
    guide, rng, queue = Guide(model), random.Random(SEED + progress.step), []
    for step in progress.steps(parts):
        queue = queue or make_batches(items[False], rng)
        set_learning_rate(optimizer, learning_rate(PEAK_LR, progress, warmup_steps=200))
        batch = collate(queue.pop(), rng)
        with fast():
            out = model(batch, "cpu")
            off = guide.loss(batch)
        optimizer.zero_grad()
        (out["loss"] + GUIDE_WEIGHT * off).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(model)
        if step % progress.log_every == 0:
            shown = f"loss {out['loss'].detach():.3f} acc {out['acc']:.3f} guide {off.detach():.3f}"
            print(f"llm step {step} {shown} {progress.spent / 60:.1f} min", flush=True)
        if step % 500 == 0:
            print(f"llm step {step} {test_figures(mean.module, items[True])}", flush=True)
    log_line(work, "llm", f"{progress.step} steps, {test_figures(mean.module, items[True])}")
