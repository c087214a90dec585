"""Seconds and memory on the CPU at full CosyVoice-300M size, random weights, beside what the machine and others allow.

python bench/bench_cpu.py                                  # all rows, ten minutes; 2 GB of disk for the stand-in
python bench/bench_cpu.py --only decode flow               # some tasks; the other rows in the file stay
python bench/bench_cpu.py --tiny --steps 1                 # the same code on tiny networks

The figures of the existing tools, the targets and their machine's rates stand in references.py, floors in floors.py.
`python bench/report.py output/bench.json` makes tables and the picture of bench/benchmarks.md.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # a bench script stands in its own folder

from floors import (  # noqa: E402
    CPU,
    decode_weights,
    floor_seconds,
    flow_work,
    measure_rates,
    operations,
    training_work,
    vocoder_work,
)
from harness import (  # noqa: E402
    TEXT_TOKENS,
    checked_run,
    measure,
    random_clip,
    random_text,
    step_times,
    training_run,
    training_settings,
    write_rows,
)
from make_standin_model import TINY, Sizes, write_model  # noqa: E402
from measured import Outcome  # noqa: E402
from references import EXISTING, TARGETS  # noqa: E402

from checkpoint import PARTS  # noqa: E402
from common.files import GIB  # noqa: E402
from common.signals import SignalGuard  # noqa: E402
from cosyvoice.cli.cosyvoice import load_part  # noqa: E402
from cosyvoice.cli.model import CosyVoiceModel  # noqa: E402
from cosyvoice.utils.common import MEL_BINS, MEL_HOP, SAMPLE_RATE, token_to_mel_length  # noqa: E402
from cosyvoice.utils.precision import fast_dtype  # noqa: E402
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config  # noqa: E402
from lora import adapter_parameters  # noqa: E402
from training.run_files import save_last  # noqa: E402
from training.step import optimizer_step  # noqa: E402

SPOKEN_TOKENS = 150  # 3 s
FLOW_STEPS, FEW_FLOW_STEPS = 10, 8
TRAINED_SEC = 2.9  # 145 speech tokens, 249 mel frames, 15 text tokens
EDGE = 10  # decoding steps that count as the first and as the last
ADAM_BYTES = 12  # a trained weight and its two moments, float32
GB = 1e9
EXAMPLE = PROJECT / "examples" / "en_allison" / "raw_audio" / "003.flac"
LOADING = """
import json, re, sys, time
from pathlib import Path
started = time.perf_counter()
import inference_joint
imported = time.perf_counter()
from cosyvoice.cli.cosyvoice import CosyVoice
CosyVoice(sys.argv[1], precision="fast")
loaded = time.perf_counter()
own = re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([imported - started, loaded - imported, int(own[1]) * 1024]))
"""


@dataclass(frozen=True)
class Bench:
    """What the tasks work with."""

    config: ModelConfig
    repetitions: int
    scratch: Path

    @property
    def frames(self) -> int:
        """Mel frames of the spoken sentence."""
        return token_to_mel_length(SPOKEN_TOKENS, self.config.token_rate_hz)

    @property
    def sound_sec(self) -> float:
        return self.frames * MEL_HOP / SAMPLE_RATE

    def file_bytes(self, *parts: str) -> int:
        """Size of the weight files."""
        return sum((self.config.directory / f"{part}.pt").stat().st_size for part in parts)

    def network(self, part: str, precision: str) -> nn.Module:
        """A network as it speaks. The only place that knows how a precision is asked for."""
        return load_part(self.config, part, inference=True, precision=precision)


@dataclass(frozen=True)
class Measured:
    """A figure: median of so many repetitions, in the unit of its row."""

    value: float
    repetitions: int
    note: str = ""


@dataclass(frozen=True)
class Spec:
    """What a row says, its unit, and the least that must be done for it: {rate of floors.RATES: bytes, operations}."""

    what: str
    unit: str = "s"
    work: Callable[[Bench], dict[str, float]] = field(default=lambda bench: {})


@dataclass(frozen=True)
class Row:
    """A figure beside its floor, the existing tools' and the target, both as they would be on this machine."""

    name: str
    what: str
    unit: str
    value: float
    repetitions: int
    note: str
    work: Mapping[str, float]
    rates: Mapping[str, float]  # of this process
    floor: float | None
    ratio: float | None  # to the floor
    existing: float  # where it was measured
    existing_here: float
    times_better: float
    target: float | None
    target_here: float | None
    meets: bool | None
    date: str


# ---- the least that must be done -------------------------------------------------------------------------------------


