"""Turn a training checkpoint into LLM and flow files that speak in the trained voice, and open in stock CosyVoice.

python merge_joint_weights.py
python merge_joint_weights.py --ckpt output/joint_joint_last.ckpt --lora-scale 0.8
python merge_joint_weights.py --ckpt output/joint_joint_best.ckpt --export my_voice
python merge_joint_weights.py --epoch 20
"""

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

import argparse
import errno
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from checkpoint import (
    PARTS,
    adapter_epochs,
    base_fingerprint,
    base_warning,
    best_beside,
    check_base,
    epoch_words,
    kept_path,
    load_checkpoint,
    merged_bytes,
    merged_paths,
    newest_run,
    runs_in,
    strength_words,
    write_merged,
)
from common.files import (
    ELSEWHERE,
    PART_SUFFIX,
    atomic_path,
    check_disk,
    check_output_dir,
    moved_words,
    only_run,
    remove_dead_parts,
    unfinished_moves,
)
from common.terminal import shown
from config import UserError
from cosyvoice.cli.cosyvoice import VOICES, load_part
from cosyvoice.cli.frontend import SPEAKER_MODEL, SPEECH_TOKENIZER, open_onnx
from cosyvoice.utils.yaml_loader import YAML_NAME, read_model_config
from training.kept import in_words, read_kept, row_of
from utils import (
    DEFAULT_MODEL,
    DEFAULT_OUTPUT_DIR,
    SAMPLE_TEXT,
    add_folder_arguments,
    check_lora_scale,
    command_line,
    find_folder,
    run_main,
    user_mistakes,
)

# What an exported model directory takes over from the base unchanged.
COPIED = (YAML_NAME, "hift.pt", SPEAKER_MODEL, SPEECH_TOKENIZER)
COPIED_IF_THERE = ("finetune.yaml", "configuration.json")
FAR_OFF = 0.2  # nats between the loss that is asked for and that of the nearest kept epoch


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ckpt",
        type=Path,
        help="checkpoint to merge [the best of the newest run in OUTPUT_DIR] | "
        "要合并的检查点 [OUTPUT_DIR 中最新一次训练选中的]",
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="another kept epoch of the same run | 改用同一次训练保留的另一轮",
    )
    kept.add_argument(
        "--at-llm-loss",
        type=float,
        metavar="LOSS",
        help="the kept epoch with the nearest training loss of the LLM, as the log prints it | "
        "改用 LLM 训练 loss 最接近的那一轮，数值同日志",
    )
    parser.add_argument(
        "--lora-scale",
        type=float,
        default=1.0,
        help="strength of what was learned: 0 is the base model, at most 2 [1.0] | "
        "训练效果的强度：0 即基座模型，最大 2 [1.0]",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--llm-only", action="store_true", help="write only the merged LLM | 只写合并后的 LLM")
    only.add_argument("--flow-only", action="store_true", help="write only the merged flow | 只写合并后的 Flow")
    parser.add_argument(
        "--llm-output",
        type=Path,
        help="where the LLM goes, spk2info.pt beside it [OUTPUT_DIR/llm_merged_MODE.pt] | "
        "LLM 写到哪里，spk2info.pt 写在旁边 [OUTPUT_DIR/llm_merged_MODE.pt]",
    )
    parser.add_argument(
        "--flow-output",
        type=Path,
        help="where the flow goes, spk2info.pt beside it [OUTPUT_DIR/flow_merged_MODE.pt] | "
        "Flow 写到哪里，spk2info.pt 写在旁边 [OUTPUT_DIR/flow_merged_MODE.pt]",
    )
    parser.add_argument(
        "--no-bake-speaker",
        action="store_true",
        help="do not write the speaker vector into the weights; it must be fed then | "
        "不把说话人向量写进权重，使用时须另外提供",
    )
    export_help = "write a complete model directory for stock CosyVoice | 导出完整的模型目录，原版 CosyVoice 可用"
    parser.add_argument("--export", type=Path, metavar="DIR", help=export_help)
    add_folder_arguments(parser)
    args = parser.parse_args(argv)
    beside = args.ckpt.parent if args.ckpt else Path(DEFAULT_OUTPUT_DIR)
    args.output_dir = args.output_dir or beside  # another run's folder keeps its own voice
    return args


def merge(args: argparse.Namespace) -> int:
    """Check checkpoint against base, then write the files asked for."""
    check_lora_scale(args.lora_scale)
    if args.export and (args.llm_only or args.flow_only or args.llm_output or args.flow_output):
        raise UserError("--export writes both parts into its folder; leave out --llm-only, --flow-only and --*-output")
    for only, other in (PARTS, PARTS[::-1]):
        if getattr(args, f"{only}_only") and getattr(args, f"{other}_output"):
            raise UserError(f"--{only}-only writes no {other} file; leave out --{other}-output, or --{only}-only")
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    check_output_dir(args.output_dir, model_dir)
    if unfinished_moves(args.output_dir):
        with suppress(UserError), only_run(args.output_dir, "train_joint.py"):  # which puts them back
            pass
    path = choose_checkpoint(args)
    checkpoint = load_checkpoint(path)
    check_base(checkpoint, path, base_fingerprint(model_dir), model_dir)
    parts = wanted_parts(args)
    strength = strength_words(checkpoint, path, args.lora_scale, parts)
    print(f"{path}: mode {checkpoint['mode']}, {epoch_words(checkpoint, parts)}{strength}", flush=True)
    if warning := base_warning(checkpoint, path):
        print(warning, flush=True)
    replaced: list[Path] = []
    if args.export:
        written = export(checkpoint, path, model_dir, args)
        following = export_command(args, checkpoint["speaker"]["name"])
    else:
        outputs = output_paths(args, checkpoint["mode"], model_dir)
        for folder, written_there in by_folder(outputs).items():
            check_disk(folder, merged_bytes(model_dir, written_there), elsewhere(args, written_there))
        replaced = [file for file in outputs.values() if file.exists()]
        written = write_merged(
            checkpoint,
            path,
            model_dir,
            outputs,
            lora_scale=args.lora_scale,
            bake=not args.no_bake_speaker,
        )
        following = speaking_command(args, outputs, checkpoint["mode"], model_dir)
    print("wrote " + ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in written))
    if replaced:
        names = " and ".join(file.name for file in replaced)
        print(f"{names} replaced earlier files; merged ones can be made again from their checkpoint")
    baked = f"the voice is fixed to '{shown(checkpoint['speaker']['name'])}'"
    print("speaker input left open: pass a vector when speaking" if args.no_bake_speaker else baked)
    print(f"next: {following}")
    return 0


