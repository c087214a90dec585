"""Write the model directory: weights as float16, two ONNX graphs, named voices, configuration and checksums.

A part whose stage has not run stays as it ships; one that has never shipped is written as it is initialised, so that
the directory loads at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch

from build_mini.acoustics import speaker_means
from build_mini.common import (
    HERE,
    MODEL_DIR,
    OWN_VOICES,
    SEED,
    Clip,
    log_line,
    read_manifest,
    replace_file,
    save,
    write_text,
)
from build_mini.graphs import WRITERS, graph_path
from build_mini.vocoder import mini_config
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.weights import load_state_dict_file

CONFIG_FILES = ("cosyvoice.yaml", "finetune.yaml")


def part_state(work: Path, part: str) -> dict[str, torch.Tensor]:
    """Weights of llm, flow or hift, with those of the pitch predictor from its own stage."""
    state = network_state(work, part)
    return state | pitch_state(work) if part == "hift" else state


def network_state(work: Path, part: str) -> dict[str, torch.Tensor]:
    """The running mean of training; else what ships, else fresh weights."""
    path, shipped = work / f"{'vocoder' if part == 'hift' else part}.state.pt", MODEL_DIR / f"{part}.pt"
    if path.exists():
        mean = torch.load(path, weights_only=True, mmap=True)["mean"]
        return {key.removeprefix("module."): value for key, value in mean.items() if key.startswith("module.")}
    if shipped.exists():
        return load_state_dict_file(shipped)
    torch.manual_seed(SEED)
    return mini_config().build(part, device="cpu").state_dict()


def pitch_state(work: Path) -> dict[str, torch.Tensor]:
    """Weights of the vocoder's pitch predictor from its own stage; {} where that has not run."""
    path = work / "f0.state.pt"
    if not path.exists():
        return {}
    return {f"f0_predictor.{key}": value for key, value in torch.load(path, weights_only=True)["model"].items()}


def seconds_per_text_token(clips: list[Clip]) -> float:
    """A voice's pace, by which the guard against runaway and the evaluation know how long a sentence should be."""
    config = mini_config()
    encode = config.get_tokenizer().encode
    tokens = sum(len(encode(clip.text, allowed_special=config.allowed_special)) for clip in clips)
    return sum(clip.seconds for clip in clips) / tokens


def write_checksums(directory: Path) -> None:
    """SHA256SUMS over every other file, as `sha256sum -c` reads it."""
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    write_text(directory / "SHA256SUMS", "".join(lines))


def build(work: Path) -> None:
    """Write pretrained_models/CosyVoice-mini from the states of the stages."""
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    for name in CONFIG_FILES:
        replace_file(MODEL_DIR / name, lambda part, name=name: shutil.copyfile(HERE / "model" / name, part))
    for name in WRITERS:
        if (path := graph_path(work, name)) != MODEL_DIR / name:
            replace_file(MODEL_DIR / name, lambda part, path=path: shutil.copyfile(path, part))
    for part in ("llm", "flow", "hift"):
        halves = {key: value.half().clone() for key, value in part_state(work, part).items()}
        save(halves, MODEL_DIR / f"{part}.pt")
    means, corpus = speaker_means(work), read_manifest(work)
    voices = {
        name: {
            "embedding": torch.from_numpy(means[name]).float()[None].clone(),
            "seconds_per_text_token": seconds_per_text_token([clip for clip in corpus if clip.voice == name]),
        }
        for name in OWN_VOICES
    }
    save(voices, MODEL_DIR / VOICES)
    write_checksums(MODEL_DIR)
    size = sum(path.stat().st_size for path in MODEL_DIR.iterdir())
    log_line(work, "export", f"{size / 1e6:.1f} MB in {MODEL_DIR.name}")