def decode_work(bench: Bench, precision: str = "full") -> dict[str, float]:
    """Every weight once a step; the cache of keys, values and positions, a few percent, is left out."""
    weights = SPOKEN_TOKENS * decode_weights(bench.config)
    return {"row_fp32_best": 4 * weights} if precision == "full" else {"row_int8": weights}


def flow_floor(bench: Bench, precision: str = "full", steps: int = FLOW_STEPS) -> dict[str, float]:
    return {product(precision): sum(operations(flow_work(bench.config, SPOKEN_TOKENS, steps)).values())}


def vocoder_floor(bench: Bench, precision: str = "full") -> dict[str, float]:
    return {product(precision): sum(operations(vocoder_work(bench.config, bench.frames)).values())}


def sentence_floor(bench: Bench, precision: str = "full", steps: int = FLOW_STEPS) -> dict[str, float]:
    """All three stages, for one second of sound."""
    stages = (decode_work(bench, precision), flow_floor(bench, precision, steps), vocoder_floor(bench, precision))
    total: dict[str, float] = {}
    for stage in stages:
        for rate, amount in stage.items():
            total[rate] = total.get(rate, 0) + amount / bench.sound_sec
    return total


def training_floor(bench: Bench, precision: str = "full") -> dict[str, float]:
    clip = random_clip(TRAINED_SEC, bench.config, 0)
    return {product(precision): sum(operations(training_work(bench.config, training_settings(), clip)).values())}


def product(precision: str) -> str:
    return "product_fp32_best" if precision == "full" else "product_bf16"


SPECS = {
    "decode full": Spec(f"LLM, {SPOKEN_TOKENS} tokens, float32", work=decode_work),
    "decode fast": Spec(f"LLM, {SPOKEN_TOKENS} tokens, reduced", work=partial(decode_work, precision="fast")),
    "flow full": Spec(f"flow, 3 s, {FLOW_STEPS} steps, float32", work=flow_floor),
    "flow fast": Spec(f"flow, 3 s, {FLOW_STEPS} steps, reduced", work=partial(flow_floor, precision="fast")),
    "hift full": Spec("HiFT, 3 s, float32", work=vocoder_floor),
    "hift fast": Spec("HiFT, 3 s, reduced", work=partial(vocoder_floor, precision="fast")),
    "sentence full": Spec("sentence of 3 s, float32", "RTF", sentence_floor),
    "sentence fast": Spec("sentence of 3 s, reduced", "RTF", partial(sentence_floor, precision="fast")),
    "sentence few steps": Spec(
        f"sentence of 3 s, reduced, {FEW_FLOW_STEPS} flow steps",
        "RTF",
        partial(sentence_floor, precision="fast", steps=FEW_FLOW_STEPS),
    ),
    "train full": Spec("joint training step, 1 clip of 2.9 s, float32", work=training_floor),
    "train bf16": Spec("joint training step, 1 clip of 2.9 s, bf16", work=partial(training_floor, precision="bf16")),
    "merge": Spec(
        "merge both parts",
        work=lambda bench: {"file_read": bench.file_bytes(*PARTS), "file_write": bench.file_bytes(*PARTS)},
    ),
    "merge memory": Spec("merge both parts, peak memory", "GB"),
    "import": Spec("imports for inference"),
    "load": Spec("load for inference", work=lambda bench: {"file_read": bench.file_bytes(*PARTS, "hift")}),
    "load memory": Spec("import and load for inference, peak memory", "GB"),
    "prepare": Spec("prepare, 1 clip, no text check"),
    "checkpoint": Spec("checkpoint to resume from", "MB"),
}


# ---- tasks: what is run ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def decode(bench: Bench, precision: str) -> dict[str, Measured]:
    """One utterance, token by token, the prefix included; first and last steps tell whether a step stays as short."""
    llm = bench.network("llm", precision)
    step_times(llm, bench.config, SPOKEN_TOKENS)
    runs = [step_times(llm, bench.config, SPOKEN_TOKENS) for _ in range(bench.repetitions)]
    total, first, last = (
        median(map(figure, runs))
        for figure in (sum, lambda run: median(run[1 : EDGE + 1]), lambda run: median(run[-EDGE:]))
    )
    note = f"{SPOKEN_TOKENS / total:.1f} tokens/s, a step {1000 * first:.1f} ms first, {1000 * last:.1f} ms last"
    return {f"decode {precision}": Measured(total, bench.repetitions, note)}


