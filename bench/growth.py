"""Does anything grow faster than its arithmetic? Cost over work of decoding, training, preparing and speaking.

python bench/growth.py                          # everything, half an hour; result in output/growth.json
python bench/growth.py --only decode training   # some of it; the rest of the file stays
python bench/growth.py --tiny                   # the same code on tiny networks

Decoding and training run at full size on random weights, preparing on small stand-in ONNX graphs, speaking on the mini
model. What is judged is the exponent of cost over work in the upper half of the points, where fixed costs hide least.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import linear_regression, median

import numpy as np
import soundfile
import torch
from torch import nn

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from floors import CPU, decode_weights, operations, training_work  # noqa: E402
from harness import (  # noqa: E402
    TEXT_TOKENS,
    checked_run,
    measure,
    random_clip,
    step_times,
    training_run,
    training_settings,
    write_rows,
)
from make_standin_model import TINY, Sizes, write_model  # noqa: E402

from common.files import GIB, atomic_path  # noqa: E402
from common.signals import SignalGuard  # noqa: E402
from cosyvoice.cli.cosyvoice import load_part  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from dataset import Clip, llm_positions  # noqa: E402
from training.memory import kept_bytes, longest_window, saved_bytes  # noqa: E402
from training.state import Run  # noqa: E402
from training.step import micro_batches, optimizer_step  # noqa: E402

SLACK = 0.15  # of an exponent: what noise may add
TOKENS = (10, 30, 100, 300, 600, 1000, 1500)
CLIP_SECONDS = (3, 6, 10, 20, 30)
CLIPS = (10, 100, 300, 1000)
SENTENCES = (1, 10, 30, 100)
WINDOW = 10  # decoding steps whose median is a point
PREFIX = TEXT_TOKENS + 3  # positions before the first speech token: sos, speaker, text, task
KEPT_PER_POSITION = 3  # vectors of a layer's cache: key, value, projected distance
SAMPLE_RATE, SOUND_SEC = 16_000, 2.0
SENTENCE = "The train to the coast leaves at nine in the morning."


@dataclass(frozen=True)
class Point:
    """Cost of so much work, and what its arithmetic amounts to; only the growth of the latter counts."""

    work: float
    cost: float
    arithmetic: float


@dataclass(frozen=True)
class Row:
    """One curve with its exponents over all points and over the upper half, and those of the arithmetic."""

    name: str
    what: str
    work_unit: str
    unit: str
    points: Sequence[Point]
    exponent: float
    exponent_allowed: float
    upper_exponent: float
    upper_allowed: float
    too_fast: bool


def exponent(work: Sequence[float], cost: Sequence[float]) -> float:
    """The p of the power law cost ~ work^p that fits best."""
    return linear_regression([*map(math.log, work)], [*map(math.log, cost)]).slope


def judged(name: str, points: Sequence[Point]) -> Row:
    """The curve with its verdict."""
    upper = points[min(len(points) // 2, len(points) - 2) :]
    fits = [
        exponent([point.work for point in some], [getattr(point, figure) for point in some])
        for some in (points, upper)
        for figure in ("cost", "arithmetic")
    ]
    return Row(name, *CURVES[name], points, *fits, too_fast=fits[2] > fits[3] + SLACK)


CURVES = {  # what, unit of work, unit of cost
    "decode": ("one step of decoding", "tokens before it", "ms"),
    "training": ("one joint training step, 1 clip", "seconds of sound", "s"),
    "training memory": ("bytes kept for backward, larger part", "seconds of sound", "GiB"),
    "prepare": ("prepare, first time", "clips", "s"),
    "prepare again": ("prepare, nothing changed", "clips", "s"),
    "speaking": ("speak a text file", "sentences", "s"),
}


# ---- decoding --------------------------------------------------------------------------------------------------------


def decoding(config: ModelConfig, scratch: Path, tiny: bool) -> dict[str, list[Point]]:
    """Steps of one long utterance; each reads all weights and its cache."""
    counts = TOKENS[:4] if tiny else TOKENS
    llm = load_part(config, "llm", inference=True)
    step_times(llm, config, WINDOW)
    times = step_times(llm, config, counts[-1])
    points = []
    for count in counts:
        # at the start of the curve the step with the prefix in it is not one of the window
        window = times[max(1, count - WINDOW) : count]
        points.append(Point(count, 1000 * median(window), step_bytes(config, llm, count)))
    return {"decode": points}


def step_bytes(config: ModelConfig, llm: nn.Module, tokens: int) -> float:
    """Float32 bytes that the step after so many tokens reads."""
    kept = KEPT_PER_POSITION * len(llm.llm.encoders) * llm.llm.output_size()
    return 4 * (decode_weights(config) + kept * (PREFIX + tokens))


# ---- training --------------------------------------------------------------------------------------------------------


def training(config: ModelConfig, scratch: Path, tiny: bool) -> dict[str, list[Point]]:
    """Steps of one clip each, whole in both parts; their memory is counted in forward passes of their own."""
    lengths = CLIP_SECONDS[:3] if tiny else CLIP_SECONDS
    settings = training_settings()
    clips = [random_clip(seconds, config, number) for number, seconds in enumerate(lengths)]
    run, _ = training_run(config, settings, CPU, clips, scratch)
    times, memory = [], []
    for number, clip in enumerate(clips):
        work = partial(optimizer_step, run, [number], SignalGuard())
        seconds = measure(work, 1 if clip.duration > 10 else 3, CPU)[0]
        done = sum(operations(training_work(config, settings, clip)).values())
        times.append(Point(clip.duration, seconds, done))
        memory.append(Point(clip.duration, counted_bytes(run, clip) / GIB, expected_bytes(run, clip)))
        print(f"training, {clip.duration} s of sound: {seconds:.2f} s, {memory[-1].cost:.2f} GiB", flush=True)
    return {"training": times, "training memory": memory}


def counted_bytes(run: Run, clip: Clip) -> int:
    """Bytes that the forward pass of a clip keeps for the backward pass besides the weights: of the larger part."""
    batches = {part.name: micro_batches(run, part, [clip]) for part in run.active}
    return max(saved_bytes(run.model, name, batch, run.dtype) for name, [batch] in batches.items())


def expected_bytes(run: Run, clip: Clip) -> float:
    """What training's own estimate says of the same: it has attention's square in it."""
    lengths = {"llm": llm_positions(clip), "flow": longest_window([clip], run.config)}
    return max(kept_bytes(run.model, name, clip, length, run.dtype) for name, length in lengths.items())


# ---- preparing -------------------------------------------------------------------------------------------------------


def preparing(config: ModelConfig, scratch: Path, tiny: bool) -> dict[str, list[Point]]:
    """prepare_joint_data.py on generated sound with the tiny model's ONNX graphs, then again with nothing to do."""
    model = scratch / "tiny"
    write_model(model, TINY)
    first, again = [], []
    for count in (2, 4) if tiny else CLIPS:
        raw, data = scratch / f"raw_{count}", scratch / f"data_{count}"
        raw.mkdir()
        for number in range(count):
            write_recording(raw, number)
        where = ["--input-dir", raw, "--output-dir", data, "--model-dir", model]
        command = ["prepare_joint_data.py", *where, "--no-text-check", "--device", "cpu"]
        for points in (first, again):
            outcome = checked_run(command)
            points.append(Point(count, outcome.seconds, count))
            print(f"prepare, {count} clips: {outcome.seconds:.1f} s, {outcome.peak_gib:.2f} GiB", flush=True)
    return {"prepare": first, "prepare again": again}


