"""State of a training run: what changes while training, how it is saved, resumed and moved aside, and when it stops."""

import math
import random
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audition import CANDIDATES, Audition, Choice, Hearing, judged_sentences, why_out
from checkpoint import (
    FORMAT,
    best_beside,
    checkpoint_config,
    checkpoint_paths,
    kept_path,
    load_checkpoint,
    merged_paths,
)
from config import JointConfig, UserError, to_dict
from cosyvoice.cli.cosyvoice import VOICES
from dataset import Clip, clips_per_step, hold_out
from distributed import from_writer, is_writer
from llm_flow_model import JointModel, autocast
from lora import adapter_parameters, adapter_state_dict, load_adapter
from utils import save_torch, user_mistakes

# What a run leaves in its output directory, and moves aside when the next one starts there.
RUN_FILES = (
    "joint_*_last.ckpt",
    "joint_*_best.ckpt",
    "joint_*_epoch*.ckpt",
    *(path.name for path in merged_paths(Path(), "*").values()),
    VOICES,
    "joint_logs",
    "samples",
)


HEARING_SHARE = 0.15  # of the time, without what the verdict alone needs; more where a part stops early


def epoch_groups(n_clips: int, epoch: int, config: JointConfig) -> list[list[int]]:
    """Clip numbers of one epoch, a group for each optimizer step; the order depends on seed and epoch."""
    order = list(range(n_clips))
    random.Random(f"{config.seed}/{epoch}").shuffle(order)
    size = clips_per_step(config)
    return [order[start : start + size] for start in range(0, n_clips, size)]


def lr_at(step: int, total_steps: int, config: JointConfig) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up over a share of the run, then a cosine."""
    warmup = max(1, round(config.warmup_ratio * total_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    share = config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def loss_weight(config: JointConfig, part: str) -> float:
    """How much a part's raw loss counts."""
    return config.llm_loss_weight if part == "llm" else config.flow_loss_weight


@dataclass
class Part:
    """One trained half ("llm" or "flow") and how it is doing; losses are raw means."""

    name: str
    base_loss: float = math.nan  # on the training clips, before the first step
    base_held_out: float = math.nan  # on the held-out clips, before the first step
    last_loss: float = math.nan  # mean of the last epoch
    best_loss: float = math.nan  # lowest on held-out clips (training mean where none are held out)
    best_epoch: int = 0
    choice: Choice = field(default_factory=Choice)  # what gets merged
    stale_epochs: int = 0
    stopped: str = ""  # why it is no longer trained

    def reached(self, config: JointConfig) -> bool:
        """Whether training brought the loss down to where the part stops."""
        threshold = config.stop.loss(self.name)
        return threshold > 0 and self.last_loss <= threshold

    def why_stop(self, config: JointConfig) -> str:
        """Reason to stop training this part, "" for none."""
        threshold, patience = config.stop.loss(self.name), config.stop.patience
        if threshold and self.base_loss <= threshold:
            return f"the base model's loss {self.base_loss:.3f} is already below stop.{self.name}_loss = {threshold:g}"
        if self.reached(config):
            return f"loss {self.last_loss:.3f} reached stop.{self.name}_loss = {threshold:g}"
        if patience and self.stale_epochs >= patience:
            return f"no improvement for {self.stale_epochs} epochs (stop.patience)"
        return ""


