"""A model directory of tiny random networks with the released layout, for tests of everything that reads one."""

from pathlib import Path

import torch
from make_standin_model import TINY, write_model


def make_tiny_model(directory: Path) -> Path:
    """`directory` holding cosyvoice.yaml, llm.pt, flow.pt, hift.pt, both ONNX files and spk2info.pt, about 6 MB.

    Real Whisper tokenizer, 64 speech tokens at 50 Hz, speaker vectors of 192. Always the same numbers; torch's random
    state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        write_model(directory, TINY)
    return directory
