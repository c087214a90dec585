"""Speech tokens of every clip, and of the copies at another speed that have a mel: what flow and LLM train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from tqdm import tqdm

from build_mini.common import SOURCES, load_arrays, log_line, made, save_tokens
from build_mini.graphs import SPEECH_TOKENIZER, graph_path, open_graph
from cosyvoice.utils.weights import file_fingerprint


def speech_tokens(tokenizer: onnxruntime.InferenceSession, feats: np.ndarray) -> np.ndarray:
    """int16 token ids (L,) of a log-mel (128, T)."""
    inputs = {"feats": feats[None].astype(np.float32), "feats_length": np.array([feats.shape[1]], np.int32)}
    return tokenizer.run(None, inputs)[0][0].astype(np.int16)


def build(work: Path) -> None:
    """Write work/tokens.npz: int16 token ids (L,) by the log-mel's name, and which tokenizer made them."""
    tokenizer, arrays = open_graph(work, SPEECH_TOKENIZER), {}
    for source in SOURCES:
        with np.load(made(work, f"mels_{source}.npz")) as stored:
            with_mel = set(stored.files)
        for name, feats in tqdm(load_arrays(work, f"logmels_{source}").items(), "tokens"):
            if "@" not in name or name in with_mel:
                arrays[name] = speech_tokens(tokenizer, feats)
    save_tokens(work, "tokens", arrays, file_fingerprint(graph_path(work, SPEECH_TOKENIZER)))
    used = np.bincount(np.concatenate(list(arrays.values())))
    log_line(work, "extract", f"tokens of {len(arrays)} waves, {(used > 0).sum()} codes in use")
