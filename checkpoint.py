"""What a training checkpoint holds, and how it becomes model files that stock CosyVoice opens.

A checkpoint is a few tens of MB: adapters, settings, fingerprints of base model and data, the speaker; `_last` also has
the optimizer's state. It never holds base weights.
"""

import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.files import MAX_NAME, moved_words, require_listable, unfinished, write_torch
from common.manifest import replace_together, replacing
from common.terminal import shown
from config import MODES, JointConfig, UserError, from_dict, text_problem
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.common import InputError
from cosyvoice.utils.files import not_a_file
from cosyvoice.utils.records import limited, read_record, read_value
from cosyvoice.utils.weights import (
    VOICE_NAME,
    DamagedFile,
    VoiceRecord,
    damage,
    file_fingerprint,
    is_zip,
    load_state_dict_file,
    read_spk2info,
    read_torch,
    speaker_embedding,
)
from cosyvoice.utils.yaml_loader import require_files
from lora import check_adapter, merge_adapter
from text.normalizer import DEFAULT, NORMALIZERS
from utils import command_line, user_mistakes

FORMAT = 1
MOST_NAMED = 3  # other checkpoints in a message
LARGEST_WEIGHT = 1e6  # magnitude; those of the released models stay below 100
PARTS = ("llm", "flow")
BASE_FILES = tuple(f"{part}.pt" for part in PARTS)  # that adapters are made for
REQUIRED = ("format", "run_id", "mode", "config", "base", "data", "speaker", "adapters", "epoch", "step")


@dataclass(frozen=True, kw_only=True)
class Speaker(VoiceRecord):
    """The voice that a run trains."""

    name: str = limited(**VOICE_NAME)
    text_normalizer: str = limited(DEFAULT, choices=tuple(NORMALIZERS))


@dataclass(frozen=True)
class PartState:
    """What is read of a part's training to tell of which epoch its adapter is."""

    stopped: str = ""


@dataclass(frozen=True)
class Training:
    """The same of the whole run; `training.state.from_plain` reads the rest."""

    parts: dict[str, PartState]
    history: list[dict[str, float]] = limited(finite=False)
    group: int = limited()