def write_recording(folder: Path, number: int) -> None:
    """Sound with the rhythm of syllables, another one for each number, and a text of its own."""
    random = np.random.default_rng(number)
    time = np.arange(int(SOUND_SEC * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = random.uniform(100, 220)
    voice = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * random.uniform(2, 4) * time - 1), 0, 1)
    inside = (time > 0.2) & (time < SOUND_SEC - 0.3)
    samples = 0.1 * voice * syllables * inside + 1e-4 * random.standard_normal(len(time))
    soundfile.write(folder / f"{number:04d}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    words = " ".join("".join(random.choice(list("abcdefghijklmnoprstuvw"), 4)) for _ in range(6))
    (folder / f"{number:04d}.txt").write_text(f"{words}.", encoding="utf-8")


# ---- speaking --------------------------------------------------------------------------------------------------------


def speaking(config: ModelConfig, scratch: Path, tiny: bool, mini: Path) -> dict[str, list[Point]]:
    """inference_joint.py on a file that says the same sentence so many times."""
    texts, points = scratch / "texts.txt", []
    for count in (1, 2) if tiny else SENTENCES:
        texts.write_text(f"{SENTENCE}\n" * count, encoding="utf-8")
        where = ["--model-dir", config.directory if tiny else mini, "--output", scratch / "spoken.wav"]
        limits = ["--set", "inference.max_retries=0", "--set", "inference.max_token_text_ratio=15"]
        outcome = checked_run(
            ["inference_joint.py", "--base", "--text-file", texts, *where, *limits, "--device", "cpu"]
        )
        points.append(Point(count, outcome.seconds, count))
        print(f"speaking, {count} sentences: {outcome.seconds:.1f} s, {outcome.peak_gib:.2f} GiB", flush=True)
    return {"speaking": points}


# ---- the command -----------------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = ["decode", "training", "prepare", "speaking"]
    parser.add_argument("--only", nargs="+", choices=tasks, default=tasks, metavar="TASK", help=", ".join(tasks))
    parser.add_argument("--model-dir", type=Path, help="a full-size model directory [made with random weights]")
    parser.add_argument("--mini", type=Path, default=PROJECT / "pretrained_models" / "CosyVoice-mini")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and little work, to try the script itself")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=PROJECT / "output" / "growth.json", help="[output/growth.json]")
    parser.add_argument("--picture", type=Path, default=PROJECT / "bench" / "growth.png", help="[bench/growth.png]")
    return parser.parse_args(argv)


def report_line(row: Row) -> str:
    """A curve's exponents and verdict."""
    ends = (f"{point.cost:.3g} {row.unit} at {point.work:g}" for point in (row.points[0], row.points[-1]))
    powers = f"work^{row.upper_exponent:.2f}, arithmetic ^{row.upper_allowed:.2f}"
    return f"{row.what:40s} {' to '.join(ends)} {row.work_unit}: {powers}: {'TOO FAST' if row.too_fast else 'PASS'}"


def draw(rows: Sequence[Mapping], picture: Path) -> None:
    """A panel a curve: measured points, and the arithmetic drawn through the last of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 3
    drawing, axes = plt.subplots(
        math.ceil(len(rows) / columns), columns, figsize=(13, 3.6 * math.ceil(len(rows) / columns)), squeeze=False
    )
    for axis, row in zip(axes.flat, rows, strict=False):
        work, cost, arithmetic = ([point[key] for point in row["points"]] for key in ("work", "cost", "arithmetic"))
        axis.loglog(work, cost, "o-", label=f"measured, exponent {row['upper_exponent']:.2f} at its end")
        scaled = [value * cost[-1] / arithmetic[-1] for value in arithmetic]
        axis.loglog(work, scaled, "--", label=f"arithmetic, {row['upper_allowed']:.2f}")
        axis.set(title=row["what"], xlabel=row["work_unit"], ylabel=row["unit"])
        axis.grid(which="both", alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    drawing.tight_layout()
    with atomic_path(picture) as part:
        drawing.savefig(part, format="png", dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where something grows too fast."""
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the scripts that are run
    torch.set_num_threads(args.threads)
    tasks: dict[str, Callable[[ModelConfig, Path, bool], dict[str, list[Point]]]] = {
        "decode": decoding,
        "training": training,
        "prepare": preparing,
        "speaking": partial(speaking, mini=args.mini),
    }
    curves: dict[str, list[Point]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model_dir = args.model_dir or scratch / "model"
        if args.model_dir is None:
            write_model(model_dir, TINY if args.tiny else Sizes())
        for name in args.only:
            curves |= tasks[name](read_model_config(model_dir), scratch, args.tiny)
    rows = [judged(name, points) for name, points in curves.items()]
    for row in rows:
        print(report_line(row))
    draw(write_rows(args.json, rows, CPU, order=list(CURVES)), args.picture)
    return int(any(row.too_fast for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