def flow(bench: Bench, precision: str) -> dict[str, Measured]:
    network = bench.network("flow", precision)
    token = torch.randint(bench.config.speech_token_size, (1, SPOKEN_TOKENS), dtype=torch.int32)
    nothing, none = torch.zeros(1, 0, dtype=torch.int32), torch.tensor([0])
    prompt = (nothing, none, torch.zeros(1, 0, MEL_BINS), none)
    arguments = (token, torch.tensor([SPOKEN_TOKENS]), *prompt, torch.randn(1, bench.config.spk_embed_dim))
    work = partial(network.inference, *arguments, n_timesteps=FLOW_STEPS)
    return {f"flow {precision}": timed(work, bench)}


def hift(bench: Bench, precision: str) -> dict[str, Measured]:
    network = bench.network("hift", precision)
    mel = torch.randn(1, MEL_BINS, bench.frames)
    return {f"hift {precision}": timed(lambda: network.inference(mel), bench)}


def timed(work: Callable[[], object], bench: Bench, note: str = "") -> Measured:
    return Measured(measure(work, bench.repetitions, CPU)[0], bench.repetitions, note)


def sentence(bench: Bench, precision: str) -> dict[str, Measured]:
    """Text tokens to sound, the language model kept from ending early."""
    model = CosyVoiceModel(**{part: bench.network(part, precision) for part in (*PARTS, "hift")})
    if precision == "full":
        return {"sentence full": spoken(model, bench, FLOW_STEPS, "euler")}
    return {
        "sentence fast": spoken(model, bench, FLOW_STEPS, "euler"),
        "sentence few steps": spoken(model, bench, FEW_FLOW_STEPS, "multistep"),
    }


def spoken(model: CosyVoiceModel, bench: Bench, n_timesteps: int, solver: str) -> Measured:
    """Real-time factor of a sentence."""
    ratio = SPOKEN_TOKENS / TEXT_TOKENS
    text, speaker = random_text(bench.config), torch.randn(1, bench.config.spk_embed_dim)
    empty, no_mel = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, 0, MEL_BINS)

    def speak() -> None:
        tokens = list(model.speech_tokens(text, speaker, min_token_text_ratio=ratio, max_token_text_ratio=ratio))
        token, options = torch.tensor([tokens], dtype=torch.int32), {"n_timesteps": n_timesteps, "solver": solver}
        model.token2wav(token, empty, no_mel, speaker, uuid="", finalize=True, **options)

    taken = timed(speak, bench)
    return Measured(taken.value / bench.sound_sec, taken.repetitions, f"{taken.value:.2f} s")


def train(bench: Bench) -> dict[str, Measured]:
    rows = {"train full": training_step(bench)}
    if fast_dtype(CPU) == torch.bfloat16:
        rows["train bf16"] = training_step(bench, "precision=bf16", "frozen_weights=half")
    return rows


def training_step(bench: Bench, *settings: str) -> Measured:
    """Both forwards, both backwards, clipping and AdamW for one clip."""
    clip = random_clip(TRAINED_SEC, bench.config, 0)
    run, _ = training_run(bench.config, training_settings(*settings), CPU, [clip], bench.scratch)
    return timed(lambda: optimizer_step(run, [0], SignalGuard()), bench)


def merge(bench: Bench) -> dict[str, Measured]:
    """The size of a checkpoint, and merge_joint_weights.py on it in a process of its own."""
    clip = random_clip(TRAINED_SEC, bench.config, 0)
    run, _ = training_run(bench.config, training_settings(), CPU, [clip], bench.scratch)
    optimizer_step(run, [0], SignalGuard())
    save_last(run)
    merging = ["merge_joint_weights.py", "--ckpt", run.last_path, "--model-dir", bench.config.directory]
    outcomes = repeat(bench, [*merging, "--output-dir", bench.scratch / "merged"])
    trained = sum(weight.numel() for part in PARTS for weight in adapter_parameters(run.model.part(part)))
    size = run.last_path.stat().st_size / 1e6
    note = f"adapters with optimizer {ADAM_BYTES * trained / 1e6:.1f} MB"
    return {
        "merge": median_of(outcomes),
        "merge memory": peak_of(outcomes),
        "checkpoint": Measured(size, 1, note),
    }


def loading(bench: Bench) -> dict[str, Measured]:
    """Imports and networks in a process of its own; the files lie in the page cache."""
    outcomes = repeat(bench, ["-c", LOADING, bench.config.directory])
    took = [json.loads(outcome.printed.splitlines()[-1]) for outcome in outcomes]
    imports, loads, own = (median(figures) for figures in zip(*took, strict=True))
    return {
        "import": Measured(imports, len(outcomes)),
        "load": Measured(loads, len(outcomes)),
        "load memory": peak_of(outcomes, f"{own / GB:.2f} GB without pages of mapped files"),
    }


