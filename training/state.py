"""State of a training run, its schedule, and when a part stops."""

import math
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from checkpoint import checkpoint_paths, merged_paths
from config import JointConfig
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.common import InputError
from cosyvoice.utils.records import limited, read_record
from dataset import Clip, clips_per_step, split_by
from llm_flow_model import Adapter, JointModel, autocast
from lora import adapter_parameters, adapter_state_dict
from training.audition import Audition
from training.distributed import from_writer
from training.selection import Choice, Heard, judged_sentences
from utils import user_mistakes
from voice.evaluation import Figures


def epoch_groups(n_clips: int, epoch: int, config: JointConfig) -> list[list[int]]:
    """Clip numbers of one epoch, a group for each optimizer step; the order depends on seed and epoch."""
    order = list(range(n_clips))
    random.Random(f"{config.seed}/{epoch}").shuffle(order)
    size = clips_per_step(config)
    return [order[start : start + size] for start in range(0, n_clips, size)]


def lr_at(step: int, total_steps: int, config: JointConfig) -> float:
    """Learning rate of step `step` (from 0) of a run: linear warm-up over a share of the run, then a cosine."""
    warmup = max(1, round(config.warmup_ratio * total_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    share = config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def loss_weight(config: JointConfig, part: str) -> float:
    """How much a part's raw loss counts."""
    return config.llm_loss_weight if part == "llm" else config.flow_loss_weight


def stop_loss(config: JointConfig, part: str) -> float:
    """Raw loss at which a part stops; 0 = never."""
    return config.stop.llm_loss if part == "llm" else config.stop.flow_loss


def stops_at(config: JointConfig, part: str) -> str:
    """The same in words."""
    threshold = stop_loss(config, part)
    return f"stops at {threshold:g}" if threshold else "no loss stops it"


@dataclass(frozen=True)
class Origin:
    """What a run starts from and is compared with, in words."""

    short: str
    name: str
    alike: str  # of a part that is merged so


BASE = Origin("base", "base model", "as in the base model")
START = Origin("start", "start", "as at the start")  # of a run that goes on from the adapters of another one


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
    barred: str = ""  # why it is not to be trained, found out by listening to the base
    left_out: str = ""  # why it is merged as in the base although an epoch sounded better
    stale_epochs: int = 0
    stopped: str = ""  # why it is no longer trained

    def reached(self, config: JointConfig) -> bool:
        """Whether training brought the loss down to where the part stops."""
        threshold = stop_loss(config, self.name)
        return threshold > 0 and self.last_loss <= threshold

    def why_stop(self, config: JointConfig, origin: Origin = BASE) -> str:
        """Reason to stop training this part, "" for none."""
        threshold, patience = stop_loss(config, self.name), config.stop.patience
        if self.barred:
            return self.barred
        if threshold and self.base_loss <= threshold:
            before = f"the {origin.name}'s loss {self.base_loss:.3f}"
            return f"{before} is already below stop.{self.name}_loss = {threshold:g}"
        if self.reached(config):
            return f"loss {self.last_loss:.3f} reached stop.{self.name}_loss = {threshold:g}"
        judged = math.isfinite(self.base_held_out)  # a training loss alone goes up and down with what is drawn
        if patience and judged and self.stale_epochs >= patience:
            return f"no improvement for {self.stale_epochs} epochs (stop.patience)"
        return ""


@dataclass(kw_only=True)
class Progress:
    """How far a run is, all but its tensors: `_last.ckpt` holds it, and every process goes on from the writer's."""

    parts: dict[str, Part]
    epoch: int = 0  # epochs completed
    group: int = 0  # optimizer steps completed in this epoch
    step: int = 0  # optimizer steps completed
    sums: dict[str, list[float]] = field(
        default_factory=dict, metadata={"finite": False}
    )  # part -> [sum of losses, count] of this epoch
    bad_steps: int = 0  # in a row, up to now
    history: list[dict[str, float]] = field(default_factory=list, metadata={"finite": False})  # one row an epoch
    hearings: list[Heard] = field(default_factory=list)  # the base first
    texts: list[str] = field(default_factory=list)  # that the base spoke
    own_hz: float | None = limited(None, low=1, high=10_000)  # the speaker's pitch, where recordings told it
    hear_every: int = 0  # epochs; 0: not settled yet, or never
    kept: list[int] = field(default_factory=list)  # epochs whose adapters `keep_epochs` keeps
    sentences_heard: int = 0
    spent_sec: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "hearing": 0.0})

    @property
    def progress(self) -> dict[str, Any]:
        """Its fields by name, of a run too."""
        return {item.name: getattr(self, item.name) for item in fields(Progress)}

    @property
    def whole(self) -> bool:
        """Whether the adapters are those of a completed epoch, and not on their way through the next one."""
        return self.step == (self.history[-1].get("step", self.step) if self.history else 0)

    def go_on_from(self, progress: Mapping[str, Any]) -> None:
        """Take over the fields that are given."""
        for name, value in progress.items():
            setattr(self, name, value)


