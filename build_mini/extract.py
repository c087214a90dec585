"""Speech tokens of every clip, and of the copies at another speed that have a mel: what flow and LLM train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from build_mini.common import load_arrays, log_line, save_arrays
from build_mini.speech_tokenizer import load_tokenizer


@torch.inference_mode()
def build(work: Path) -> None:
    """Write work/tokens.npz: int16 token ids (L,) by the log-mel's name."""
    tokenizer = load_tokenizer(work)
    with np.load(work / "mels.npz") as stored:
        with_mel = set(stored.files)
    arrays = {}
    for name, feats in load_arrays(work, "logmels").items():
        if "@" in name and name not in with_mel:
            continue
        feats = torch.from_numpy(feats.astype(np.float32))[None]
        arrays[name] = tokenizer(feats, torch.tensor([feats.shape[2]]))[0].numpy().astype(np.int16)
    save_arrays(work, "tokens", arrays)
    used = np.bincount(np.concatenate(list(arrays.values())))
    log_line(work, "extract", f"tokens of {len(arrays)} waves, {(used > 0).sum()} codes in use")
