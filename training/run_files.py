"""What a training run leaves on disk: checkpoints to resume from and to merge, and earlier runs moved aside."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from checkpoint import (
    FORMAT,
    best_beside,
    checkpoint_config,
    checkpoint_paths,
    kept_path,
    load_checkpoint,
    merged_bytes,
    merged_paths,
)
from common.files import move_aside, save_torch
from config import UserError, to_dict
from cosyvoice.cli.cosyvoice import VOICES
from dataset import clips_per_step
from lora import adapter_parameters, adapter_state_dict, load_adapter
from training.audition import read_texts
from training.decisions import keep, last_trained, race_by_loss, why_finished
from training.distributed import is_writer
from training.selection import Choice
from training.state import Run, from_plain, to_plain
from voice.evaluation import EVALUATION

# What a run leaves in its output directory, and moves aside when the next one starts there.
RUN_FILES = (
    *(path.name for path in checkpoint_paths(Path(), "*")),
    kept_path(Path(), "*", None).name,
    *(path.name for path in merged_paths(Path(), "*").values()),
    VOICES,
    "joint_logs",
    "samples",
    EVALUATION,
    "joint_*.png",  # of plot_joint.py
)
SAMPLES_BYTES = 2**26  # what was heard, and the logs


def disk_bytes(run: Run, model_dir: Path) -> int:
    """What a run may write at most; opens the base's files to count."""
    adapters = [parameter for name in run.parts for parameter in adapter_parameters(run.model.part(name))]
    size = sum(parameter.nbytes for parameter in adapters)
    epochs, every, spread = run.config.max_epochs, run.config.keep_every_epochs, run.config.keep_epochs
    kept = min(epochs, spread + 1) * bool(spread) + (epochs // every if every else 0)  # a new one comes before one goes
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
    for name, adapter in checkpoint["adapters"].items():
        load_adapter(run.model.part(name), adapter, str(path))
        load_moments(run.optimizers[name], training["optimizers"][name])
    if training["scaler"]:  # empty where the run had none: it then starts with a fresh one
        run.scaler.load_state_dict(training["scaler"])
    run.go_on_from({**from_plain(training), "epoch": checkpoint["epoch"], "step": checkpoint["step"]})
    for part in run.parts.values():
        part.stopped = part.why_stop(run.config)
    if run.audition is not None and run.texts:  # the list may have changed since
        run.audition.texts = read_texts(run.texts, run.audition.frontend)
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
    if best["run_id"] == run.identity["run_id"]:
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


def move_previous_run(output_dir: Path) -> None:
    """Move what an earlier run left in `output_dir` to previous_<date>_<n>: a voice is never overwritten."""
    found = [path for pattern in RUN_FILES for path in sorted(output_dir.glob(pattern))]
    if not any(path.suffix == ".ckpt" or "_merged_" in path.name for path in found):
        return
    move_aside(found, output_dir, "run")
