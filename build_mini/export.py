"""Write the model directory: weights as float16, two ONNX graphs, named voices, configuration and checksums.

A part whose stage has not run yet is written as it is initialised, so that the directory loads at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from build_mini.acoustics import speaker_means
from build_mini.common import HERE, MODEL_DIR, OWN_VOICES, SEED, log_line, replace_file, save
from build_mini.four_bits import unpacking_nodes
from build_mini.speaker import BANDS as SPEAKER_BANDS
from build_mini.speaker import load_speaker_encoder
from build_mini.speech_tokenizer import BANDS, load_tokenizer
from build_mini.vocoder import mini_config

CONFIG_FILES = ("cosyvoice.yaml", "finetune.yaml")
OPSET = 18
SMALL = 256  # weights with fewer elements stay float32 in the graphs


def part_state(work: Path, part: str) -> dict[str, torch.Tensor]:
    """Weights of llm, flow or hift: the running mean of training where there is one."""
    path = work / f"{'vocoder' if part == 'hift' else part}.state.pt"
    if not path.exists():
        torch.manual_seed(SEED)
        return mini_config().build(part, device="cpu").state_dict()
    state = torch.load(path, weights_only=True, mmap=True)
    mean = {key.removeprefix("module."): value for key, value in state["mean"].items() if key.startswith("module.")}
    return mean | pitch_state(work) if part == "hift" else mean


def pitch_state(work: Path) -> dict[str, torch.Tensor]:
    """Weights of the vocoder's pitch predictor from its own stage; {} where that has not run."""
    path = work / "f0.state.pt"
    if not path.exists():
        return {}
    return {f"f0_predictor.{key}": value for key, value in torch.load(path, weights_only=True)["model"].items()}


def pack_weights(graph: onnx.GraphProto) -> None:
    """Store large float32 weights as float16, those that are on a four-bit grid at four bits.

    The nodes that unpack them have constant inputs only, so the runtime carries them out once, when it opens the graph.
    """
    unpacking = []
    for weight in list(graph.initializer):
        array, name = numpy_helper.to_array(weight), weight.name
        if weight.data_type != TensorProto.FLOAT or array.size < SMALL:
            continue
        found = unpacking_nodes(name, array) if array.ndim == 2 else None
        if found is None:
            half = numpy_helper.from_array(array.astype(np.float16), f"{name}.half")
            found = [half], [helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]
        graph.initializer.remove(weight)
        graph.initializer.extend(found[0])
        unpacking += found[1]
    for node in reversed(unpacking):
        graph.node.insert(0, node)


def write_onnx(
    model: nn.Module,
    inputs: dict[str, torch.Tensor],
    output: str,
    time_axis: tuple[str, int],
    path: Path,
) -> None:
    """Export one graph whose `time_axis` (input name, axis) is free."""
    free = {name: {time_axis[1]: torch.export.Dim.DYNAMIC} if name == time_axis[0] else None for name in inputs}
    program = torch.onnx.export(
        model,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=tuple(free.values()),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = program.model_proto
    pack_weights(proto.graph)
    proto.graph.ClearField("value_info")
    onnx.checker.check_model(proto)
    replace_file(path, lambda part: part.write_bytes(proto.SerializeToString()))


def write_speech_tokenizer(work: Path, path: Path) -> None:
    """The speech tokenizer's graph."""
    feats = {"feats": torch.zeros(1, BANDS, 303), "feats_length": torch.tensor([303], dtype=torch.int32)}
    write_onnx(load_tokenizer(work), feats, "indices", ("feats", 2), path)


def write_speaker_encoder(work: Path, path: Path) -> None:
    """The speaker encoder's graph."""
    bank = {"fbank": torch.zeros(1, 301, SPEAKER_BANDS)}
    write_onnx(load_speaker_encoder(work), bank, "embedding", ("fbank", 1), path)


def write_checksums(directory: Path) -> None:
    """SHA256SUMS over every other file, as `sha256sum -c` reads it."""
    names = sorted(path.name for path in directory.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    replace_file(directory / "SHA256SUMS", lambda part: part.write_text("".join(lines), encoding="utf-8"))


def build(work: Path) -> None:
    """Write pretrained_models/CosyVoice-mini from the states of the stages."""
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    for name in CONFIG_FILES:
        replace_file(MODEL_DIR / name, lambda part, name=name: shutil.copyfile(HERE / "model" / name, part))
    write_speech_tokenizer(work, MODEL_DIR / "speech_tokenizer_v1.onnx")
    write_speaker_encoder(work, MODEL_DIR / "campplus.onnx")
    for part in ("llm", "flow", "hift"):
        halves = {key: value.half().clone() for key, value in part_state(work, part).items()}
        save(halves, MODEL_DIR / f"{part}.pt")
    means = speaker_means(work)
    voices = {name: {"embedding": torch.from_numpy(means[name]).float()[None].clone()} for name in OWN_VOICES}
    save(voices, MODEL_DIR / "spk2info.pt")
    write_checksums(MODEL_DIR)
    size = sum(path.stat().st_size for path in MODEL_DIR.iterdir())
    log_line(work, "export", f"{size / 1e6:.1f} MB in {MODEL_DIR.name}")
