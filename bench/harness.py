"""What the benches share: repeated timing, random clips, the machine in words, rows and their file."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from measured import Outcome, run_script
from torch import Tensor, nn

from checkpoint import PARTS, base_fingerprint
from common.files import GIB, write_text
from config import JointConfig, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.utils.common import MEL_BINS, token_to_mel_length
from cosyvoice.utils.yaml_loader import ModelConfig
from dataset import Clip
from llm_flow_model import JointModel
from training.memory import MemoryPlan, choose_precision, prepare_memory
from training.state import Run, make_run

PROJECT = Path(__file__).resolve().parent.parent
TEXT_TOKENS_PER_SEC, TEXT_TOKENS = 5, 15  # of random clips, of spoken sentences


@dataclass(frozen=True)
class Row:
    """One measurement: median seconds, and GiB at the highest (0 where the device does not tell)."""

    what: str
    seconds: float
    peak_gib: float
    note: str = ""
    promised_gib: float = 0.0  # the peak must stay below it; 0: nothing is promised
    floor: float | None = None  # seconds that the device needs at least, where that is known
    rtf: float | None = None  # seconds for a second of speech


def print_row(row: Row) -> None:
    figures = [row.note] if row.note else []
    figures += [f"real-time factor {row.rtf:.4f}"] if row.rtf is not None else []
    figures += [f"floor {row.floor:.4f} s"] if row.floor is not None else []
    print(f"{row.what:60s} {row.seconds:9.4f} s  {row.peak_gib:6.2f} GiB  {'; '.join(figures)}", flush=True)


def measure(work: Callable[[], object], repetitions: int, device: torch.device) -> tuple[float, float]:
    """(median seconds, peak GiB) of `work` after one unmeasured call."""
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [timed(work, device) for _ in range(repetitions)]
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0
    return median(times), peak


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, the device's queue included."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_clip(seconds: float, config: ModelConfig, number: int) -> Clip:
    """A clip of random numbers of the given length."""
    generator = torch.Generator().manual_seed(number)
    texts, tokens = ceil(seconds * TEXT_TOKENS_PER_SEC), int(seconds * config.token_rate_hz)
    frames = token_to_mel_length(tokens, config.token_rate_hz)
    vector = torch.randn(config.spk_embed_dim, generator=generator)
    return Clip(
        utt=f"{seconds}-{number}",
        wav="",
        text="",
        text_token=torch.randint(config.text_token_size, (texts,), generator=generator),
        speech_token=torch.randint(config.speech_token_size, (tokens,), generator=generator),
        speech_feat=torch.randn(frames, MEL_BINS, generator=generator),
        utt_embedding=vector,
        spk_embedding=vector,
        duration=seconds,
        fingerprint=str(number),
    )


def training_run(
    config: ModelConfig, settings: JointConfig, device: torch.device, clips: list[Clip], output_dir: Path
) -> tuple[Run, MemoryPlan]:
    """A joint run before its first step, with the weights of the model directory, and how it uses the memory."""
    parts = {part: load_part(config, part, device=device) for part in PARTS}
    model = JointModel(parts["llm"], parts["flow"], settings)
    dtype = choose_precision(settings, device)
    plan = prepare_memory(model, clips, settings, dtype)
    speaker = {"name": "bench", "embedding": clips[0].spk_embedding[None], "seconds_per_text_token": None}
    identity = {"run_id": "bench", "base": base_fingerprint(config.directory), "data": "random", "speaker": speaker}
    frames = dict(plan.batch_frames)
    return make_run(settings, device, model, dtype, frames, clips, output_dir, config.token_rate_hz, identity), plan


def training_settings(*more: str) -> JointConfig:
    """One clip an optimizer step, whole in both parts."""
    return load(["validation_clips=0", "accumulate_grad_batches=1", "max_feat_len=2600", *more])[0]


# ---- speaking --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def step_times(llm: nn.Module, config: ModelConfig, tokens: int) -> list[float]:
    """Seconds to each of so many tokens after the one before; the first has the prefix in it."""
    torch.manual_seed(0)
    nothing, none = torch.zeros(1, 0, dtype=torch.int32), torch.tensor([0])
    ratio = tokens / TEXT_TOKENS  # keeps it from ending early
    speaker = torch.randn(1, config.spk_embed_dim)
    arguments = (random_text(config), torch.tensor([TEXT_TOKENS]), nothing, none, nothing, none, speaker)
    times, before = [], time.perf_counter()
    for _ in llm.inference(*arguments, min_token_text_ratio=ratio, max_token_text_ratio=ratio):
        now = time.perf_counter()
        times.append(now - before)
        before = now
    return times


def random_text(config: ModelConfig) -> Tensor:
    """Text tokens (1, TEXT_TOKENS)."""
    return torch.randint(config.text_token_size, (1, TEXT_TOKENS), dtype=torch.int32)


def checked_run(arguments: Sequence[object]) -> Outcome:
    """What a script of the project took in a process of its own; RuntimeError with its output where it failed."""
    outcome = run_script(arguments)
    if outcome.code:
        raise RuntimeError(f"{arguments[0]} ended with {outcome.code}:\n{outcome.printed[-3000:]}")
    return outcome


# ---- where and when --------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """The machine in words and numbers, as bench/benchmarks.md wants it beside every figure."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def cpu_name() -> str:
    """Model name of the processor, with what it has for reduced precision."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    values = {key.strip(): value.strip() for key, value in found.items()}
    extras = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in values.get("flags", "").split()]
    return " ".join([values.get("model name", platform.processor() or "CPU"), *extras])


def commit() -> str:
    """Short hash of what is checked out, with a "+" where tracked files differ from it; "" outside a clone."""
    described = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"], cwd=PROJECT, capture_output=True, text=True
    )
    return described.stdout.strip()


def write_rows(
    path: Path, rows: Sequence[Any], device: torch.device, order: Sequence[str] = (), **more: Any
) -> list[dict[str, Any]]:
    """The machine and all rows (dataclasses) as JSON; the rows as they stand in the file.

    order: names of rows in their order; those that the file holds already stay where there is no new one."""
    written = [asdict(row) for row in rows]
    if order:
        old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        by_name = {row["name"]: row for row in (*old, *written)}
        written = [by_name[name] for name in order if name in by_name]
    result = {"machine": machine(device), **more, "rows": written}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return written