def choose_checkpoint(args: argparse.Namespace) -> Path:
    """The checkpoint that the command line asks for; UserError where the epoch that it names is not kept."""
    if args.epoch is not None or args.at_llm_loss is not None:
        return choose_kept(args)
    return args.ckpt or chosen_by_training(args.output_dir)


def choose_kept(args: argparse.Namespace) -> Path:
    """A kept epoch: the one that is named, or the one nearest to a training loss of the LLM, and then says which.

    Without --ckpt it is of the newest run; for a loss, of the newest run that trained an LLM."""
    folder = args.ckpt.parent if args.ckpt else args.output_dir
    runs = [args.ckpt] if args.ckpt else runs_in(folder)[::-1] or [None]
    kept = {run or folder: read_kept(folder, load_checkpoint(run) if run else None) for run in runs}
    if not any(kept.values()):
        raise UserError(
            f"{folder} holds no kept epoch of {runs[0] or 'any run'}; "
            f"{'leave out --epoch and --at-llm-loss, or ' if runs[0] else ''}train with keep_epochs=10"
            + moved_words(folder, kept_path(Path(), "*", args.epoch).name)
        )
    if args.epoch is not None:
        asked, path = f"--epoch {args.epoch}", epoch_of_run(next(iter(kept.values())), args.epoch)
    else:
        asked, path = f"--at-llm-loss {args.at_llm_loss:g}", nearest_in_loss(kept.values(), args.at_llm_loss)
    if path is None:
        others = "; an epoch of another run: with its --ckpt" if len(runs) > 1 else ""
        known = "; ".join(f"{in_words(epochs.values())} of {run}" for run, epochs in kept.items() if epochs)
        moved = moved_words(folder, kept_path(Path(), "*", args.epoch).name) if args.epoch is not None else ""
        raise UserError(f"{asked}: nothing of that kind is kept; kept are epochs {known}{others}{moved}")
    return path


def epoch_of_run(kept: Mapping[Path, Mapping[str, Any]], epoch: int) -> Path | None:
    """The file of an epoch among the kept ones of a run."""
    return next((path for path, data in kept.items() if data["epoch"] == epoch), None)


def nearest_in_loss(runs: Iterable[Mapping[Path, Mapping[str, Any]]], loss: float) -> Path | None:
    """Of the first run that trained an LLM the kept epoch with the nearest loss, which it says; None: there is none."""
    for kept in runs:
        losses = {path: row["llm_train"] for path, data in kept.items() if "llm_train" in (row := row_of(data))}
        if losses and math.isfinite(loss):
            path = min(reversed(losses), key=lambda path: abs(losses[path] - loss))  # of equal ones the latest
            off = abs(losses[path] - loss)
            print(f"nearest to LLM loss {loss:g}: epoch {kept[path]['epoch']} with {losses[path]:.3f}, {off:.3f} off")
            if off > FAR_OFF:
                print(
                    f"warning: no kept epoch is near that loss; kept are epochs {in_words(kept.values())}", flush=True
                )
            return path
    return None


def chosen_by_training(output_dir: Path) -> Path:
    """What training merges of the newest run: `_best.ckpt`, or `_last.ckpt` where it has none.

    Also `_last.ckpt`, which is said, where the run was interrupted before any epoch was chosen: `_best.ckpt` is still
    the base then. A run that ended so has judged all its epochs and found the base better."""
    last = newest_run(output_dir)
    best = best_beside(last)
    if not best.exists():
        return last
    newest = load_checkpoint(last)
    ended = newest.get("merged_step") == newest["step"]
    if ended or any(adapter_epochs(load_checkpoint(best)).values()) or not any(adapter_epochs(newest).values()):
        return best
    print(f"the run was interrupted before an epoch was chosen, so its newest state is merged: {last}", flush=True)
    return last


