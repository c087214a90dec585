"""Further sentences of the flite voices, for the language model alone: kept are texts, phone ends and speech tokens.

The language model learns the corpus by heart long before it has learnt to read; ten more hours of reading cost minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from tqdm import tqdm

from build_mini.common import (
    READINGS,
    SEED,
    Clip,
    load_tokens,
    log_line,
    read_manifest,
    require_programs,
    save_tokens,
    tokenizer_of,
    write_manifest,
)
from build_mini.corpus import make_flite
from build_mini.extract import speech_tokens
from build_mini.features import whisper_logmel
from build_mini.graphs import SPEECH_TOKENIZER, graph_path, open_graph
from build_mini.texts import sentences
from cosyvoice.utils.weights import file_fingerprint

TEXTS = {"slt": 6000, "awb": 4500, "rms": 4500, "kal16": 4000}
BLOCK = 500  # sentences between two saves
SEED_OF_TEXTS = SEED + 3


def jobs() -> Iterator[tuple[str, str, str, str]]:
    """(clip id, voice, split, text), voice by voice."""
    stream = sentences(SEED_OF_TEXTS)
    for voice, count in TEXTS.items():
        for number, text in enumerate(islice(stream, count)):
            yield f"{voice}_read_{number:05d}", voice, "train", text


def read_aloud(
    scratch: Path, job: tuple[str, str, str, str], tokenizer: onnxruntime.InferenceSession
) -> tuple[Clip, np.ndarray]:
    """The clip of one job and its speech tokens; the recording is thrown away."""
    clip = make_flite(scratch, job)
    tokens = speech_tokens(tokenizer, whisper_logmel(clip.wave(scratch)).numpy())
    clip.path(scratch).unlink()
    return clip, tokens


def earlier(work: Path, tokenizer: str) -> tuple[list[Clip], dict[str, np.ndarray]]:
    """Clips and tokens of earlier runs; none where another tokenizer made them."""
    name = f"tokens_{READINGS}"
    if not (work / f"{READINGS}.jsonl").exists() or tokenizer_of(work, name) != tokenizer:
        return [], {}
    tokens = load_tokens(work, name)
    return [clip for clip in read_manifest(work, READINGS) if clip.id in tokens], tokens


def build(work: Path) -> None:
    """Add to work/readings.jsonl and work/tokens_readings.npz what is not there yet; stop and start again at will.

    What another tokenizer made is thrown away."""
    require_programs("flite")
    fingerprint = file_fingerprint(graph_path(work, SPEECH_TOKENIZER))
    clips, tokens = earlier(work, fingerprint)
    done = {clip.id for clip in clips}
    todo = [job for job in jobs() if job[0] not in done]
    tokenizer = open_graph(work, SPEECH_TOKENIZER)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool, tqdm(total=len(todo)) as bar:
        for voice in TEXTS:
            (Path(folder) / "wav" / voice).mkdir(parents=True)
        for start in range(0, len(todo), BLOCK):
            block = todo[start : start + BLOCK]
            for clip, found in pool.map(lambda job: read_aloud(Path(folder), job, tokenizer), block):
                clips.append(clip)
                tokens[clip.id] = found
                bar.update()
            save_tokens(work, f"tokens_{READINGS}", tokens, fingerprint)
            write_manifest(work, READINGS, clips)
    log_line(work, READINGS, f"{len(clips)} clips, {sum(clip.seconds for clip in clips) / 60:.1f} min")
