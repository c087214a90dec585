"""What a training run leaves on disk: checkpoints to resume from and to merge, and earlier runs moved aside."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint import (
    FORMAT,
    best_beside,
    checkpoint_config,
    checkpoint_paths,
    kept_path,
    load_checkpoint,
    merged_bytes,
    merged_paths,
    runs_in,
)
from common.files import move_aside, save_torch
from common.manifest import MANIFEST, forget_missing, replacing
from config import UserError, to_dict
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.common import InputError
from cosyvoice.utils.records import limited, read_record
from dataset import clips_per_step
from lora import adapter_parameters, adapter_state_dict, load_adapter
from training.audition import read_texts
from training.decisions import keep, last_trained, race_by_loss, why_finished
from training.distributed import is_writer
from training.selection import Choice
from training.state import Run, from_plain, to_plain
from utils import user_mistakes
from voice.evaluation import EVALUATION

SAMPLE_TEXTS = "sentences.txt"  # in samples/: training wrote them
SAMPLES_BYTES = 2**26  # what was heard, and the logs


def disk_bytes(run: Run, model_dir: Path) -> int:
    """What a run may write at most; opens the base's files to count."""
    adapters = [parameter for name in run.parts for parameter in adapter_parameters(run.model.part(name))]
    size = sum(parameter.nbytes for parameter in adapters)
    every = run.config.keep_every_epochs
    kept = run.config.max_epochs // every if every else 0
    copies = 2 * 3 + 1 + kept  # _last with two moments, and the next one in the making; _best; those kept
    return merged_bytes(model_dir) + copies * size + SAMPLES_BYTES


def save_last(run: Run) -> None:
    """`_last.ckpt`: all that a resumed run needs to equal the unbroken one."""
    optimizers = {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()}
    training = {"optimizers": optimizers, "scaler": run.scaler.state_dict(), **to_plain(run.progress)}
    adapters = {name: adapter_state_dict(run.model.part(name)) for name in run.parts}
    save_torch({**header(run), "adapters": adapters, "training": training}, run.last_path)
    run.saved_at = time.monotonic()


def save_best(run: Run) -> None:
    """`_best.ckpt`: for each part the adapter that was best by its sound, or on the held-out clips."""
    epochs = {name: part.choice.epoch for name, part in run.parts.items()}
    save_torch({**header(run), "adapters": run.best_adapters, "best_epochs": epochs}, run.best_path)


def save_kept(run: Run) -> None:
    """The adapters of this epoch, to be compared or merged later; nothing goes on from them."""
    adapters = {name: adapter_state_dict(run.model.part(name)) for name in run.parts}
    epochs = {name: last_trained(run, part)[0] for name, part in run.parts.items()}
    path = kept_path(run.output_dir, run.config.training_mode, run.epoch)
    save_torch({**header(run), "adapters": adapters, "best_epochs": epochs}, path)


def note_merged(run: Run) -> None:
    """Add to `_last.ckpt` that the voice of its state was merged and judged; the next save leaves it out."""
    save_torch({**load_checkpoint(run.last_path), "merged_step": run.step}, run.last_path)


def is_merged(run: Run, checkpoint: Mapping[str, Any]) -> bool:
    """Whether the merged files are there and are those of `checkpoint`'s state, not of the run before it went on."""
    return checkpoint.get("merged_step") == run.step and all(path.exists() for path in run.result_paths)


def header(run: Run) -> dict[str, Any]:
    """What every checkpoint of this run says about itself."""
    return {
        "format": FORMAT,
        **run.identity,
        "mode": run.config.training_mode,
        "config": to_dict(run.config),
        "epoch": run.epoch,
        "step": run.step,
        "finished": bool(why_finished(run)),
    }


def restore(run: Run, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Continue `run` where `checkpoint` was written."""
    training, hear_every, stored = checkpoint["training"], run.hear_every, checkpoint_config(checkpoint, path)
    with user_mistakes():
        machinery, progress = read_record(Machinery, training, str(path)), from_plain(training, run.config, str(path))
        for name in run.parts:
            load_adapter(run.model.part(name), checkpoint["adapters"][name], str(path))
            optimizer, where = run.optimizers[name], f"{path}: optimizers.{name}"
            load_moments(optimizer, checked_moments(machinery.optimizers.get(name), optimizer, where))
        if training["scaler"]:  # empty where the run had none: it then starts with a fresh one
            run.scaler.load_state_dict(vars(read_record(ScalerState, training["scaler"], f"{path}: scaler")))
    run.go_on_from({**progress, "epoch": checkpoint["epoch"], "step": checkpoint["step"]})
    for part in run.parts.values():
        part.stopped = part.why_stop(run.config)
    if run.audition is not None and run.texts:  # the list may have changed since
        run.audition.texts = read_texts(run.texts, run.audition.frontend)
    if run.audition is not None and run.hearings and len(run.audition.texts) != len(run.hearings[0].figures):
        raise UserError(
            f"{path}: its base spoke other sentences than can be spoken now; resume with --set eval_every_epochs=0"
        )
    stays_auto = run.config.eval_every_epochs == "auto" and stored.eval_every_epochs == "auto"
    if not stays_auto:
        run.hear_every = hear_every
    if clips_per_step(stored) != clips_per_step(run.config):
        run.group, run.sums = 0, {}  # the epoch is begun again in its new groups
    if run.chooses and is_writer():
        restore_best(run, best_beside(path))
        if not run.by_sound:  # it may have been until now
            for part in run.parts.values():
                race_by_loss(run, part)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What AdamW remembers of one parameter."""

    step: Tensor = limited(shape=())
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True)
class Group:
    params: list[int]


