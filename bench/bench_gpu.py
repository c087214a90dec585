"""Seconds, memory and real-time factor at full CosyVoice-300M size with random weights; JSON out.

python bench/bench_gpu.py                                  # CUDA, released sizes, needs 2 GB of disk for the stand-in
python bench/bench_gpu.py --device cpu --tiny --steps 1    # the same code on tiny networks
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from make_standin_model import TINY, Sizes, write_model  # noqa: E402

from config import JointConfig, load  # noqa: E402
from cosyvoice.cli.cosyvoice import CosyVoice, load_part  # noqa: E402
from cosyvoice.utils.common import token_to_mel_length  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from dataset import Clip  # noqa: E402
from llm_flow_model import JointModel  # noqa: E402
from memory import choose_precision, prepare_memory  # noqa: E402
from training_state import make_run  # noqa: E402
from training_step import optimizer_step  # noqa: E402
from utils import SignalGuard, select_device  # noqa: E402

TEXT_TOKENS_PER_SEC = 5


@dataclass(frozen=True)
class Row:
    """One measurement: median seconds, and GiB at the highest (0 where the device does not tell)."""

    what: str
    seconds: float
    peak_gib: float
    note: str = ""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script itself")
    parser.add_argument("--steps", type=int, default=5, help="measured repetitions")
    parser.add_argument("--accumulate", type=int, default=16, help="clips of batch 1 per optimizer step")
    parser.add_argument("--clip-seconds", type=int, nargs="+", default=[3, 10, 30], help="lengths of training clips")
    parser.add_argument("--spoken-seconds", type=int, nargs="+", default=[3, 10], help="lengths of spoken sentences")
    parser.add_argument("--model-dir", type=Path, help="a full-size model directory [made with random weights]")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(argv)


def measure(work: Callable[[], object], repetitions: int, device: torch.device) -> tuple[float, float]:
    """(median seconds, peak GiB) of `work` after one unmeasured call."""
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repetitions):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return sorted(times)[len(times) // 2], peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_clip(seconds: float, config: ModelConfig, number: int) -> Clip:
    """A clip of random numbers of the given length."""
    generator = torch.Generator().manual_seed(number)
    tokens = int(seconds * config.token_rate_hz)
    vector = torch.randn(config.spk_embed_dim, generator=generator)
    return Clip(
        utt=f"{seconds}-{number}",
        wav="",
        text="",
        text_token=torch.randint(config.text_token_size, (int(seconds * TEXT_TOKENS_PER_SEC),), generator=generator),
        speech_token=torch.randint(config.speech_token_size, (tokens,), generator=generator),
        speech_feat=torch.randn(token_to_mel_length(tokens, config.token_rate_hz), 80, generator=generator),
        utt_embedding=vector,
        spk_embedding=vector,
        duration=seconds,
        fingerprint=str(number),
    )


def training_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace) -> list[Row]:
    """Joint training, batch 1: one optimizer step over the accumulated clips, with and without checkpointing."""
    rows = []
    for checkpointing in (False, True):
        for seconds in args.clip_seconds:
            overrides = ["validation_clips=0", f"gradient_checkpointing={checkpointing}", "max_feat_len=2600"]
            settings = load([*overrides, f"accumulate_grad_batches={args.accumulate}"])[0]
            rows.append(training_row(config, settings, device, seconds, args.steps))
            print_row(rows[-1])
    return rows


def training_row(config: ModelConfig, settings: JointConfig, device: torch.device, seconds: float, steps: int) -> Row:
    parts = {part: load_part(config, part, device=device) for part in ("llm", "flow")}
    model = JointModel(parts["llm"], parts["flow"], settings)
    dtype = choose_precision(settings, device)
    clips = [random_clip(seconds, config, number) for number in range(settings.accumulate_grad_batches)]
    batch_frames, _ = prepare_memory(model, clips, settings, dtype)
    run = make_run(settings, device, model, dtype, batch_frames, clips, Path("unused"), config.token_rate_hz, {})
    group = list(range(len(clips)))
    median, peak = measure(lambda: optimizer_step(run, group, SignalGuard()), steps, device)
    note = f"{str(dtype).removeprefix('torch.')}, checkpointing {settings.gradient_checkpointing}"
    return Row(f"train {seconds} s clips, {len(clips)} x batch 1, whole clips in both parts", median, peak, note)


def speaking_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace) -> list[Row]:
    """Text to wave: each stage on its own, for so many seconds of speech; the LLM is kept from ending early."""
    model = CosyVoice(config.directory, device=device).model
    empty, rows = torch.zeros(1, 0, dtype=torch.int32), []
    vector = torch.randn(1, config.spk_embed_dim)
    for seconds in args.spoken_seconds:
        n_text, n_speech = seconds * TEXT_TOKENS_PER_SEC, seconds * config.token_rate_hz
        text = torch.randint(config.text_token_size, (1, n_text), dtype=torch.int32)
        ratio = n_speech / n_text
        limits = {"min_token_text_ratio": ratio, "max_token_text_ratio": ratio}
        token = torch.randint(config.speech_token_size, (1, n_speech), dtype=torch.int32)
        flow_input = (token, empty, torch.zeros(1, 0, 80), vector)
        stages = {
            "LLM": lambda text=text, limits=limits: list(model.speech_tokens(text, vector, **limits)),
            "flow + vocoder": lambda given=flow_input: model.token2wav(*given, uuid="", finalize=True),
        }
        for name, work in stages.items():
            median, peak = measure(work, args.steps, device)
            rows.append(Row(f"speak {seconds} s: {name}", median, peak, f"real-time factor {median / seconds:.4f}"))
            print_row(rows[-1])
    return rows


def print_row(row: Row) -> None:
    print(f"{row.what:60s} {row.seconds:9.4f} s  {row.peak_gib:6.2f} GiB  {row.note}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = select_device(args.device)
    torch.manual_seed(0)
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = args.model_dir or Path(scratch) / "model"
        if args.model_dir is None:
            write_model(model_dir, TINY if args.tiny else Sizes())
        config = read_model_config(model_dir)
        rows = training_rows(config, device, args) + speaking_rows(config, device, args)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    result = {"machine": machine, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
