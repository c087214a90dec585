"""What a training run leaves on disk: checkpoints to resume from and to merge, and earlier runs moved aside."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoint import (
    FORMAT,
    checkpoint_config,
    checkpoint_paths,
    kept_path,
    load_checkpoint,
    merged_bytes,
    merged_paths,
    runs_in,
)
from common.files import dispensable, move_aside, save_torch
from common.manifest import MANIFEST, forget_missing, replacing
from config import JointConfig, UserError, to_dict
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.common import InputError
from cosyvoice.utils.records import limited, read_record, read_value
from dataset import Clip, clips_per_step
from llm_flow_model import Adapter
from lora import adapter_parameters, adapter_state_dict, load_adapter
from training.audition import read_texts
from training.decisions import as_started, choose_by_loss, last_trained, loss_of, why_finished
from training.distributed import from_writer, is_writer
from training.selection import Choice
from training.state import Run, from_plain, to_plain
from utils import user_mistakes
from voice.evaluation import EVALUATION

SAMPLE_TEXTS = "sentences.txt"  # in samples/: training wrote them
SAMPLES_BYTES = 2**26  # what was heard, and the logs
FINGERPRINT = 16  # letters of a clip's fingerprint that tell it from others


def disk_bytes(run: Run, model_dir: Path) -> int:
    """What a run may write at most; opens the base's files to count."""
    adapters = [parameter for name in run.parts for parameter in adapter_parameters(run.model.part(name))]
    size = sum(parameter.nbytes for parameter in adapters)
    epochs, every, spread = run.config.max_epochs, run.config.keep_every_epochs, run.config.keep_epochs
    kept = min(epochs, spread + 1) * bool(spread) + (epochs // every if every else 0)  # a new one comes before one goes
    copies = 2 * 3 + 1 + kept  # _last with two moments, and the next one in the making; _best; those kept
    start = [value for adapter in run.model.start.values() for value in adapter.values()]
    unchanged = (3 + kept) * sum(value.nbytes for value in start)  # in each of them
    return merged_bytes(model_dir) + copies * size + unchanged + SAMPLES_BYTES


def save_last(run: Run) -> None:
    """`_last.ckpt`: all that a resumed run needs to equal the unbroken one."""
    optimizers = {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()}
    training = {"optimizers": optimizers, "scaler": run.scaler.state_dict(), **to_plain(run.progress)}
    start = {name: adapter for name, adapter in run.model.start.items() if name in run.parts}
    adapters = {"adapters": run.current_adapters(), "start_adapters": start}
    save_torch({**header(run), **adapters, "training": training}, run.last_path)
    run.saved_at = time.monotonic()


def save_best(run: Run) -> None:
    """`_best.ckpt`: for each part the adapter that was best by its sound, or on the held-out clips, and why."""
    epochs = {name: part.choice.epoch for name, part in run.parts.items()}
    choices = {name: {**asdict(part.choice), "left_out": part.left_out} for name, part in run.parts.items()}
    chosen = {"best_epochs": epochs, "chosen_by": run.chosen_by, "choices": choices}
    save_torch({**header(run), "adapters": run.untrained_adapters | run.best_adapters, **chosen}, run.best_path)


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


def fingerprints(clips: Iterable[Clip]) -> list[str]:
    """What tells clips from others, short enough to be noted for each."""
    return [clip.fingerprint[:FINGERPRINT] for clip in clips]


def restore(run: Run, checkpoint: Mapping[str, Any], path: Path) -> bool:
    """Continue `run` where `checkpoint` was written; whether what it had chosen stands."""
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
    if run.whole:  # an epoch that was begun is completed first
        for part in run.parts.values():
            part.stopped = part.why_stop(run.config, run.origin)
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
    return from_writer(not is_writer() or restore_choice(run, stored))


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


def restore_choice(run: Run, stored: JointConfig) -> bool:
    """Take up what was chosen so far; False where it is chosen anew, by another criterion or for want of its file.

    By held-out loss that is done here; by the sound as soon as the voice can be heard. stored: settings until now."""
    by_sound = bool(stored.eval_every_epochs) and stored.select_by == "audio" and bool(run.hearings)
    best = read_best(run)
    if best is None:
        run.chosen_by = ""
        for part in run.parts.values():
            as_started(run, part)
        if run.chooses and (run.held_out or by_sound):
            print(f"warning: without {run.best_path} the best epoch is looked for again, of those at hand", flush=True)
    else:
        take_up_choice(run, best, "audio" if by_sound else "val_loss")
    if run.chosen_by == run.criterion:
        return True
    save_last(run)  # with the criterion in force, and not as merged: killed from here on, the run is not finished
    if run.criterion == "val_loss":
        choose_by_loss(run, candidates(run))
        save_best(run)
        print(f"epochs at hand are compared by their held-out loss from now on: {chosen_words(run)}", flush=True)
    elif not run.chooses:
        move_aside([run.best_path], run.output_dir, "choice of epochs, by their sound")
    return False


def read_best(run: Run) -> dict[str, Any] | None:
    """`_best.ckpt` of this run; None where it is missing, damaged or another run's, which is then moved aside."""
    try:
        best = load_checkpoint(run.best_path) if run.best_path.exists() else None
    except UserError as error:
        print(f"warning: {error}", flush=True)
        best = None
    if best is not None and best["run_id"] != run.identity["run_id"]:
        print(f"warning: {run.best_path} is another run's", flush=True)
        move_aside([run.best_path], run.output_dir, "run")
        return None
    return best


def take_up_choice(run: Run, best: Mapping[str, Any], criterion: str) -> None:
    """What `_best.ckpt` says; `_last.ckpt` may be older. Earlier versions noted the epochs alone.

    criterion: by which those have chosen."""
    run.chosen_by = best.get("chosen_by", criterion)
    run.best_adapters = {name: dict(best["adapters"][name]) for name in run.parts}
    for name, part in run.parts.items():
        noted = best.get("choices", {}).get(name)
        part.choice.epoch = best["best_epochs"][name]
        if noted is not None:
            where = f"{run.best_path}: choices.{name}"
            with user_mistakes():
                part.choice = read_record(Choice, noted, where)
                part.left_out = read_value(str, noted.get("left_out", ""), where, {})
        elif run.chosen_by == "val_loss":
            part.choice.loss = loss_of(run, part, part.choice.epoch, run.best_adapters[name])


def candidates(run: Run) -> dict[str, dict[int, Adapter]]:
    """{part: {epoch: adapter}} of all epochs at hand: the chosen one, those that were kept, and the newest."""
    found: dict[str, dict[int, Adapter]] = {name: {} for name in run.parts}
    for path in sorted(run.output_dir.glob(kept_path(Path(), run.config.training_mode, None).name)):
        with dispensable("it is left out"):
            kept = load_checkpoint(path)
            if kept["run_id"] == run.identity["run_id"] and kept["epoch"] <= run.epoch:
                for name, epoch in kept["best_epochs"].items():
                    found[name][epoch] = kept["adapters"][name]
    for name, part in run.parts.items():
        found[name][part.choice.epoch] = run.best_adapters[name]
        if run.whole:
            found[name][last_trained(run, part)[0]] = adapter_state_dict(run.model.part(name))
        found[name].pop(0, None)  # the start is compared with, always
    return found


def chosen_words(run: Run) -> str:
    """ "llm epoch 4 (1.063), flow as in the base model (2.034)"."""
    words = []
    for part in run.parts.values():
        which = f"epoch {part.choice.epoch}" if part.choice.epoch else run.origin.alike
        words.append(f"{part.name} {which} ({part.choice.loss:.3f})")
    return ", ".join(words)


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