def wanted_parts(args: argparse.Namespace) -> list[str]:
    """Parts that are written."""
    return ["llm"] if args.llm_only else ["flow"] if args.flow_only else list(PARTS)


def output_paths(args: argparse.Namespace, mode: str, model_dir: Path) -> dict[str, Path]:
    """{part: file} to write."""
    named = {"llm": args.llm_output, "flow": args.flow_output}
    usual = merged_paths(args.output_dir, mode)
    paths = {part: named[part] or usual[part] for part in wanted_parts(args)}
    for part, file in paths.items():
        if file.suffix != ".pt" or file.is_dir():
            raise UserError(f"{file}: give the name of a .pt file to write")
        check_output_dir(file.parent, model_dir, elsewhere(args, [part]))
    if len({file.resolve() for file in paths.values()}) < len(paths):
        raise UserError("--llm-output and --flow-output name the same file; give each its own")
    return paths


def elsewhere(args: argparse.Namespace, parts: Sequence[str]) -> str:
    """How to have these parts written to another folder."""
    named = [f"--{part}-output" for part in parts if getattr(args, f"{part}_output")]
    return f"name a file in another folder with {' and '.join(named)}" if named else ELSEWHERE


def by_folder(outputs: Mapping[str, Path]) -> dict[Path, list[str]]:
    """{folder: parts that are written there}."""
    folders: dict[Path, list[str]] = {}
    for part, file in outputs.items():
        folders.setdefault(file.parent, []).append(part)
    return folders


def export(checkpoint: Mapping[str, Any], path: Path, model_dir: Path, args: argparse.Namespace) -> list[Path]:
    """A complete model directory: merged llm.pt and flow.pt, the rest as in the base, the voice in spk2info.pt."""
    target = Path(os.path.realpath(args.export))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not an empty folder; give a new name")
    with user_mistakes():
        config = read_model_config(model_dir)
    missing = [name for name in COPIED if not (model_dir / name).is_file()]
    if missing:
        raise UserError(f"{model_dir} has no {', '.join(missing)}; an exported model needs it")
    with user_mistakes():  # what is copied is opened first: half a download would be handed on
        load_part(config, "hift")
        for name, inputs in ((SPEAKER_MODEL, 1), (SPEECH_TOKENIZER, 2)):
            open_onnx(model_dir / name, inputs, torch.device("cpu"), 1)
    names = [*COPIED, *(name for name in COPIED_IF_THERE if (model_dir / name).is_file())]
    if args.no_bake_speaker and (model_dir / VOICES).is_file():
        names.append(VOICES)  # with a baked speaker the base's voices would be names for the trained one
    needed = merged_bytes(model_dir) + sum((model_dir / name).stat().st_size for name in names)
    check_disk(target, needed, "choose another folder with --export")
    remove_dead_parts(target.parent.glob(f"*{PART_SUFFIX}"))
    with atomic_path(target) as part:
        part.mkdir()
        for name in names:
            shutil.copyfile(model_dir / name, part / name)
        outputs = {name: part / f"{name}.pt" for name in PARTS}
        write_merged(
            checkpoint,
            path,
            model_dir,
            outputs,
            lora_scale=args.lora_scale,
            bake=not args.no_bake_speaker,
            listed=False,
        )
        try:
            target.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UserError(f"{target} was filled meanwhile, by another export; give a new name") from error
            raise
    return sorted(target.iterdir())


def export_command(args: argparse.Namespace, voice: str) -> str:
    """What to type to hear an export, and what to run in Python."""
    named = voice if args.no_bake_speaker else None
    command = command_line("inference_joint.py", model_dir=args.export, speaker=named, text=SAMPLE_TEXT)
    model = f"""CosyVoice("{args.export.resolve().as_posix()}")"""
    spoken = f"""[piece["tts_speech"] for piece in {model}.inference_sft("{SAMPLE_TEXT}", "{voice}")]"""
    return f"{command} --base\nin Python: from cosyvoice.cli.cosyvoice import CosyVoice; waves = {spoken}"


def speaking_command(args: argparse.Namespace, outputs: dict[str, Path], mode: str, model_dir: Path) -> str:
    """What to type to hear the files that were written; for a part that was not, the run's own file, else the base's.

    Files that are found by themselves are not named."""
    usual = merged_paths(args.output_dir, mode)
    others = {part: usual[part] if usual[part].is_file() else model_dir / f"{part}.pt" for part in PARTS}
    files = {} if outputs == usual else others | outputs
    folders = {"model_dir": args.model_dir, "output_dir": args.output_dir}
    return command_line("inference_joint.py", **folders, **files, text=SAMPLE_TEXT)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: merge(parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
