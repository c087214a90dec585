"""Seconds, memory and real-time factor at full CosyVoice-300M size with random weights; JSON out.

python bench/bench_gpu.py                                  # CUDA, released sizes, needs 2 GB of disk for the stand-in
python bench/bench_gpu.py --device cpu --tiny --steps 1    # the same code on tiny networks
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from harness import TEXT_TOKENS_PER_SEC, Row, measure, print_row, random_clip, training_run, write_rows  # noqa: E402
from make_standin_model import TINY, Sizes, write_model  # noqa: E402

from config import load  # noqa: E402
from cosyvoice.cli.cosyvoice import CosyVoice  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from dataset import Clip  # noqa: E402
from training_state import epoch_groups  # noqa: E402
from training_step import optimizer_step  # noqa: E402
from utils import GIB, SignalGuard, select_device  # noqa: E402

CARD_GIB = 8.0  # the card that training is promised to run on
PROMISED_GIB = {10: 4.5, 30: 7.0}  # longest clip in seconds -> allocated at most, joint training of whole clips
MIXED_CLIPS = 30


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script itself")
    parser.add_argument("--steps", type=int, default=5, help="measured repetitions")
    parser.add_argument("--optimizer-steps", type=int, default=100, help="measured on 30 clips of mixed length")
    parser.add_argument("--mixed-seconds", type=float, nargs=2, default=[3, 8], help="their shortest and longest")
    parser.add_argument("--accumulate", type=int, default=16, help="clips per optimizer step in the other rows")
    parser.add_argument("--clip-seconds", type=int, nargs="+", default=[3, 10, 30], help="lengths of training clips")
    parser.add_argument("--spoken-seconds", type=int, nargs="+", default=[3, 10], help="lengths of spoken sentences")
    parser.add_argument("--model-dir", type=Path, help="a full-size model directory [made with random weights]")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(argv)


def training_rows(config: ModelConfig, device: torch.device, args: argparse.Namespace) -> list[Row]:
    """Joint training as the settings choose it, each beside the same clips one at a time (batch 1).

    Clips of one length, whole in both parts, within the memory that is promised to be enough; then 30 clips of 3-8 s
    with the shipped settings.
    """
    rows = []
    for seconds in args.clip_seconds:
        clips = [random_clip(seconds, config, number) for number in range(args.accumulate)]
        settings = [f"accumulate_grad_batches={args.accumulate}", f"max_feat_len={clips[0].speech_feat.shape[0]}"]
        promised = min((gib for longest, gib in PROMISED_GIB.items() if seconds <= longest), default=0.0)
        with limited_to(CARD_GIB, device):
            pair = beside_batch_1(f"train {seconds} s clips", config, settings, device, clips, args.steps, args.steps)
        rows += [replace(row, promised_gib=promised) for row in pair]
    lengths = random.Random(0)
    clips = [random_clip(lengths.uniform(*args.mixed_seconds), config, number) for number in range(MIXED_CLIPS)]
    epochs = max(1, args.optimizer_steps // len(epoch_groups(len(clips), 0, load()[0])))
    return rows + beside_batch_1(f"train {len(clips)} mixed clips", config, [], device, clips, epochs, args.steps)


def beside_batch_1(
    what: str,
    config: ModelConfig,
    overrides: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
    repetitions_1: int,
) -> list[Row]:
    """An epoch over the clips with micro-batches as chosen, and the same one clip at a time."""
    chosen = training_row(what, config, overrides, device, clips, repetitions)
    single = training_row(f"{what}, batch 1", config, [*overrides, "batch_frames=1"], device, clips, repetitions_1)
    gain = f"{single.seconds / chosen.seconds:.1f} times the samples per second of batch 1"
    rows = [replace(chosen, note=f"{gain}; {chosen.note}"), single]
    for row in rows:
        print_row(row)
    return rows


def training_row(
    what: str,
    config: ModelConfig,
    overrides: Sequence[str],
    device: torch.device,
    clips: Sequence[Clip],
    repetitions: int,
) -> Row:
    settings = load([*overrides, "validation_clips=0"])[0]
    run, plan = training_run(config, settings, device, list(clips), Path("unused"))
    groups = epoch_groups(len(clips), 0, settings)

    def epoch() -> None:
        for group in groups:
            optimizer_step(run, group, SignalGuard())

    median, peak = measure(epoch, repetitions, device)
    again = "" if run.batch_frames == plan.batch_frames else "; RAN OUT OF MEMORY, done again with the least"
    steps = f"{len(groups) * repetitions} optimizer steps in {median * repetitions:.1f} s"
    note = f"{len(clips) / median:.2f} samples/s, {steps}; {str(run.dtype).removeprefix('torch.')}; {plan}{again}"
    return Row(what, median, peak, note)


@contextmanager
def limited_to(gib: float, device: torch.device) -> Iterator[None]:
    """Within it the device has no more memory than a card of that size, so that an overrun fails."""
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


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
    if args.json:
        write_rows(args.json, rows, device)
    broken = [row.what for row in rows if row.promised_gib and row.peak_gib >= row.promised_gib]
    if broken:
        print(f"more memory than promised: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
