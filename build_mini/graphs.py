"""The two ONNX graphs: written from their stages' states with packed weights, or taken as shipped, and opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from build_mini.common import MODEL_DIR, replace_file
from build_mini.four_bits import unpacking_nodes
from build_mini.speaker import BANDS as SPEAKER_BANDS
from build_mini.speaker import load_speaker_encoder
from build_mini.speech_tokenizer import BANDS, CLUSTERS, load_tokenizer

OPSET = 18
SMALL = 256  # weights with fewer elements stay float32 in the graphs
SPEECH_TOKENIZER, SPEAKER_ENCODER = "speech_tokenizer_v1.onnx", "campplus.onnx"  # names in a model directory


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


# by name: the files that a graph is written from, the state first, and what writes it
WRITERS = {
    SPEECH_TOKENIZER: (("tokens.state.pt", CLUSTERS), write_speech_tokenizer),
    SPEAKER_ENCODER: (("speaker.state.pt",), write_speaker_encoder),
}


def graph_path(work: Path, name: str) -> Path:
    """A graph's file: written into the work folder from what its stage left, or the shipped one where that is nothing.

    UserError where the stage is not finished."""
    sources, write = WRITERS[name]
    state, path = work / sources[0], work / name
    if not state.exists():
        return MODEL_DIR / name
    made = path.stat().st_mtime if path.exists() else -1.0
    if any(not (work / source).exists() or made < (work / source).stat().st_mtime for source in sources):
        write(work, path)
    return path


def open_graph(work: Path, name: str) -> onnxruntime.InferenceSession:
    """The graph that ships, with its packed weights, so that training sees what users get."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(graph_path(work, name), options, providers=["CPUExecutionProvider"])
