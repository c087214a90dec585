"""Which setting matters, and when to stop: one factor at a time around the defaults, on the voice of one folder.

python bench/ablation.py --input-dir raw_audio --work output/ablation/my_voice
python bench/ablation.py --report output/ablation/my_voice   # tables and picture of bench/ablation.md

About a dozen trainings and thirty measured voices (two hours for the mini model on one CPU core). What is done is kept,
so a run that was interrupted goes on where it was; a table is printed after each factor. Judges: evaluate_joint.py with
requirements-eval.txt installed.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # a bench script stands in its own folder

from ablation_report import table, write_report  # noqa: E402

from checkpoint import PARTS, checkpoint_config, checkpoint_paths, kept_path, load_checkpoint, runs_in  # noqa: E402
from clips.find import find_clips  # noqa: E402
from common.files import save_torch  # noqa: E402
from config import JointConfig, UserError  # noqa: E402
from utils import DEFAULT_MODEL, read_settings, run_main  # noqa: E402

SENTENCES = PROJECT / "bench" / "ablation_sentences.txt"
USUAL_CLIPS, CLIP_COUNTS = 30, (10, 20, 30, 40)
RANKS = (4, 8, 16, 32)
LLM_LOSSES = (2.5, 2.0, 1.5, 1.0, 0.5)  # nats per speech token on the training clips
KEPT_EVERY = 5  # epochs
NEVER_STOP = ("stop.llm_loss=0", "stop.flow_loss=0", "stop.patience=0")


@dataclass(frozen=True)
class Run:
    """One training: how many clips, which settings besides the defaults."""

    clips: int = USUAL_CLIPS
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """Half a voice: the part of a run at a moment: "base" (untrained), "best", "last", or an epoch that was kept."""

    run: str
    moment: str | int = "best"


@dataclass(frozen=True)
class System:
    """A voice that is measured: its LLM and its flow may come from different trainings."""

    factor: str
    label: str
    llm: Adapter
    flow: Adapter


# ---- what is tried ---------------------------------------------------------------------------------------------------


def training_runs(config: JointConfig) -> dict[str, Run]:
    """Trainings by name. Ranks keep the default's alpha / rank."""

    def rank(number: int) -> tuple[str, ...]:
        lora = {part: config.part(part) for part in PARTS}
        alphas = {part: lora[part].lora_alpha / lora[part].lora_r * number for part in PARTS}
        ranks = [f"{part}_lora.lora_r={number}" for part in PARTS]
        return (*ranks, *(f"{part}_lora.lora_alpha={alphas[part]}" for part in PARTS))

    by_loss = ("select_by=val_loss",)
    long = (*by_loss, *NEVER_STOP, f"max_epochs={long_epochs(config)}", f"keep_every_epochs={KEPT_EVERY}")
    return {
        "default": Run(),
        "val_loss": Run(settings=by_loss),
        "long": Run(settings=long),
        **{f"rank_{number}": Run(settings=(*by_loss, *rank(number))) for number in RANKS},
        **{f"clips_{count}": Run(count, by_loss) for count in CLIP_COUNTS if count != USUAL_CLIPS},
        "llm_only": Run(settings=(*by_loss, "training_mode=llm_only")),
        "flow_only": Run(settings=(*by_loss, "training_mode=flow_only")),
        "utterance": Run(settings=(*by_loss, "speaker_embedding=utterance")),
        "all_clips": Run(settings=("validation_clips=0", "eval_every_epochs=0")),
    }