def to_plain(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Progress as plain data, as checkpoints hold it."""
    return asdict(Progress(**progress))


def from_plain(data: Mapping[str, Any], config: JointConfig, where: str) -> dict[str, Any]:
    """The fields of a Progress in plain data, which may lack some and hold more; InputError for a wrong value."""
    progress = read_record(Progress, data, where)
    parts = {name: progress.parts[name] for name in config.trained_parts}
    heard, base = progress.hearings, progress.hearings[:1]
    wrong = [
        ("a part has the name of the other", any(part.name != name for name, part in parts.items())),
        ("an epoch that was heard has no sentence", not all(hearing.figures for hearing in heard)),
        ("a figure is divided by 0", not all(b > 0 for one in heard for all_ in one.figures for _, b in all_.values())),
        ("a sum of losses has no count", not all(len(sum_) == 2 and sum_[1] > 0 for sum_ in progress.sums.values())),
        ("the base spoke other texts", bool(base and progress.texts) and len(base[0].figures) != len(progress.texts)),
        ("a time is missing", not {"training", "hearing"} <= set(progress.spent_sec)),
    ]
    for words, found in wrong:
        if found:
            raise InputError(f"{where}: {words}; the file was changed or is damaged, take another checkpoint")
    return {**{name: getattr(progress, name) for name in vars(progress) if name in data}, "parts": parts}


@dataclass(kw_only=True)
class Run(Progress):
    """A run from its first step to its last: what it trains on and with, and how far it is."""

    config: JointConfig
    device: torch.device
    model: JointModel
    dtype: torch.dtype
    train_clips: list[Clip]
    held_out: list[Clip]
    token_rate_hz: int
    output_dir: Path
    identity: dict[str, Any]  # run id, fingerprints and speaker: written into every checkpoint
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    batch_frames: dict[str, int]  # part -> most positions (LLM) or frames (flow) in a forward pass
    best_adapters: dict[str, Adapter] = field(default_factory=dict)
    chosen_by: str = ""  # the criterion that chose them
    audition: Audition | None = None  # None: nobody listens
    step_sec: deque[float] = field(default_factory=lambda: deque(maxlen=20))  # how long the last steps took
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def last_path(self) -> Path:
        return checkpoint_paths(self.output_dir, self.config.training_mode)[0]

    @property
    def best_path(self) -> Path:
        return checkpoint_paths(self.output_dir, self.config.training_mode)[1]

    @property
    def chosen_path(self) -> Path:
        """The checkpoint that gets merged: the last where there is nothing to choose by."""
        return self.best_path if self.chooses else self.last_path

    @property
    def result_paths(self) -> list[Path]:
        """The merged files and the voice."""
        return [*merged_paths(self.output_dir, self.config.training_mode).values(), self.output_dir / VOICES]

    @property
    def active(self) -> list[Part]:
        """Parts that are still trained."""
        return [part for part in self.parts.values() if not part.stopped]

    @property
    def judged(self) -> list[int]:
        """Numbers of the sentences by which epochs are judged; the base must have been heard."""
        return judged_sentences(self.hearings[0].figures)

    @property
    def judged_base(self) -> list[Figures]:
        """How the base said them."""
        return [self.hearings[0].figures[number] for number in self.judged]

    @property
    def by_sound(self) -> bool:
        """Whether what gets merged is chosen by its sound; else by the held-out loss."""
        return self.audition is not None and self.config.select_by == "audio"

    @property
    def criterion(self) -> str:
        """By what the epoch that gets merged is chosen, in the words of select_by; "": the last one is merged."""
        return "audio" if self.by_sound else "val_loss" if self.held_out else ""

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose epochs by."""
        return bool(self.criterion)

    @property
    def origin(self) -> Origin:
        """What the run starts from and is compared with."""
        return START if self.model.start else BASE

    @property
    def untrained_adapters(self) -> dict[str, Adapter]:
        """{part: adapter} of parts that stay as they are in the checkpoint that the run started from."""
        return {name: adapter for name, adapter in self.model.start.items() if name not in self.parts}

    def current_adapters(self) -> dict[str, Adapter]:
        """{part: adapter} of the voice as it stands."""
        return self.untrained_adapters | {name: adapter_state_dict(self.model.part(name)) for name in self.parts}

    def starting_adapter(self, part: Part) -> Adapter:
        """What a part started from; zeros where that was the base."""
        own = adapter_state_dict(self.model.part(part.name))
        return self.model.start.get(part.name) or {name: torch.zeros_like(value) for name, value in own.items()}

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_clips) / clips_per_step(self.config))

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.max_epochs

    @property
    def place(self) -> int:
        """Of `total_steps`, those that are done. Differs from `step` where a run was resumed with larger or smaller
        steps."""
        return self.epoch * self.steps_per_epoch + self.group

    def follow_writer(self) -> None:
        """Every process goes on from what the writer measured, heard and decided."""
        self.go_on_from(from_writer(self.progress))

    def autocast(self) -> AbstractContextManager:
        """Forward passes run in `dtype` inside it."""
        return autocast(self.device, self.dtype)

    def measure(self, part: Part, clips: Iterable[Clip], adapters: bool = True) -> float:
        """Raw mean loss of a part over whole clips, as it is or as it started; see `JointModel.measure`."""
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
        train_clips, held_out = split_by(config, clips)
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