@dataclass
class Run:
    """Everything that changes while training; what `save` writes and `restore` reads."""

    config: JointConfig
    device: torch.device
    model: JointModel
    dtype: torch.dtype
    train_clips: list[Clip]
    held_out: list[Clip]
    token_rate_hz: int
    output_dir: Path
    identity: dict[str, Any]  # run id, fingerprints and speaker: written into every checkpoint
    parts: dict[str, Part]
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    batch_frames: dict[str, int]  # part -> most positions (LLM) or frames (flow) in a forward pass
    best_adapters: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)  # one row an epoch
    epoch: int = 0  # epochs completed
    group: int = 0  # optimizer steps completed in this epoch
    step: int = 0  # optimizer steps completed
    sums: dict[str, list[float]] = field(default_factory=dict)  # part -> [sum of losses, count] of this epoch
    bad_steps: int = 0
    audition: Audition | None = None  # None: nobody listens
    hearings: list[dict[str, Any]] = field(default_factory=list)  # {"epoch", "figures"}, the base first
    hear_every: int = 0  # epochs; 0: not settled yet, or never
    spent_sec: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "hearing": 0.0})
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def last_path(self) -> Path:
        return checkpoint_paths(self.output_dir, self.config.training_mode)[0]

    @property
    def best_path(self) -> Path:
        return checkpoint_paths(self.output_dir, self.config.training_mode)[1]

    @property
    def result_paths(self) -> list[Path]:
        """The merged files and the voice."""
        return [*merged_paths(self.output_dir, self.config.training_mode).values(), self.output_dir / VOICES]

    @property
    def active(self) -> list[Part]:
        """Parts that are still trained."""
        return [part for part in self.parts.values() if not part.stopped]

    @property
    def by_sound(self) -> bool:
        """Whether what gets merged is chosen by its sound; else by the held-out loss."""
        return self.audition is not None and self.config.select_by == "audio"

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose epochs by; if not, the last one is merged."""
        return bool(self.held_out) or self.by_sound

    @property
    def total_steps(self) -> int:
        return math.ceil(len(self.train_clips) / clips_per_step(self.config)) * self.config.max_epochs

    def autocast(self) -> AbstractContextManager:
        """Forward passes run in `dtype` inside it."""
        return autocast(self.device, self.dtype)

    def measure(self, part: Part, clips: Iterable[Clip], adapters: bool = True) -> float:
        """Raw mean loss of a part over whole clips, with the adapters or of the base; see `JointModel.measure`."""
        return self.model.measure(part.name, clips, self.device, self.autocast(), adapters)


def make_run(
    config: JointConfig,
    device: torch.device,
    model: JointModel,
    dtype: torch.dtype,
    batch_frames: dict[str, int],
    clips: list[Clip],
    output_dir: Path,
    token_rate_hz: int,
    identity: dict[str, Any],
) -> Run:
    """A run before its first step."""
    with user_mistakes():
        count = None if config.validation_clips == "auto" else int(config.validation_clips)
        train_clips, held_out = hold_out(clips, config.seed, count)
    optimizers = {
        name: torch.optim.AdamW(
            adapter_parameters(model.part(name)),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        for name in config.trained_parts
    }
    return Run(
        config=config,
        device=device,
        model=model,
        dtype=dtype,
        train_clips=train_clips,
        held_out=held_out,
        token_rate_hz=token_rate_hz,
        output_dir=output_dir,
        identity=identity,
        parts={name: Part(name) for name in config.trained_parts},
        optimizers=optimizers,
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        batch_frames=batch_frames,
        hear_every=0 if config.eval_every_epochs == "auto" else int(config.eval_every_epochs),
    )


# ---- stopping -------------------------------------------------------------------------------------------------------


def note_best(run: Run, part: Part, loss: float) -> bool:
    """Note whether a part's judged loss is the lowest so far; keep its adapter where that is what decides."""
    if not loss >= part.best_loss and math.isfinite(loss):  # a first loss beats the NaN of "none yet"
        part.best_loss, part.best_epoch, part.stale_epochs = loss, run.epoch, 0
        if not run.by_sound:
            keep(run, part)
        return True
    part.stale_epochs += 1
    return False


def keep(run: Run, part: Part) -> None:
    """The part as it stands is what gets merged, until a better one comes."""
    part.choice.epoch = run.epoch
    run.best_adapters[part.name] = adapter_state_dict(run.model.part(part.name))


def hearing_due(run: Run) -> bool:
    """Whether the voice is to be heard as it stands: base, every so many epochs, where a part stopped, at the end."""
    if run.audition is None or run.group:
        return False
    if not run.hearings:
        return True
    if run.hearings[-1]["epoch"] == run.epoch or not all(map(math.isfinite, run.history[-1].values())):
        return False
    stopped = any(part.stopped for part in just_trained(run))
    return bool(why_finished(run)) or stopped or bool(run.hear_every and run.epoch % run.hear_every == 0)


def just_trained(run: Run) -> list[Part]:
    """Parts that the last epoch trained; before the first, all."""
    return [part for part in run.parts.values() if not run.epoch or f"{part.name}_train" in run.history[-1]]


def note_heard(run: Run, hearing: Hearing) -> list[str]:
    """Store what was heard and keep the parts whose sound is the best so far; why others are out.

    What is heard first is the base, also where a run is resumed that nobody listened to before."""
    heard_epoch = run.epoch if run.hearings else 0
    run.hearings.append({"epoch": heard_epoch, "figures": hearing})
    if heard_epoch != run.epoch:
        return []
    base, outs = base_figures(run), []
    hearing = hearing if run.epoch else base
    for part in just_trained(run):
        loss = part.base_held_out if not run.epoch else run.history[-1].get(f"{part.name}_held_out", part.last_loss)
        real = run.audition.real_similarity
        if run.by_sound and part.choice.takes(run.epoch, hearing, base, part.name, loss, real):
            keep(run, part)
        if reason := why_out(hearing, base, part.name):
            outs.append(f"{part.name} is out: {reason}")
    return outs


def base_figures(run: Run) -> Hearing:
    """How the base said the sentences by which epochs are judged."""
    base = run.hearings[0]["figures"]
    return [base[number] for number in judged_sentences(base)]