@dataclass(frozen=True)
class StartedFrom:
    """The epoch of another run that a part started from, or was left as."""

    file: str = limited(longest=MAX_NAME)  # name of its checkpoint
    epoch: int = limited()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What every reader may rely on; later versions may write more."""

    run_id: str = limited(longest=100)
    mode: str = limited(choices=MODES)
    config: dict[str, Any]
    base: dict[str, str]  # file name -> SHA-256
    data: str
    speaker: Speaker
    adapters: dict[str, dict[str, Tensor]]  # part -> `<layer>.lora_A` and `.lora_B`
    epoch: int
    step: int
    best_epochs: dict[str, int] | None = None
    merged_step: int | None = None
    training: Training | None = None
    start: dict[str, StartedFrom] = field(default_factory=dict)  # part -> where a run with --init-from took it from
    start_adapters: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # of the parts that are trained on
    chosen_by: str = limited("", choices=("", "audio", "val_loss"))
    trained_on: list[str] = field(default_factory=list)  # the clips, by the start of their fingerprints
    row: dict[str, float] = field(default_factory=dict, metadata={"finite": False})  # a kept epoch's losses and scores

    def check(self, path: Path) -> None:
        """InputError where the values do not fit each other."""
        config = from_dict(self.config, str(path))
        parts = set(config.trained_parts)
        wrong = [
            (f"the speaker's name {text_problem(self.speaker.name)}", text_problem(self.speaker.name)),
            ("mode is not that of its config", config.training_mode != self.mode),
            ("base must name " + " and ".join(BASE_FILES), not set(BASE_FILES) <= set(self.base)),
            ("its adapters are not those of its mode", not parts <= set(self.adapters) <= set(PARTS)),
            ("best_epochs names other parts", self.best_epochs is not None and not parts <= set(self.best_epochs)),
            ("its start names other parts", not {*self.start, *self.start_adapters} <= set(PARTS)),
            ("training names other parts", self.training is not None and set(self.training.parts) != parts),
            ("its history is not that of its epochs", self.training is not None and not self.has_history()),
        ]
        for words, found in wrong:
            if found:
                raise InputError(f"{path}: {words}; the file was changed or is damaged, take another checkpoint")
        for kind, adapters in (("adapters", self.adapters), ("start_adapters", self.start_adapters)):
            for part, adapter in adapters.items():
                check_adapter(adapter, config.part(part), f"{path}: {kind}.{part}")

    def has_history(self) -> bool:
        """Whether the rows tell of epochs, the last one of the epoch that was completed last."""
        epochs = [row.get("epoch", math.nan) for row in self.training.history]
        return all(math.isfinite(epoch) and epoch >= 1 for epoch in epochs) and [self.epoch] == (epochs or [0])[-1:]


def checkpoint_paths(output_dir: Path, mode: str) -> tuple[Path, Path]:
    """(`_last.ckpt`, `_best.ckpt`) of a run; mode "*" makes patterns of them."""
    return output_dir / f"joint_{mode}_last.ckpt", output_dir / f"joint_{mode}_best.ckpt"


def kept_path(output_dir: Path, mode: str, epoch: int | None) -> Path:
    """Where the adapters of one epoch are kept; mode "*" and None for the epoch make a pattern."""
    return output_dir / f"joint_{mode}_epoch{'*' if epoch is None else f'{epoch:04d}'}.ckpt"


def best_beside(path: Path) -> Path:
    """The `_best.ckpt` that belongs to a `_last.ckpt`."""
    return path.with_name(path.name.replace("_last", "_best"))


def merged_paths(output_dir: Path, mode: str) -> dict[str, Path]:
    """{part: merged file} of a run; mode "*" makes patterns of them."""
    return {part: output_dir / f"{part}_merged_{mode}.pt" for part in PARTS}


def runs_in(output_dir: Path) -> list[Path]:
    """`_last.ckpt` of the runs in a folder, the newest last."""
    require_listable(output_dir)
    pattern = checkpoint_paths(output_dir, "*")[0].name
    return sorted(output_dir.glob(pattern), key=lambda path: path.stat().st_mtime)


def newest_run(output_dir: Path) -> Path:
    """`_last.ckpt` of the newest run in a folder; UserError where there is none."""
    found, pattern = runs_in(output_dir), checkpoint_paths(output_dir, "*")[0].name
    if not found:
        raise UserError(
            f"no checkpoint in {output_dir}; run: {command_line('train_joint.py', output_dir=output_dir)}, "
            f"or give the folder of a run with --output-dir{moved_words(output_dir, pattern)}"
        )
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, read without running code, every value of `Checkpoint` checked; other keys as they stand.

    UserError where it is something else, damaged, or does not fit itself."""
    if what := not_a_file(path):
        moved = moved_words(path.parent, glob.escape(path.name))
        raise UserError(f"checkpoint {path} is {what}; give a .ckpt file{moved}")
    try:
        with user_mistakes():
            data = read_torch(path, mapped=False)
    except UserError as error:
        reason = getattr(error.__cause__, "reason", "")
        if not reason:
            raise
        raise UserError(f"{path} is not a readable checkpoint: it {reason}; {other_checkpoints(path)}") from error
    missing = [key for key in REQUIRED if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(f"{path} is not a checkpoint of train_joint.py: it has no {', '.join(missing[:4])}")
    with user_mistakes():
        read_value(int, data["format"], f"{path}: format", {})
    if data["format"] != FORMAT:
        raise UserError(
            f"{path} has format {data['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    with user_mistakes():
        checkpoint = read_record(Checkpoint, data, str(path))
        checkpoint.check(path)
    tensors = {"adapters": checkpoint.adapters, "start_adapters": checkpoint.start_adapters}
    return {**data, **tensors, "speaker": vars(checkpoint.speaker)}


def other_checkpoints(path: Path) -> str:
    """What there is to use in place of a damaged checkpoint, in words; the newest first."""
    beside = (other for other in path.parent.glob("*.ckpt") if other != path and other.is_file())
    readable = (other for other in beside if is_zip(other) and not damage(other))
    whole = sorted(readable, key=lambda other: -other.stat().st_mtime)[:MOST_NAMED]
    if not whole:
        return "no other is beside it: copy it again, or train again"
    resumable = any(other.stem.endswith("_last") for other in whole)
    advice = ", or go on from one that ends in _last.ckpt with --resume" if resumable else ""
    return f"beside it, to merge or to speak with by --ckpt: {', '.join(map(str, whole))}{advice}"


def checkpoint_config(checkpoint: Mapping[str, Any], path: Path) -> JointConfig:
    """The settings that the run was started with."""
    return from_dict(checkpoint["config"], str(path))


def adapter_epochs(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """{trained part: the last epoch in which its adapter was trained}; 0 where it still is as the run started."""
    if checkpoint.get("best_epochs") is not None:  # `epoch` is then that of the run when it was saved
        return dict(checkpoint["best_epochs"])
    epochs = dict.fromkeys(checkpoint["adapters"], checkpoint["epoch"])
    if training := checkpoint.get("training"):
        epochs = {part: epoch for part, epoch in epochs.items() if part in training["parts"]}
        for part, state in training["parts"].items():
            if state["stopped"]:
                trained = [int(row["epoch"]) for row in training["history"] if f"{part}_train" in row]
                epochs[part] = max(trained, default=0)
            elif training["group"]:
                epochs[part] += 1  # within that epoch
    return epochs


def start_of(checkpoint: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """{part: {"file", "epoch"}} of the adapters in a checkpoint that a new run starts from, as its own will note it.

    A part that is as in the base is left out; one that this run did not train keeps where it came from."""
    own = {part: {"file": path.name, "epoch": epoch} for part, epoch in adapter_epochs(checkpoint).items() if epoch}
    return {**checkpoint.get("start", {}), **own}


def learned_parts(checkpoint: Mapping[str, Any]) -> list[str]:
    """Parts that a checkpoint makes other than the base model's."""
    epochs, start = adapter_epochs(checkpoint), checkpoint.get("start", {})
    return [part for part in PARTS if epochs.get(part) or part in start]


def epoch_words(checkpoint: Mapping[str, Any], parts: Iterable[str]) -> str:
    """ "llm as in the base model, flow epoch 12" or "llm epoch 7 of joint_joint_best.ckpt, flow epoch 12".

    parts: those that are named."""
    epochs, start = adapter_epochs(checkpoint), checkpoint.get("start", {})
    words = {part: "as in the base model" for part in parts}
    words |= {part: f"epoch {where['epoch']} of {where['file']}" for part, where in start.items() if part in words}
    words |= {part: f"epoch {epoch}" for part, epoch in epochs.items() if epoch and part in words}
    return ", ".join(f"{part} {where}" for part, where in words.items())


def strength_words(checkpoint: Mapping[str, Any], path: Path, lora_scale: float, parts: Sequence[str] = PARTS) -> str:
    """ " at strength 0.8" or " at strength llm 0.5, flow 1" of what these parts learned, "" for all of it."""
    config = checkpoint_config(checkpoint, path)
    trained = [part for part in learned_parts(checkpoint) if part in parts]
    strengths = {part: lora_scale * config.part(part).merge_scale for part in trained}
    if all(strength == 1 for strength in strengths.values()):
        return ""
    if len(set(strengths.values())) > 1 or len(trained) < len(parts):
        return " at strength " + ", ".join(f"{part} {strength:g}" for part, strength in strengths.items())
    return f" at strength {strengths[trained[0]]:g}"


def base_warning(checkpoint: Mapping[str, Any], path: Path) -> str:
    """What to say of a checkpoint that speaks as before its run, "" for any other."""
    if any(adapter_epochs(checkpoint).values()):
        return ""
    last = path.with_name(path.name.replace("_best", "_last"))
    trained = last != path and last.exists() and any(adapter_epochs(load_checkpoint(last)).values())
    newest = f"; the newest state: --ckpt {last}" if trained else ""
    like = f"as the start: {epoch_words(checkpoint, PARTS)}" if checkpoint.get("start") else "as the base model does"
    return f"warning: no epoch was chosen in {path}, so it speaks {like}{newest}"


def merged_bytes(model_dir: Path, parts: Iterable[str] = PARTS) -> int:
    """Disk space of the merged files, float32 whatever the base is stored in."""
    with user_mistakes():
        states = [load_state_dict_file(model_dir / f"{part}.pt") for part in parts]
    return 4 * sum(value.numel() for state in states for value in state.values())


def base_fingerprint(model_dir: Path) -> dict[str, str]:
    """SHA-256 of the two files that adapters are made for."""
    paths = [model_dir / name for name in BASE_FILES]
    with user_mistakes(), ThreadPoolExecutor() as threads:
        require_files(model_dir, [path.name for path in paths])
        return dict(zip((path.name for path in paths), threads.map(file_fingerprint, paths), strict=True))


def check_base(checkpoint: Mapping[str, Any], path: Path, fingerprint: Mapping[str, str], model_dir: Path) -> None:
    """UserError where a checkpoint was trained on another base model (merging would give noise)."""
    differing = [name for name, value in checkpoint["base"].items() if fingerprint.get(name) != value]
    if differing:
        for name in differing:
            if reason := damage(model_dir / name):
                raise UserError(f"{model_dir / name}: {reason}; download it again")
        raise UserError(
            f"{path} was trained on another {' and '.join(differing)} than {model_dir} holds; "
            "give the folder it was trained on with --model-dir"
        )


def bake_speaker(state: Mapping[str, Tensor], embedding: Tensor) -> dict[str, Tensor]:
    """`state` in which every speaker vector gives the voice of `embedding` (1, 192).

    spk_embed_affine_layer becomes weight 0, bias W e/|e| + b, for the LLM and the flow alike; other keys are untouched.
    """
    weight, bias = state["spk_embed_affine_layer.weight"], state["spk_embed_affine_layer.bias"]
    direction = F.normalize(embedding.reshape(1, -1).double(), dim=1)
    if direction.shape[1] != weight.shape[1]:
        raise UserError(f"the speaker vector has {direction.shape[1]} numbers, the model wants {weight.shape[1]}")
    baked = F.linear(direction, weight.double(), bias.double())[0].to(bias.dtype)
    return {
        **state,
        "spk_embed_affine_layer.weight": torch.zeros_like(weight),
        "spk_embed_affine_layer.bias": baked,
    }


def is_usable(value: Tensor) -> bool:
    """Whether a tensor of weights holds neither NaN nor numbers that no network has."""
    low, high = value.aminmax()
    return bool(low > -LARGEST_WEIGHT) and bool(high < LARGEST_WEIGHT)  # False for NaN


def is_baked(state: Mapping[str, Tensor]) -> bool:
    """Whether `state` speaks in one voice whatever speaker vector it is given."""
    return not bool(state["spk_embed_affine_layer.weight"].any())


def merged_part(
    checkpoint: Mapping[str, Any], path: Path, model_dir: Path, part: str, *, lora_scale: float = 1.0, bake: bool = True
) -> dict[str, Tensor]:
    """State dict of "llm" or "flow": base weights plus the checkpoint's adapter, with its speaker baked in, float32.

    Rank, alpha and targets come from the checkpoint. A part that was not trained is the base with the speaker baked in.
    """
    # not mapped: writing to mapped pages takes ten times as long
    base = load_state_dict_file(model_dir / f"{part}.pt", mapped=False)
    state = {name: value.float() for name, value in base.items()}
    adapter, embedding = checkpoint["adapters"].get(part, {}), checkpoint["speaker"]["embedding"]
    merge_adapter(state, adapter, checkpoint_config(checkpoint, path).part(part), lora_scale)
    state = bake_speaker(state, embedding) if bake else state
    for name, value in {"speaker vector": embedding, **state}.items():
        if not is_usable(value):
            weights = model_dir / f"{part}.pt"
            of_base = not is_usable(load_state_dict_file(weights).get(name, torch.zeros(1)))
            remedy = "download it again" if of_base else other_checkpoints(path)
            raise UserError(
                f"{weights if of_base else path} gives NaN or endless numbers ({name}), which cannot speak; {remedy}"
            )
    return state


def write_merged(
    checkpoint: Mapping[str, Any],
    path: Path,
    model_dir: Path,
    outputs: Mapping[str, Path],
    *,
    lora_scale: float = 1.0,
    bake: bool = True,
    listed: bool = True,
) -> list[Path]:
    """Write merged files to `outputs`, part -> path; returns the paths of all that was written.

    The voice goes into the spk2info.pt beside them, where synthesis looks for it. No file appears under its name before
    all are complete: a full disk leaves no LLM of one voice with the flow or the vector of another. listed: another
    merge there is waited for, and the manifest says what belongs together; False in a folder that nobody else sees.
    """

    def write(file: Path, data: Mapping[str, Any]) -> None:
        try:
            write_torch(data, parts[file])
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {file}: {reason}; nothing was left half-written") from error

    def write_part(part: str) -> None:
        write(outputs[part], merged_part(checkpoint, path, model_dir, part, lora_scale=lora_scale, bake=bake))

    folders = list(dict.fromkeys(file.parent for file in outputs.values()))
    with user_mistakes(), replacing(folders) if listed else nullcontext(), ExitStack() as together:
        voices = {folder / VOICES: with_voice(folder / VOICES, checkpoint["speaker"]) for folder in folders}
        # the voices first: where files have a manifest, those that speak never come without theirs
        parts = {file: together.enter_context(unfinished(file)) for file in (*voices, *outputs.values())}
        with ThreadPoolExecutor() as threads:
            for file, entries in voices.items():
                write(file, entries)
            for _ in tqdm(threads.map(write_part, outputs), "merging", total=len(outputs), leave=False):
                pass
        if listed:
            replace_together(parts, made_from(checkpoint, path, outputs, lora_scale, bake))
        else:
            for file, part in parts.items():
                part.rename(file)
    return [*outputs.values(), *voices]


def made_from(
    checkpoint: Mapping[str, Any], path: Path, outputs: Mapping[str, Path], lora_scale: float, bake: bool
) -> dict[str, Any]:
    """What the manifest says of merged files: enough to make them again."""
    return {
        "checkpoint": str(path.resolve()),
        "run_id": checkpoint["run_id"],
        "mode": checkpoint["mode"],
        "epochs": adapter_epochs(checkpoint),
        "lora_scale": lora_scale,
        "speaker": checkpoint["speaker"]["name"],
        "bake_speaker": bake,
        "outputs": {part: str(file.resolve()) for part, file in outputs.items()},
    }


def with_voice(path: Path, speaker: Mapping[str, Any]) -> dict[str, Any]:
    """The voices of the spk2info.pt at `path`, with the speaker; says so where that replaces another of the name."""
    try:
        voices = read_spk2info(path)
    except DamagedFile as error:
        raise UserError(f"{path}: {error.reason}; delete it and run this again, which writes it anew") from error
    earlier = voices.pop(speaker["name"], None)  # the newest voice stands last: synthesis takes it by default
    if earlier is not None and not torch.equal(speaker_embedding(earlier), speaker["embedding"]):
        print(
            f"{path}: the vector of '{shown(speaker['name'])}' is replaced by this run's; where both voices are "
            "to stay, merge into folders of their own, or train with another speaker_name",
            flush=True,
        )
    voices[speaker["name"]] = {
        "embedding": speaker["embedding"],
        "seconds_per_text_token": speaker["seconds_per_text_token"],
        "text_normalizer": speaker.get("text_normalizer", DEFAULT),
    }
    return voices