def prepare(bench: Bench) -> dict[str, Measured]:
    """One clip and small stand-in ONNX graphs: what is left is the fixed cost."""
    raw = bench.scratch / "raw_audio"
    raw.mkdir(exist_ok=True)
    for path in (EXAMPLE, EXAMPLE.with_suffix(".txt")):
        shutil.copy(path, raw)
    where = ["--input-dir", raw, "--output-dir", bench.scratch / "data", "--model-dir", bench.config.directory]
    outcomes = repeat(bench, ["prepare_joint_data.py", *where, "--no-text-check", "--force", "--device", "cpu"])
    return {"prepare": median_of(outcomes)}


def repeat(bench: Bench, arguments: Sequence[object]) -> list[Outcome]:
    """So many runs after one that is not measured."""
    return [checked_run(arguments) for _ in range(bench.repetitions + 1)][1:]


def median_of(outcomes: Sequence[Outcome]) -> Measured:
    note = f"peak {max(outcome.peak_gib for outcome in outcomes) * GIB / GB:.2f} GB"
    return Measured(median(outcome.seconds for outcome in outcomes), len(outcomes), note)


def peak_of(outcomes: Sequence[Outcome], note: str = "") -> Measured:
    """Largest resident memory in GB, pages of mapped files included."""
    return Measured(max(outcome.peak_gib for outcome in outcomes) * GIB / GB, len(outcomes), note)


SPEAKING = {"decode": decode, "flow": flow, "hift": hift, "sentence": sentence}
OTHERS = {"train": train, "merge": merge, "load": loading, "prepare": prepare}


# ---- the command -----------------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = [*SPEAKING, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=tasks, default=tasks, metavar="TASK", help=", ".join(tasks))
    parser.add_argument(
        "--precision", nargs="+", choices=("full", "fast"), default=["full", "fast"], help="of speaking"
    )
    parser.add_argument("--model-dir", type=Path, help="a full-size model directory [made with random weights]")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script itself")
    parser.add_argument("--steps", type=int, default=3, help="measured repetitions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=PROJECT / "output" / "bench.json", help="[output/bench.json]")
    return parser.parse_args(argv)


def chosen_tasks(only: Sequence[str], precisions: Sequence[str]) -> list[Callable[[Bench], dict[str, Measured]]]:
    """The tasks in the order of the table."""
    speaking = [partial(SPEAKING[name], precision=how) for name in SPEAKING if name in only for how in precisions]
    return [*speaking, *(OTHERS[name] for name in OTHERS if name in only)]


def compare(name: str, measured: Measured, work: Mapping[str, float], rates: Mapping[str, float]) -> Row:
    """The figure beside floor, existing tools and target."""
    spec, existing, target = SPECS[name], EXISTING[name], TARGETS.get(name)
    floor = floor_seconds(work, rates) if work else None
    existing_here, target_here = existing.here(rates), target and target.here(rates)
    used = {*work, *existing.parts, *(target.parts if target else ())}
    return Row(
        name,
        spec.what,
        spec.unit,
        **asdict(measured),
        work=work,
        rates={rate: rates[rate] for rate in sorted(used)},
        floor=floor,
        ratio=floor and measured.value / floor,
        existing=existing.value,
        existing_here=existing_here,
        times_better=existing_here / measured.value,
        target=target and target.value,
        target_here=target_here,
        meets=target and measured.value <= target_here,
        date=time.strftime("%Y-%m-%d"),
    )


def print_row(row: Row) -> None:
    floor = f"{row.floor:8.2f} floor, {row.ratio:5.2f} x" if row.floor else " " * 23
    others = f"{row.existing_here:8.2f} existing, {row.times_better:5.1f} times better"
    print(f"{row.what:50s} {row.value:8.2f} {row.unit:3s} {floor} {others}  {row.note}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the scripts that are run
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model_dir = args.model_dir or scratch / "model"
        if args.model_dir is None:
            write_model(model_dir, TINY if args.tiny else Sizes())
        bench = Bench(read_model_config(model_dir), args.steps, scratch)
        rates = partial(measure_rates, model_dir / "flow.pt", scratch, scale=0.05 if args.tiny else 1.0)
        before = rates()
        measured: dict[str, Measured] = {}
        for task in chosen_tasks(args.only, args.precision):
            measured |= task(bench)
        after = rates()
        mean = {name: (before[name] + after[name]) / 2 for name in before}
        rows = [compare(name, figure, SPECS[name].work(bench), mean) for name, figure in measured.items()]
    for name in mean:
        print(f"{name:14s} {before[name] / 1e9:8.1f} G/s before, {after[name] / 1e9:8.1f} after")
    for row in rows:
        print_row(row)
    write_rows(args.json, rows, CPU, order=list(SPECS), rates={"before": before, "after": after})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