def settle_interval(run: Run, epoch_sec: float) -> None:
    """How often the voice is heard where the settings leave it open: so that judging epochs takes HEARING_SHARE.

    The time is reckoned as if all epochs took as long as the first."""
    sentence_sec = run.spent_sec["hearing"] / len(run.hearings[0]["figures"])  # of the base
    judged = len(base_figures(run))
    surely = 2 * CANDIDATES + judged  # the base, what is merged, and the last epoch
    affordable = HEARING_SHARE * epoch_sec * run.config.max_epochs / max(sentence_sec, 1e-9) - surely
    run.hear_every = math.ceil(run.config.max_epochs / max(1, affordable // judged))


def why_finished(run: Run) -> str:
    """Reason why the whole run is over, "" while it is not."""
    stopped = [part for part in run.parts.values() if part.stopped]
    if len(stopped) == len(run.parts):
        return "; ".join(f"{part.name}: {part.stopped}" for part in stopped)
    if run.config.stop.rule == "any" and any(part.reached(run.config) for part in stopped):
        return "; ".join(f"{part.name}: {part.stopped}" for part in stopped) + " (stop.rule = any)"
    return f"max_epochs = {run.config.max_epochs}" if run.epoch >= run.config.max_epochs else ""


DECIDED = ("parts", "epoch", "group", "sums", "history", "hear_every")  # fields that the writer settles


def follow_writer(run: Run) -> None:
    """Every process goes on from what the writer measured, heard and decided."""
    for name, value in from_writer({name: getattr(run, name) for name in DECIDED}).items():
        setattr(run, name, value)


# ---- saving and resuming ---------------------------------------------------------------------------------------------


def save_last(run: Run) -> None:
    """`_last.ckpt`: all that a resumed run needs to equal the unbroken one."""
    training = {
        "optimizers": {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()},
        "scaler": run.scaler.state_dict(),
        "parts": {name: asdict(part) for name, part in run.parts.items()},
        "group": run.group,
        "sums": run.sums,
        "bad_steps": run.bad_steps,
        "history": run.history,
        "hearings": run.hearings,
        "hear_every": run.hear_every,
        "spent_sec": run.spent_sec,
    }
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
    save_torch({**header(run), "adapters": adapters}, kept_path(run.output_dir, run.config.training_mode, run.epoch))


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
    training = checkpoint["training"]
    for name, adapter in checkpoint["adapters"].items():
        load_adapter(run.model.part(name), adapter, str(path))
        load_moments(run.optimizers[name], training["optimizers"][name])
        state = training["parts"][name]
        run.parts[name] = Part(**{**state, "choice": Choice(**state.get("choice", {}))})
        run.parts[name].stopped = run.parts[name].why_stop(run.config)
    if training["scaler"]:  # empty where the run had none: it then starts with a fresh one
        run.scaler.load_state_dict(training["scaler"])
    run.epoch, run.step = checkpoint["epoch"], checkpoint["step"]
    run.history, run.bad_steps = training["history"], training["bad_steps"]
    run.hearings = training.get("hearings", [])
    if run.config.eval_every_epochs == "auto":
        run.hear_every = training.get("hear_every", 0)
    run.spent_sec = dict(training.get("spent_sec", run.spent_sec))
    if clips_per_step(checkpoint_config(checkpoint, path)) == clips_per_step(run.config):
        run.group, run.sums = training["group"], training["sums"]  # else the epoch is begun again in its new groups
    if run.chooses and is_writer():
        restore_best(run, best_beside(path))


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """What the optimizer remembers of earlier steps, and not its settings: those may change where a run is resumed."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


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
        keep(run, part)
    save_best(run)


def check_resumable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """UserError for a checkpoint that cannot be gone on from."""
    if "training" not in checkpoint:
        raise UserError(f"{path} holds finished adapters only; resume from the _last.ckpt beside it")
    own_name = checkpoint_paths(path.parent, checkpoint["mode"])[0].name
    if path.name != own_name:
        raise UserError(
            f"{path}: a resumed run goes on in its own files; name it {own_name}, with its _best.ckpt beside it"
        )


def move_previous_run(output_dir: Path) -> None:
    """Move what an earlier run left in `output_dir` to previous_<date>_<n>: a voice is never overwritten."""
    found = [path for pattern in RUN_FILES for path in sorted(output_dir.glob(pattern))]
    if not any(path.suffix == ".ckpt" or "_merged_" in path.name for path in found):
        return
    date, number = time.strftime("%Y-%m-%d"), 1
    while (target := output_dir / f"previous_{date}_{number}").exists():
        number += 1
    try:
        target.mkdir()
        for path in found:
            shutil.move(path, target / path.name)
    except OSError as error:
        raise UserError(f"cannot move the earlier run to {target}: {error.strerror}; move it yourself") from error
    print(f"{output_dir} held an earlier run; it is now in {target}", flush=True)