def long_epochs(config: JointConfig) -> int:
    """Far past the default's end, a multiple of 2 ** 4 times KEPT_EVERY."""
    unit = 16 * KEPT_EVERY
    return -(-2 * config.max_epochs // unit) * unit


def measured_systems(work: Path, config: JointConfig) -> list[System]:
    """Voices to measure, by factor; what depends on losses reads them from the long run."""
    usual, long = Adapter("val_loss"), long_epochs(config)

    def both(factor: str, label: str, llm: Adapter, flow: Adapter | None = None) -> System:
        return System(factor, label, llm, flow or llm)

    systems = [
        both("selection", "untouched base", Adapter("val_loss", "base")),
        both("selection", "by held-out loss", usual),
        both("selection", "by sound (default)", Adapter("default")),
        both("selection", "last epoch", Adapter("val_loss", "last")),
        both("selection", "no clip held out, last epoch", Adapter("all_clips", "last")),
        both("selection", f"{long} epochs, no stop", Adapter("long", "last")),
        *(
            System("LLM stopped at", f"{loss:.2f} nats (epoch {epoch})", Adapter("long", epoch), usual)
            for epoch, loss in llm_stops(work).items()
        ),
        *(
            System("flow stopped after", f"{long // share} epochs", usual, Adapter("long", long // share))
            for share in (16, 8, 4, 2, 1)
        ),
        *(System("rank of the LLM", str(rank), Adapter(f"rank_{rank}"), usual) for rank in RANKS),
        *(System("rank of the flow", str(rank), usual, Adapter(f"rank_{rank}")) for rank in RANKS),
        *(
            both("clips", str(count), usual if count == USUAL_CLIPS else Adapter(f"clips_{count}"))
            for count in CLIP_COUNTS
        ),
        both("trained", "LLM and flow apart", Adapter("llm_only"), Adapter("flow_only")),
        both("speaker vector", "of each clip", Adapter("utterance")),
    ]
    return systems


def llm_stops(work: Path) -> dict[int, float]:
    """{epoch: LLM loss} of the kept epochs of the long run that come nearest to LLM_LOSSES."""
    kept = {int(row["epoch"]): float(row["llm_train"]) for row in metrics(work / "long") if row["llm_train"]}
    kept = {epoch: loss for epoch, loss in kept.items() if epoch % KEPT_EVERY == 0}
    epochs = [min(kept, key=lambda epoch, wanted=wanted: abs(kept[epoch] - wanted)) for wanted in LLM_LOSSES]
    return {epoch: kept[epoch] for epoch in epochs}


def metrics(folder: Path) -> list[dict[str, str]]:
    """metrics.csv of a training."""
    [path] = (folder / "joint_logs").glob("*/metrics.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- doing it --------------------------------------------------------------------------------------------------------


def script(name: str, *options: object) -> None:
    """Run one of the project's scripts to its end; UserError where it fails."""
    command = [sys.executable, str(PROJECT / name), *map(str, options)]
    print("$", " ".join(command[1:]), flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"{name} failed (see above); mend it and start this command again: what is done is kept")


def prepare(args: argparse.Namespace, count: int | None) -> Path:
    """The data of the first `count` clips in an order drawn once (None: all of them); fewer are a part of more."""
    data = args.work / f"data_{count or 'all'}"
    if (data / "data.list").exists():
        return data
    clips = find_clips(args.input_dir)[0]
    random.Random(0).shuffle(clips)
    if count is not None and count > len(clips):
        raise UserError(f"{args.input_dir} has {len(clips)} clips, {count} are needed")
    raw = args.work / f"raw_{count or 'all'}"
    raw.mkdir(parents=True, exist_ok=True)
    for clip in clips[:count]:
        for path in args.input_dir.glob(f"{clip.name}.*"):
            shutil.copy(path, raw / path.name)
    script("prepare_joint_data.py", "--input-dir", raw, "--output-dir", data, "--model-dir", args.model_dir)
    return data


def train(args: argparse.Namespace, name: str, run: Run) -> None:
    """One training, begun or gone on with; nothing to do where it is finished."""
    folder = args.work / name
    found = runs_in(folder)
    if found and load_checkpoint(found[0])["finished"]:
        return
    data = prepare(args, run.clips)
    options = ["--data-dir", data, "--model-dir", args.model_dir]
    if found:
        script("train_joint.py", "--resume", found[0], *options)
        return
    settings = [word for setting in run.settings for word in ("--set", setting)]
    script("train_joint.py", "--output-dir", folder, *options, *settings)


def checkpoint_of(work: Path, adapter: Adapter) -> dict[str, Any]:
    """The checkpoint that an adapter is in."""
    [last] = runs_in(work / adapter.run)
    mode = load_checkpoint(last)["mode"]
    path = {
        "last": last,
        "base": last,
        "best": checkpoint_paths(last.parent, mode)[1],
    }.get(adapter.moment) or kept_path(last.parent, mode, int(adapter.moment))
    return load_checkpoint(path)


def joined(work: Path, system: System) -> Path:
    """A checkpoint with the LLM of one training and the flow of another, to be held against the same clips as all."""
    llm, flow = checkpoint_of(work, system.llm), checkpoint_of(work, system.flow)
    config = {**flow["config"], "training_mode": "joint", "llm_lora": llm["config"]["llm_lora"]}
    config["validation_clips"] = JointConfig().validation_clips  # also of the run that held out none
    path = work / "systems" / f"{file_name(system)}.ckpt"
    adapters = {"llm": llm["adapters"]["llm"], "flow": flow["adapters"]["flow"]}
    for part, adapter in (("llm", system.llm), ("flow", system.flow)):
        if adapter.moment == "base":
            adapters[part] = {key: value.zero_() for key, value in adapters[part].items()}
    save_torch({**flow, "mode": "joint", "config": config, "adapters": adapters}, path)
    checkpoint_config(load_checkpoint(path), path)  # it can be read again
    return path


def file_name(system: System) -> str:
    return "".join(char if char.isalnum() else "_" for char in f"{system.factor} {system.label}")


def measure(args: argparse.Namespace, factor: str, systems: Sequence[System]) -> list[dict[str, Any]]:
    """Figures of the voices of one factor, and of the base with the first."""
    folder = args.work / "measured" / file_name(System(factor, "", *[Adapter("")] * 2))
    path = folder / "evaluation" / "evaluation.json"
    found = {str(args.work / "systems" / file_name(system)): system for system in systems}
    if not path.exists() or not set(found) <= set(json.loads(path.read_text(encoding="utf-8"))["systems"]):
        options = ["--data-dir", prepare(args, None), "--raw-audio", args.work / "raw_all", "--output-dir", folder]
        options += ["--model-dir", args.model_dir, "--sentences", args.sentences]
        options += [word for system in systems for word in ("--ckpt", joined(args.work, system))]
        script("evaluate_joint.py", *options)
    data = json.loads(path.read_text(encoding="utf-8"))
    return [
        {"factor": system.factor, "label": system.label, "figures": data["systems"][name]["figures"]}
        for name, system in found.items()
    ]


def ablation(args: argparse.Namespace) -> None:
    """Prepare, train, measure; a table and results.json after each factor."""
    if args.report:
        write_report(args.report, PROJECT / "bench")
        return
    if args.input_dir is None or args.work is None:
        raise UserError("give --input-dir and --work, or --report with the folders of finished runs")
    config = read_settings([], args.model_dir)[0]
    args.work.mkdir(parents=True, exist_ok=True)
    for name, run in training_runs(config).items():
        train(args, name, run)
    rows: list[dict[str, Any]] = []
    systems = measured_systems(args.work, config)
    for factor in dict.fromkeys(system.factor for system in systems):
        found = measure(args, factor, [system for system in systems if system.factor == factor])
        print(f"\n{factor}\n\n{table(found)}\n", flush=True)
        rows += found
        (args.work / "results.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input-dir", type=Path, help="40 clips or more of one speaker, with texts | 同一说话人的 40 条以上录音")
    add("--work", type=Path, help="folder for everything that is made | 工作目录")
    add("--model-dir", type=Path, default=Path(DEFAULT_MODEL), help=f"[{DEFAULT_MODEL}] | 模型目录")
    add("--sentences", type=Path, default=SENTENCES, help="what is spoken | 朗读的句子")
    add("--report", type=Path, nargs="+", metavar="WORK", help="into bench/ablation.md | 生成报告")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: ablation(parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
