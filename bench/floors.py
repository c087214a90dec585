"""What the hardware allows: rates of the machine, measured, and the bytes and operations of the work, counted.

A floor is the time that the work takes at the machine's rate if nothing else took any.
"""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from harness import timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from config import JointConfig
from cosyvoice.utils.common import MEL_BINS
from cosyvoice.utils.precision import fast_dtype
from cosyvoice.utils.yaml_loader import ModelConfig
from dataset import Clip, collate_draws, collate_llm, draw_flow
from llm_flow_model import JointModel
from matcha.models.components.linear import linear

CPU, META = torch.device("cpu"), torch.device("meta")
REPETITIONS = 5
ROW_SHAPE, ROW_WEIGHTS = (4096, 1024), 64  # 1.07 GB in float32: more than any cache holds
PRODUCT_SIZE = 2048  # 17.2 GFLOP a product
COPIED_BYTES = 2**28

RATES = {
    "row_fp32": "B/s, weights of one-row linear layers, float32, by torch's own",
    "row_fp32_best": "the same by the library that is faster here",
    "row_int8": "B/s, weights of one-row linear layers, int8 with the input quantised at run time",
    "product_fp32": "FLOP/s, matrix product, float32, by torch's own",
    "product_fp32_best": "the same by the library that is faster here",
    "product_bf16": "FLOP/s, matrix product, bfloat16, or float32 where the CPU would only emulate it",
    "memory_copy": "B/s, read and written bytes of a copy in memory",
    "file_read": "B/s, reading a file that the page cache holds",
    "file_write": "B/s, writing a file, without waiting for the disk",
}


# ---- rates -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure_rates(file: Path, scratch: Path, scale: float = 1.0) -> dict[str, float]:
    """{rate: per second}, medians. file is read; scratch is a folder to write to; scale < 1 makes the work smaller."""
    rows, columns = (max(8, int(scale * side)) for side in ROW_SHAPE)
    size, copied = max(8, int(scale * PRODUCT_SIZE)), max(1024, int(scale * COPIED_BYTES))
    measures: dict[str, Callable[[], float]] = {
        "row_fp32": lambda: row_rate(rows, columns, lambda weight: weight, F.linear, 4),
        "row_fp32_best": lambda: row_rate(rows, columns, lambda weight: weight, linear, 4),
        "row_int8": lambda: row_rate(rows, columns, packed_int8, linear_int8, 1),
        "product_fp32": lambda: product_rate(size, torch.float32),
        "product_fp32_best": lambda: product_rate(size, torch.float32, linear),
        "product_bf16": lambda: product_rate(size, fast_dtype(CPU)),
        "memory_copy": lambda: copy_rate(copied),
        "file_read": lambda: read_rate(file),
        "file_write": lambda: write_rate(file, scratch / "written.bin"),
    }
    return {name: measures[name]() for name in RATES}


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Median of a few calls after one that is not measured."""
    work()
    return median(timed(work, device) for _ in range(REPETITIONS))


def row_rate(rows: int, columns: int, pack: Callable, multiply: Callable, element_bytes: int) -> float:
    """Weight bytes a second of `multiply(one row, weight)` over many weights in turn."""
    weights = [pack(torch.randn(rows, columns)) for _ in range(ROW_WEIGHTS)]
    row = torch.randn(1, columns)
    return ROW_WEIGHTS * rows * columns * element_bytes / seconds(lambda: [multiply(row, weight) for weight in weights])


def packed_int8(weight: Tensor) -> object:
    """The weight as torch's quantised linear layers keep it."""
    scale = float(weight.abs().max()) / 127
    return torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(weight, scale, 0, torch.qint8), None)


def linear_int8(row: Tensor, weight: object) -> Tensor:
    """The fastest int8 product of one row that torch 2.11 has for a float32 input."""
    return torch.ops.quantized.linear_dynamic(row, weight, True)


def product_rate(size: int, dtype: torch.dtype, multiply: Callable = F.linear) -> float:
    """Operations a second of products of square matrices."""
    a = torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / seconds(lambda: multiply(a, a))


def copy_rate(size: int, device: torch.device = CPU) -> float:
    """Bytes a second, read plus written, of a copy in the device's memory."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def read_rate(file: Path) -> float:
    """Bytes a second of reading a file into memory that is there already."""
    buffer = bytearray(file.stat().st_size)

    def read() -> None:
        with open(file, "rb", buffering=0) as opened:
            opened.readinto(buffer)

    return len(buffer) / seconds(read)


def write_rate(file: Path, target: Path) -> float:
    """Bytes a second of writing what `file` holds to a new file."""
    content = file.read_bytes()
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        target.write_bytes(content)
        times.append(time.perf_counter() - started)
        target.unlink()
    return len(content) / median(times)


def floor_seconds(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Time of the work {rate: bytes or operations} at the machine's rates, one after the other."""
    return sum(amount / rates[rate] for rate, amount in work.items())


# ---- work, counted on networks without numbers -----------------------------------------------------------------------


def operations(work: Callable[[], object]) -> dict[str, int]:
    """Multiplications and additions of all products and convolutions, by operator ("aten.bmm": attention)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}


def meta_network(config: ModelConfig, part: str) -> nn.Module:
    """A network of the right shapes without numbers, frozen."""
    return config.build(part, device=META).requires_grad_(False).eval()


def decode_weights(config: ModelConfig) -> int:
    """Weights that one decoding step must read: all of the language model but the projections of positions."""
    network = meta_network(config, "llm")
    parameters = [*network.llm.named_parameters(), *network.llm_decoder.named_parameters()]
    return sum(parameter.numel() for name, parameter in parameters if "linear_pos" not in name)


def flow_work(config: ModelConfig, tokens: int, n_timesteps: int) -> Callable[[], object]:
    """Mel of so many speech tokens, to be counted."""
    flow = meta_network(config, "flow")
    token, nothing = torch.zeros(1, tokens, dtype=torch.int32, device=META), torch.zeros(1, 0, dtype=torch.int32)
    prompt = (nothing.to(META), torch.tensor([0]), torch.zeros(1, 0, MEL_BINS, device=META), torch.tensor([0]))
    speaker = torch.zeros(1, config.spk_embed_dim, device=META)
    return lambda: flow.inference(token, torch.tensor([tokens]), *prompt, speaker, n_timesteps=n_timesteps)


def vocoder_work(config: ModelConfig, frames: int) -> Callable[[], object]:
    """Sound of so many mel frames, to be counted."""
    hift = meta_network(config, "hift")
    return lambda: hift.inference(torch.zeros(1, MEL_BINS, frames, device=META))


def training_work(config: ModelConfig, settings: JointConfig, clip: Clip) -> Callable[[], object]:
    """Losses of both parts and their gradients for one clip, to be counted."""
    model = JointModel(meta_network(config, "llm"), meta_network(config, "flow"), settings)
    how = settings.speaker_embedding
    draw = draw_flow(clip, settings.max_feat_len, config.token_rate_hz, 0.0, how, random.Random(0))
    batches = {"llm": collate_llm([clip], how), "flow": collate_draws([draw])}

    def work() -> None:
        for name, batch in batches.items():
            model.loss(name, batch, META).mean.backward()

    return work