@dataclass(frozen=True)
class OptimizerState:
    """`state_dict` of an optimizer, as far as it is taken over."""

    state: dict[int, Moments]
    param_groups: list[Group]


@dataclass(frozen=True, kw_only=True)
class ScalerState:
    """`state_dict` of a gradient scaler."""

    scale: float = limited(low=1e-30, high=1e30)
    growth_factor: float = limited(low=1, high=1e3)
    backoff_factor: float = limited(low=1e-3, high=1)
    growth_interval: int = limited(low=1)
    _growth_tracker: int


@dataclass(frozen=True)
class Machinery:
    """What a checkpoint holds to train on with."""

    optimizers: dict[str, OptimizerState]
    scaler: dict[str, Any]


def checked_moments(stored: OptimizerState | None, optimizer: torch.optim.Optimizer, where: str) -> dict[str, Any]:
    """The state for `load_moments`; InputError, which begins with `where`, for that of other parameters."""
    groups = stored.param_groups if stored is not None else []
    if [len(group.params) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        raise InputError(f"{where} is not there or is of other parameters; take another checkpoint")
    numbers = [number for group in groups for number in group.params]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {number: parameter.shape for number, parameter in zip(numbers, own, strict=True)}
    for number, moments in stored.state.items():
        fits = moments.exp_avg.shape == moments.exp_avg_sq.shape == shapes.get(number)
        if not fits or moments.step < 0 or (moments.exp_avg_sq < 0).any():
            raise InputError(f"{where}: state {number} does not fit its parameter; take another checkpoint")
    return {"state": {i: vars(moments) for i, moments in stored.state.items()}, "param_groups": [*map(vars, groups)]}


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """What the optimizer remembers of earlier steps, and not its settings: those may change where a run is resumed.

    Its own settings stand in the state before that is loaded, for they decide on which device the count of steps lies.
    """
    groups = [
        {**own, "params": saved["params"]}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def restore_best(run: Run, path: Path) -> None:
    """The best adapters so far; where their file is gone the resumed weights are the best from now on."""
    best = load_checkpoint(path) if path.is_file() else {"run_id": None}
    if best["run_id"] == run.identity["run_id"] and "best_epochs" in best:
        run.best_adapters = {name: dict(adapter) for name, adapter in best["adapters"].items()}
        for part in run.parts.values():
            part.choice.epoch = best["best_epochs"][part.name]  # `_last` may be older, or without a choice
        return
    print(f"warning: {path} is not this run's; the best epoch is looked for again from here", flush=True)
    for part in run.parts.values():
        if run.held_out:
            part.best_loss = run.measure(part, run.held_out)
        part.best_epoch, part.stale_epochs, part.choice = run.epoch, 0, Choice()
        keep(run, part, last_trained(run, part)[0])
    save_best(run)


def check_resumable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """UserError for a checkpoint that cannot be gone on from."""
    if "training" not in checkpoint:
        raise UserError(f"{path} holds finished adapters only; resume from the _last.ckpt beside it")
    own_name = checkpoint_paths(path.parent, checkpoint["mode"])[0].name
    if path.name != own_name:
        raise UserError(
            f"{path}: a resumed run continues in its own files; name it {own_name}, with its _best.ckpt beside it"
        )


def move_previous_run(output_dir: Path, mode: str) -> None:
    """Move what an earlier run of this mode left in `output_dir` to previous_<date>_<n>: a voice is never overwritten.

    What runs of other modes left stays; spk2info.pt, which all share, is copied. There is one samples/ for all modes,
    so it makes room for the new run's, and one evaluation/, which goes with the newest run.
    """
    logs, samples = output_dir / "joint_logs" / mode, output_dir / "samples"
    names = [*checkpoint_paths(Path(), mode), kept_path(Path(), mode, None), *merged_paths(Path(), mode).values()]
    own = [path for name in [*map(str, names), f"joint_{mode}.png"] for path in sorted(output_dir.glob(name))]
    own += [logs] if logs.exists() else []
    title, shared = "run", [output_dir / name for name in (VOICES, MANIFEST)]
    if not own:
        title, shared = "run's samples", []
    elif runs_in(output_dir)[-1:] in ([], [checkpoint_paths(output_dir, mode)[0]]):
        own += [path for path in [output_dir / EVALUATION] if path.exists()]
    if samples.exists() and (own or (samples / SAMPLE_TEXTS).exists()):
        own.append(samples)
    if own:
        with replacing([output_dir]):  # or a merge could write half of a pair there
            move_aside(own, output_dir, title, [path for path in shared if path.exists()])
            forget_missing(output_dir)
