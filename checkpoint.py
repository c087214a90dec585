"""What a training checkpoint holds, and how it becomes model files that stock CosyVoice opens.

A checkpoint is a few tens of MB: adapters, settings, fingerprints of base model and data, the speaker; `_last` also has
the optimizer's state. It never holds base weights.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.files import atomic_path, write_torch
from common.terminal import shown
from config import JointConfig, UserError, from_dict
from cosyvoice.cli.cosyvoice import VOICES
from cosyvoice.utils.files import not_a_file
from cosyvoice.utils.weights import (
    DamagedFile,
    file_fingerprint,
    load_state_dict_file,
    read_spk2info,
    shortfall,
    speaker_embedding,
)
from cosyvoice.utils.yaml_loader import require_files
from lora import merge_adapter
from text.normalizer import DEFAULT
from utils import command_line, user_mistakes

FORMAT = 1
MOST_NAMED = 3  # other checkpoints in a message
PARTS = ("llm", "flow")
REQUIRED = ("format", "run_id", "mode", "config", "base", "data", "speaker", "adapters", "epoch", "step")


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
    pattern = checkpoint_paths(output_dir, "*")[0].name
    return sorted(output_dir.glob(pattern), key=lambda path: path.stat().st_mtime)


def newest_run(output_dir: Path) -> Path:
    """`_last.ckpt` of the newest run in a folder; UserError where there is none."""
    found = runs_in(output_dir)
    if not found:
        raise UserError(
            f"no checkpoint in {output_dir}; run: {command_line('train_joint.py', output_dir=output_dir)}, "
            "or give the folder of a run with --output-dir"
        )
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, read without running code; UserError where it is something else or does not fit itself."""
    if what := not_a_file(path):
        raise UserError(f"checkpoint {path} is {what}; give a .ckpt file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"checkpoint {path} cannot be read: permission denied") from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises a dozen types for a damaged file
        reason = shortfall(path) or f"is damaged or something else ({type(error).__name__})"
        raise UserError(f"{path} is not a readable checkpoint: it {reason}; {other_checkpoints(path)}") from error
    missing = [key for key in REQUIRED if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(f"{path} is not a checkpoint of train_joint.py: it has no {', '.join(missing[:4])}")
    if data["format"] != FORMAT:
        raise UserError(
            f"{path} has format {data['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    return data


def other_checkpoints(path: Path) -> str:
    """What there is to use in place of a damaged checkpoint, in words; the newest first."""
    beside = (other for other in path.parent.glob("*.ckpt") if other != path and other.is_file())
    whole = sorted(filter(zipfile.is_zipfile, beside), key=lambda other: -other.stat().st_mtime)[:MOST_NAMED]
    if not whole:
        return "no other is beside it: copy it again, or train again"
    resumable = any(other.stem.endswith("_last") for other in whole)
    advice = ", or go on from one that ends in _last.ckpt with --resume" if resumable else ""
    return f"beside it, to merge or to speak with by --ckpt: {', '.join(map(str, whole))}{advice}"


def checkpoint_config(checkpoint: Mapping[str, Any], path: Path) -> JointConfig:
    """The settings that the run was started with."""
    return from_dict(checkpoint["config"], str(path))


def adapter_epochs(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """{trained part: the last epoch in which its adapter was trained}; 0 where it still is the base model's."""
    if "best_epochs" in checkpoint:  # `epoch` is then that of the run when it was saved
        return dict(checkpoint["best_epochs"])
    epochs = dict.fromkeys(checkpoint["adapters"], checkpoint["epoch"])
    if training := checkpoint.get("training"):
        for part, state in training["parts"].items():
            if state["stopped"]:
                trained = [int(row["epoch"]) for row in training["history"] if f"{part}_train" in row]
                epochs[part] = max(trained, default=0)
            elif training["group"]:
                epochs[part] += 1  # within that epoch
    return epochs


def epoch_words(checkpoint: Mapping[str, Any], parts: Iterable[str]) -> str:
    """ "llm as in the base model, flow epoch 12"; parts: those that are named."""
    epochs = adapter_epochs(checkpoint)
    words = {part: f"epoch {epochs[part]}" if epochs.get(part) else "as in the base model" for part in parts}
    return ", ".join(f"{part} {where}" for part, where in words.items())


def strength_words(checkpoint: Mapping[str, Any], path: Path, lora_scale: float, parts: Sequence[str] = PARTS) -> str:
    """ " at strength 0.8" or " at strength llm 0.5, flow 1" of what these parts learned, "" for all of it."""
    config = checkpoint_config(checkpoint, path)
    trained = [part for part, epoch in adapter_epochs(checkpoint).items() if epoch and part in parts]
    strengths = {part: lora_scale * config.part(part).merge_scale for part in trained}
    if all(strength == 1 for strength in strengths.values()):
        return ""
    if len(set(strengths.values())) > 1 or len(trained) < len(parts):
        return " at strength " + ", ".join(f"{part} {strength:g}" for part, strength in strengths.items())
    return f" at strength {strengths[trained[0]]:g}"


def base_warning(checkpoint: Mapping[str, Any], path: Path) -> str:
    """What to say of a checkpoint that speaks as the base model does, "" for any other."""
    if any(adapter_epochs(checkpoint).values()):
        return ""
    last = path.with_name(path.name.replace("_best", "_last"))
    trained = last != path and last.exists() and any(adapter_epochs(load_checkpoint(last)).values())
    newest = f"; the newest state: --ckpt {last}" if trained else ""
    return f"warning: no epoch was chosen in {path}, so it speaks as the base model does{newest}"


def merged_bytes(model_dir: Path, parts: Iterable[str] = PARTS) -> int:
    """Disk space of the merged files, float32 whatever the base is stored in."""
    with user_mistakes():
        states = [load_state_dict_file(model_dir / f"{part}.pt") for part in parts]
    return 4 * sum(value.numel() for state in states for value in state.values())


def base_fingerprint(model_dir: Path) -> dict[str, str]:
    """SHA-256 of the two files that adapters are made for."""
    paths = [model_dir / f"{part}.pt" for part in PARTS]
    with user_mistakes(), ThreadPoolExecutor() as threads:
        require_files(model_dir, [path.name for path in paths])
        return dict(zip((path.name for path in paths), threads.map(file_fingerprint, paths), strict=True))


def check_base(checkpoint: Mapping[str, Any], path: Path, fingerprint: Mapping[str, str], model_dir: Path) -> None:
    """UserError where a checkpoint was trained on another base model (merging would give noise)."""
    differing = [name for name, value in checkpoint["base"].items() if fingerprint.get(name) != value]
    if differing:
        for name in differing:
            if reason := shortfall(model_dir / name):
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
    adapter = checkpoint["adapters"].get(part, {})
    merge_adapter(state, adapter, checkpoint_config(checkpoint, path).part(part), lora_scale)
    return bake_speaker(state, checkpoint["speaker"]["embedding"]) if bake else state


def write_merged(
    checkpoint: Mapping[str, Any],
    path: Path,
    model_dir: Path,
    outputs: Mapping[str, Path],
    *,
    lora_scale: float = 1.0,
    bake: bool = True,
) -> list[Path]:
    """Write merged files to `outputs`, part -> path; returns the paths of all that was written.

    The voice goes into the spk2info.pt beside them, where synthesis looks for it. No file appears under its name before
    all are complete: a full disk leaves no LLM of one voice with the flow or the vector of another.
    """

    def write(file: Path, data: Mapping[str, Any]) -> None:
        try:
            write_torch(data, unfinished[file])
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {file}: {reason}; nothing was left half-written") from error

    def write_part(part: str) -> None:
        write(outputs[part], merged_part(checkpoint, path, model_dir, part, lora_scale=lora_scale, bake=bake))

    folders = dict.fromkeys(file.parent for file in outputs.values())
    with user_mistakes(), ExitStack() as together, ThreadPoolExecutor() as threads:
        voices = {folder / VOICES: with_voice(folder / VOICES, checkpoint["speaker"]) for folder in folders}
        unfinished = {file: together.enter_context(atomic_path(file)) for file in (*voices, *outputs.values())}
        for file, entries in voices.items():
            write(file, entries)
        for _ in tqdm(threads.map(write_part, outputs), "merging", total=len(outputs), leave=False):
            pass
    return [*outputs.values(), *voices]


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
