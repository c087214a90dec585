"""The corpus as the clips that fine-tuning reads, so that both share windows and batches (`dataset.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from build_mini.acoustics import speaker_means
from build_mini.common import READINGS, SOURCES, aligned_clips, load_arrays, load_tokens, tokenizer_of
from build_mini.common import Clip as CorpusClip
from build_mini.vocoder import mini_config
from config import UserError
from cosyvoice.utils.common import MEL_BINS
from dataset import Clip

NO_MEL = torch.zeros(0, MEL_BINS)


def load_clips(work: Path, mels: bool) -> dict[str, list[Clip]]:
    """Clips by kind: "natural", "natural copy" (at another speed), "natural test", the same of "corpus"; "readings".

    mels: only clips that have a mel, with it, so no readings; else all clips that have tokens, without.
    """
    tokens, vectors, means = load_tokens(work), load_arrays(work, "vectors"), speaker_means(work)
    if not mels:
        tokens |= load_readings(work)
    config = mini_config()
    encode = config.get_tokenizer().encode
    kinds: dict[str, list[Clip]] = {}
    for source in SOURCES if mels else (*SOURCES, READINGS):
        features = load_arrays(work, f"mels_{source}") if mels else {}
        clips = {clip.id: clip for clip in aligned_clips(work, source)}
        for name in features or [name for name in tokens if name.partition("@")[0] in clips]:
            clip_id, at, speed = name.partition("@")
            corpus_clip = clips[clip_id]
            kind = kind_of(source, corpus_clip, speed)
            if not kind:
                continue
            mean = torch.from_numpy(means[corpus_clip.voice + at + speed])
            clip = Clip(
                utt=name,
                wav=str(corpus_clip.path(work)),
                text=corpus_clip.text,
                text_token=torch.tensor(encode(corpus_clip.text, allowed_special=config.allowed_special)),
                speech_token=torch.from_numpy(tokens[name]).long(),
                speech_feat=torch.from_numpy(features[name]).float() if mels else NO_MEL,
                utt_embedding=torch.from_numpy(vectors[name]) if name in vectors else mean,
                spk_embedding=mean,
                duration=corpus_clip.seconds,
                fingerprint="",
            )
            kinds.setdefault(kind, []).append(clip)
    return kinds


def load_readings(work: Path) -> dict[str, np.ndarray]:
    """Speech tokens of the readings. UserError where another tokenizer made them than those of the clips."""
    name = f"tokens_{READINGS}"
    if tokenizer_of(work, name) != tokenizer_of(work):
        raise UserError(
            f"{work / name}.npz and tokens.npz are of different tokenizers; "
            "run: python -m build_mini.build --stage extract, then --stage readings"
        )
    return load_tokens(work, name)


def kind_of(source: str, clip: CorpusClip, speed: str) -> str:
    """The kind of a clip, "" for copies of test clips, which are not used."""
    if clip.split == "test":
        return "" if speed else f"{source} test"
    return f"{source} copy" if speed else source
