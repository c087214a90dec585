"""Fine-tune CosyVoice's LLM (prosody) and flow (timbre) together with LoRA on one speaker's clips.

python train_joint.py
python train_joint.py --mode flow_only --set flow_lora.lora_r=32
python train_joint.py --resume output/joint_joint_last.ckpt
python train_joint.py --mode flow_only --init-from output/joint_joint_best.ckpt
torchrun --nproc_per_node=2 train_joint.py
"""

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

import argparse
import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from checkpoint import (
    PARTS,
    base_fingerprint,
    check_base,
    checkpoint_config,
    epoch_words,
    learned_parts,
    load_checkpoint,
    merged_paths,
    start_of,
    write_merged,
)
from common.files import ELSEWHERE, GIB, check_disk, check_output_dir, only_run
from common.signals import Interrupted, SignalGuard, interrupted_at_once
from common.terminal import shown
from config import (
    ConfigError,
    InferenceConfig,
    JointConfig,
    MemoryShortage,
    UserError,
    flatten,
    parse_override,
    resolve,
    to_dict,
)
from cosyvoice.utils.weights import load_state_dict_file
from cosyvoice.utils.yaml_loader import read_model_config
from dataset import Clip, data_fingerprint, read_meta, split_by
from lora import adapter_parameters, fitting_layers
from training.board import Board, write_metrics
from training.decisions import (
    hearing_due,
    hearing_left_sec,
    last_trained,
    note_best,
    settle_interval,
    trained_parts,
    why_finished,
)
from training.distributed import (
    check_together,
    copy_from_writer,
    from_writer,
    is_writer,
    joined,
    leave,
    own_device,
    world_size,
)
from training.kept import keep_epoch, kept_always, kept_rows, merged_epochs, remove_thinned, table
from training.listening import hear, hear_merged, hear_unchosen, summarise
from training.memory import MemoryPlan, choose_precision, prepare_memory
from training.run_files import (
    check_resumable,
    disk_bytes,
    fingerprints,
    is_merged,
    move_previous_run,
    note_merged,
    restore,
    save_best,
    save_last,
)
from training.start import DO_NOT_LISTEN, load_joint_model, make_audition, measure_base, read_clips, speaker_record
from training.state import Part, Run, epoch_groups, lr_at, make_run, stops_at
from training.step import optimizer_step
from utils import (
    DEFAULT_DATA_DIR,
    DEFAULT_MODEL,
    DEFAULT_OUTPUT_DIR,
    SAMPLE_TEXT,
    add_device_argument,
    add_folder_arguments,
    add_set_argument,
    add_setting_argument,
    command_line,
    duration_words,
    find_folder,
    read_settings,
    run_main,
    select_device,
    user_mistakes,
)
from voice.metrics import cosine
from voice.recordings import own_pitch

# What the adapters of a part mean.
ADAPTER_SETTINGS = {
    part: tuple(f"{part}_lora.{key}" for key in ("lora_r", "lora_alpha", "merge_scale", "target_modules"))
    for part in PARTS
}
# Settings that a resumed run cannot change: they decide what saved tensors, choices and random draws mean.
FIXED_ON_RESUME = {
    "training_mode",
    "seed",
    "validation_clips",
    "speaker_embedding",
    "speaker_name",
    "flow_time",
    "select_by",
    "eval_sentences",
    *(key for keys in ADAPTER_SETTINGS.values() for key in keys),
    *(f"inference.{item.name}" for item in fields(InferenceConfig)),  # the base was heard with them
}
SAVES_MEMORY = (
    "train with --set gradient_checkpointing=True, --set batch_frames=1, a smaller max_feat_len or shorter clips"
)
NO_MEMORY_TO_LISTEN = (
    f"the GPU is out of memory while the voice is heard; close other programs that use it, or {DO_NOT_LISTEN}"
)
SAME_VOICE = 0.5  # cosine of two mean speaker vectors; clips of one speaker have 0.8 and more, of two hardly 0.4
MAX_BAD_STEPS, MAX_BAD_STEPS_FP16 = 5, 30  # optimizer steps in a row whose gradient is not finite


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; every flag that is a setting goes into `overrides`, in the order typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setting_argument(parser, "--mode", "training_mode")
    add_setting_argument(parser, "--epochs", "max_epochs")
    add_setting_argument(parser, "--batch-size", "batch_size")
    add_setting_argument(parser, "--lr", "learning_rate")
    add_setting_argument(parser, "--seed", "seed")
    add_set_argument(parser)
    from_where = parser.add_mutually_exclusive_group()
    from_where.add_argument(
        "--resume", type=Path, metavar="CKPT", help="go on with the run of a _last.ckpt | 从 _last.ckpt 继续训练"
    )
    from_where.add_argument(
        "--init-from",
        type=Path,
        metavar="CKPT",
        help="start a new run from the adapters of a checkpoint; what --mode does not train stays as it is there | "
        "以某个检查点里的 LoRA 为起点，开始新的训练；--mode 不训练的部分保持其中的样子",
    )
    data_help = f"what prepare_joint_data.py wrote [{DEFAULT_DATA_DIR}] | 准备好的训练数据 [{DEFAULT_DATA_DIR}]"
    parser.add_argument("--data-dir", type=Path, default=Path(DEFAULT_DATA_DIR), help=data_help)
    parser.add_argument("--print-config", action="store_true", help="print all settings and stop | 打印全部设置后退出")
    add_folder_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    return args


# ---- setting up ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One call of this script, with every setting and folder resolved."""

    args: argparse.Namespace
    checkpoint: Mapping[str, Any] | None  # what the run goes on from
    init: Mapping[str, Any] | None  # what a new run starts from, else the base
    config: JointConfig
    sources: Mapping[str, str]  # changed key -> where it came from
    device: torch.device
    model_dir: Path
    output_dir: Path

    @property
    def elsewhere(self) -> str:
        """What to do where the output folder will not do: a resumed run is bound to its own."""
        return "copy the run to another folder and resume it there" if self.args.resume else ELSEWHERE


def make_job(args: argparse.Namespace) -> Job:
    """What the command line asks for; UserError where that does not fit together."""
    device = own_device(select_device(args.device))
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    checkpoint = load_checkpoint(args.resume) if args.resume else None
    init = load_checkpoint(args.init_from) if args.init_from else None
    config, sources = new_settings(args, init, model_dir) if checkpoint is None else settings(args, checkpoint)
    output_dir = args.output_dir or (args.resume.parent if args.resume else Path(DEFAULT_OUTPUT_DIR))
    if args.resume and output_dir.resolve() != args.resume.resolve().parent:
        raise UserError(f"a resumed run continues in {args.resume.parent}; leave out --output-dir")
    return Job(args, checkpoint, init, config, sources, device, model_dir, output_dir)


def new_settings(
    args: argparse.Namespace, init: Mapping[str, Any] | None, model_dir: Path
) -> tuple[JointConfig, dict[str, str]]:
    """Settings of a new run and where the changed keys came from; its adapters are as those that it starts from."""
    config, sources = read_settings(args.overrides, model_dir)
    if init is None:
        return config, sources
    stored = flatten(to_dict(checkpoint_config(init, args.init_from)))
    kept = {key: stored[key] for part in PARTS if part in init["adapters"] for key in ADAPTER_SETTINGS[part]}
    given, now = dict(parse_override(text) for text in args.overrides), flatten(to_dict(config))
    if differing := [f"{key} = {kept[key]}" for key in kept if key in given and now[key] != kept[key]]:
        raise ConfigError(
            f"the adapters of {args.init_from} have {', '.join(differing)}, which training on does not change; leave "
            "it out, or start from the base model without --init-from"
        )
    changed = {key: value for key, value in kept.items() if now[key] != value}
    config, of_checkpoint = resolve(config, [(str(args.init_from), changed)])
    return config, sources | of_checkpoint


def settings(args: argparse.Namespace, checkpoint: Mapping[str, Any]) -> tuple[JointConfig, dict[str, str]]:
    """Settings of a resumed run, which are its checkpoint's, and where the changed keys came from."""
    stored = checkpoint_config(checkpoint, args.resume)
    given = dict(parse_override(text) for text in args.overrides)
    config, sources = resolve(stored, [("command line", given)])
    before, after = flatten(to_dict(stored)), flatten(to_dict(config))
    fixed = [key for key in given if key in FIXED_ON_RESUME and before[key] != after[key]]
    if fixed:
        raise ConfigError(
            f"{args.resume} was trained with {', '.join(f'{key} = {before[key]}' for key in fixed)}, which a resumed "
            "run cannot change; leave it out, or start a new run without --resume"
        )
    defaults = flatten(to_dict(JointConfig()))
    origin = {key: "the checkpoint" for key, value in before.items() if value != defaults[key]}
    return config, origin | {key: source for key, source in sources.items() if before[key] != after[key]}


# ---- training --------------------------------------------------------------------------------------------------------


def train_epoch(run: Run, guard: SignalGuard, board: Board | None) -> None:
    """The optimizer steps of one epoch that are still to be done; the writer has a board."""
    groups = epoch_groups(len(run.train_clips), run.epoch, run.config)
    while run.group < len(groups):
        check_together(guard)
        started = time.monotonic()
        results = optimizer_step(run, groups[run.group], guard)
        run.group += 1
        run.step += 1
        check_finite(run, results)
        run.step_sec.append(time.monotonic() - started)
        run.spent_sec["training"] += run.step_sec[-1]
        print(step_line(run, results), flush=True)
        if board is not None:
            board.step(run, results)
            if time.monotonic() - run.saved_at > 60 * run.config.save_every_minutes:
                save_last(run)


def step_line(run: Run, results: Mapping[str, tuple[float, float]]) -> str:
    """One aligned line about an optimizer step; the time left by the median of the last ones.

    Listening is included as soon as it is known how often it will be done."""
    losses = "  ".join(f"{name} {loss:7.4f} (grad {norm:6.3f})" for name, (loss, norm) in results.items())
    lr = lr_at(run.place - 1, run.total_steps, run.config)
    steps = max(0, run.total_steps - run.place)  # an epoch that was begun is completed
    left = duration_words(steps * median(run.step_sec) + hearing_left_sec(run))
    unknown = " and listening" if run.audition is not None and not run.hear_every else ""
    return (
        f"epoch {run.epoch + 1:3d}/{run.config.max_epochs}  step {run.place:4d}/{run.total_steps}  {losses}  "
        f"lr {lr:.2e}  {run.step_sec[-1]:5.1f} s/step  at most {left}{unknown} left"
    )


def check_finite(run: Run, results: Mapping[str, tuple[float, float]]) -> None:
    """UserError after many steps in a row whose loss or gradient is not a finite number.

    A gradient scaler begins far too high and halves itself after each overflow, so fp16 gets more patience.
    """
    finite = all(math.isfinite(loss) and math.isfinite(norm) for loss, norm in results.values())
    run.bad_steps = 0 if finite else run.bad_steps + 1
    if run.bad_steps >= (MAX_BAD_STEPS_FP16 if run.scaler.is_enabled() else MAX_BAD_STEPS):
        raise UserError(
            f"the loss or its gradient was not a finite number in {run.bad_steps} steps in a row (step {run.step}); "
            "take a lower learning_rate or precision=fp32"
        )


def end_epoch(run: Run, board: Board) -> None:
    """Held-out losses, best per part, stopping rules, checkpoints."""
    started = time.monotonic()
    run.epoch += 1
    row: dict[str, float] = {"epoch": run.epoch, "step": run.step}
    improved = False
    for part in run.active:
        total, count = run.sums.get(part.name, (math.nan, 1))
        part.last_loss = row[f"{part.name}_train"] = total / count
        judged = part.last_loss
        if run.held_out:
            judged = row[f"{part.name}_held_out"] = run.measure(part, run.held_out)
        improved |= note_best(run, part, judged)
    run.sums, run.group = {}, 0
    run.history.append(row)
    for part in run.active:
        part.stopped = part.why_stop(run.config, run.origin)
    print(epoch_line(run, row), flush=True)
    if improved:
        save_best(run)  # before _last: a run killed in between repeats this epoch and finds the same
    if not run.by_sound or kept_always(run, run.epoch):
        keep_epoch(run)  # where the sound decides, an epoch is kept when it has been heard
    run.spent_sec["training"] += time.monotonic() - started
    settle_hearing(run)
    save_last(run)
    remove_thinned(run)
    write_metrics(run)
    board.epoch(run, row)


def epoch_line(run: Run, row: Mapping[str, float]) -> str:
    """Raw losses of an epoch beside their thresholds, and what stopped."""
    words = []
    for part in run.parts.values():
        if f"{part.name}_train" in row:
            held_out = f", held out {row[f'{part.name}_held_out']:.4f}" if run.held_out else ""
            best = "best" if part.best_epoch == run.epoch else f"best was epoch {part.best_epoch}"
            words.append(f"{part.name} {part.last_loss:.4f}{held_out} ({best}; {stops_at(run.config, part.name)})")
            words += [f"{part.name} stops: {part.stopped}"] if part.stopped else []
    return f"epoch {run.epoch:3d} done  " + "  ".join(words)


def settle_hearing(run: Run) -> None:
    """Settle after the first epoch how often the voice is heard, by its steps: a resumed run knows only the last ones.

    Where it knows none, or nobody has heard the base, after the next epoch."""
    if run.audition is not None and run.hearings and not run.hear_every and run.step_sec:
        settle_interval(run, median(run.step_sec) * run.steps_per_epoch)
        every = f"{run.hear_every} epochs" if run.hear_every > 1 else "epoch"
        left = duration_words(hearing_left_sec(run))
        print(f"listening test every {every}, and whenever a part stops training: about {left} in all", flush=True)


def train_loop(run: Run) -> None:
    """Train until a stopping rule holds; Ctrl-C and SIGTERM save first and raise Interrupted."""
    board = Board(run) if is_writer() else None
    with SignalGuard() as guard:
        try:
            while True:
                check_together(guard)
                if from_writer(hearing_due(run)):
                    if board is not None:
                        hear(run, guard, board)
                    run.follow_writer()
                    continue  # if that was the base, the voice itself may be due too
                if why_finished(run):
                    break
                train_epoch(run, guard, board)
                if board is not None:
                    end_epoch(run, board)
                run.follow_writer()
        except Interrupted:
            if board is not None:
                save_last(run)
            raise
        finally:
            if board is not None:
                board.close()


# ---- the script ------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """The whole job: settings, data, model, loop, merged files."""
    job = make_job(args)
    if args.print_config:
        print(json.dumps(to_dict(job.config), indent=2, ensure_ascii=False))
        return 0
    check_output_dir(job.output_dir, job.model_dir, job.elsewhere)
    alone = only_run(job.output_dir, "train_joint.py", job.elsewhere)
    with joined(job.device), alone if is_writer() else nullcontext():
        return run_training(job)


def run_training(job: Job) -> int:
    """Training, new or resumed, in an output folder that is ours alone."""
    run, memory = set_up(job)
    needed = disk_bytes(run, job.model_dir)
    check_disk(job.output_dir, needed, job.elsewhere)
    print_start(run, job, memory, needed)
    if job.checkpoint is None:
        begin(run, job.args.init_from)
    else:
        choice_stands = restore(run, job.checkpoint, job.args.resume)
        if is_writer() and run.chosen_by == "val_loss" and not choice_stands and run.whole:
            keep_epoch(run)  # it was to be heard first, and now its loss may choose it
        run.follow_writer()
        print(f"resumed {job.args.resume}: epoch {run.epoch}, step {run.step}", flush=True)
        if why_finished(run) and choice_stands and is_merged(run, job.checkpoint):
            print(f"this run is finished ({why_finished(run)}); to train on, raise --epochs or change stop.*")
            return 0
    for part in run.parts.values():
        copy_from_writer(adapter_parameters(run.model.part(part.name)))  # GPUs may have drawn them differently
    if run.audition is not None and run.own_hz is None:
        run.own_hz = own_pitch(run.train_clips, job.args.data_dir)
    again = resuming_command(job.args, run.last_path)
    try:
        train_loop(run)
    except Interrupted as error:
        print(f"{error}: saved {run.last_path}; go on with: {again}", flush=True)
        return error.exit_code
    except UserError as error:
        raise UserError(f"{error}; then go on with: {again}") from error
    except torch.OutOfMemoryError as error:  # a step catches its own
        raise MemoryShortage(f"{NO_MEMORY_TO_LISTEN}; then go on with: {again}") from error
    print(f"finished: {why_finished(run)}", flush=True)
    try:
        with interrupted_at_once():
            return finish(run, job) if is_writer() else 0
    except Interrupted as error:
        print(f"{error}: training is over and saved in {run.last_path}; merge and hear its voice with: {again}")
        return error.exit_code


def resuming_command(args: argparse.Namespace, last: Path) -> str:
    """What to type to go on with a run as it was started."""
    program = ["torchrun", f"--nproc_per_node={world_size()}"] if world_size() > 1 else []
    where = {"data_dir": args.data_dir, "model_dir": args.model_dir}
    where["device"] = None if args.device == "auto" else args.device
    return command_line("train_joint.py", program=program, resume=last, **where)


def set_up(job: Job) -> tuple[Run, MemoryPlan]:
    """The run before its first step (of this process) and its plan of memory; everything is checked before it."""
    config, device = job.config, job.device
    if job.checkpoint is not None and not job.args.data_dir.is_dir():
        raise UserError(f"{job.args.data_dir} does not exist; give --data-dir as where {job.args.resume} was trained")
    with user_mistakes():
        model_config = read_model_config(job.model_dir)
    clips = read_clips(job.args.data_dir, model_config)
    identity = identify(job, clips)
    dtype = choose_precision(config, device)
    torch.manual_seed(config.seed)  # the adapters' first values; what a step draws is seeded by the step
    model = load_joint_model(model_config, config, device, starting_adapters(job))
    memory = prepare_memory(model, clips, config, dtype)
    rate_hz = model_config.token_rate_hz
    run = make_run(config, device, model, dtype, memory.batch_frames, clips, job.output_dir, rate_hz, identity)
    run.audition = make_audition(model_config, run) if is_writer() else None
    if job.init is not None:
        warn_of_known_clips(run, job.init, job.args.init_from, clips)
    return run, memory


def starting_adapters(job: Job) -> dict[str, Mapping[str, Tensor]]:
    """{part: adapter} that the run starts or started from; a part that is as in the base is left out.

    UserError where one does not fit the base model."""
    if job.checkpoint is not None:
        untrained = {name: x for name, x in job.checkpoint["adapters"].items() if name not in job.config.trained_parts}
        return untrained | job.checkpoint.get("start_adapters", {})
    learned = {part: job.init["adapters"][part] for part in learned_parts(job.init)} if job.init is not None else {}
    for part, adapter in learned.items():
        try:
            with user_mistakes():
                fitting_layers(load_state_dict_file(job.model_dir / f"{part}.pt"), adapter, job.config.part(part))
        except UserError as error:
            raise UserError(f"{job.args.init_from} does not fit the {part}: {error}") from error
    return learned


def identify(job: Job, clips: Sequence[Clip]) -> dict[str, Any]:
    """Run id, fingerprints of base and data, speaker; UserError for a checkpoint of another base or other data."""
    found = {"base": base_fingerprint(job.model_dir), "data": data_fingerprint(clips)}
    checkpoint, path = job.checkpoint, job.args.resume
    if checkpoint is None:
        speaker = speaker_record(clips, job.config, read_meta(job.args.data_dir))
        start = {}
        if job.init is not None:
            check_base(job.init, job.args.init_from, found["base"], job.model_dir)
            warn_of_another_voice(job.init["speaker"], speaker, job.args.init_from)
            start = start_of(job.init, job.args.init_from)
        known = fingerprints(split_by(job.config, clips)[0])
        trained_on = sorted({*known, *job.init.get("trained_on", ())} if job.init is not None else known)
        identity = {"run_id": secrets.token_hex(8), "speaker": speaker, "start": start, "trained_on": trained_on}
        return found | identity
    check_resumable(checkpoint, path)
    check_base(checkpoint, path, found["base"], job.model_dir)
    if checkpoint["data"] != found["data"]:
        raise UserError(f"{job.args.data_dir} is not the data that {path} was trained on; give --data-dir")
    stored = {key: checkpoint[key] for key in ("run_id", "base", "data", "speaker")}
    return stored | {"start": checkpoint.get("start", {}), "trained_on": checkpoint.get("trained_on", [])}


def warn_of_known_clips(run: Run, init: Mapping[str, Any], path: Path, clips: Sequence[Clip]) -> None:
    """Say so where the checkpoint was trained on clips that are held out now: by them no epoch may beat it."""
    same_data = run.identity["data"] == init["data"]
    if "trained_on" in init:
        trained_on = init["trained_on"]
    else:  # of an earlier version; with other data nobody can tell, and all that are held out may be known
        trained_on = fingerprints(split_by(checkpoint_config(init, path), clips)[0] if same_data else run.held_out)
    if known := {*trained_on} & {*fingerprints(run.held_out)}:
        cure = (
            "give the --seed and validation_clips of its run" if same_data else "listen before you believe the losses"
        )
        print(
            f"warning: {path} was trained on {len(known)} of the {len(run.held_out)} clips that are held out now, so "
            f"the start looks better than it is; {cure}",
            flush=True,
        )


def warn_of_another_voice(earlier: Mapping[str, Any], speaker: Mapping[str, Any], path: Path) -> None:
    """Say so where the clips are of another speaker than the checkpoint, or the voice gets another name."""
    similarity = cosine(earlier["embedding"].flatten(), speaker["embedding"].flatten())
    if similarity < SAME_VOICE:
        print(
            f"warning: {path} is of another voice than these clips (similarity {similarity:.2f}); what is not trained "
            "stays as it is there",
            flush=True,
        )
    if earlier["name"] != speaker["name"]:
        print(
            f"warning: the voice of {path} is called '{earlier['name']}', this one '{speaker['name']}'; to keep the "
            "name: --set speaker_name=NAME",
            flush=True,
        )


def begin(run: Run, init_from: Path | None = None) -> None:
    """Measure what the run starts from, make room and save step 0: it can be resumed whenever it is killed."""
    run.chosen_by = run.criterion
    if is_writer():
        measure_base(run)
    run.follow_writer()
    if not run.active:
        keys = ", ".join(f"stop.{part.name}_loss" for part in run.parts.values())
        raise UserError(f"nothing to train: the {run.origin.name} is already below every threshold; lower {keys}")
    if is_writer():
        move_previous_run(run.output_dir, run.config.training_mode)
        if init_from is not None and not init_from.exists():
            print(f"{init_from} went with it; this run holds all that it needs of it", flush=True)
        if run.chooses:
            save_best(run)
        save_last(run)


def print_start(run: Run, job: Job, memory: MemoryPlan, disk: int) -> None:
    """What will happen, before it does."""
    values = flatten(to_dict(run.config))
    for key, source in job.sources.items():
        print(f"setting {key} = {shown(values[key])}   (from {source})")
    if job.init is not None:
        print(f"start: {job.args.init_from}: {epoch_words(job.init, PARTS)}")
    total = sum(parameter.numel() for parameter in run.model.parameters())
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    clips = [*run.train_clips, *run.held_out]
    minutes = sum(clip.duration for clip in clips) / 60
    dtype = str(run.dtype).removeprefix("torch.")
    print(f"model {job.model_dir}, mode {run.config.training_mode}, device {run.device}, {dtype}")
    print(
        f"{len(clips)} clips, {minutes:.1f} minutes: {len(run.train_clips)} to train on, {len(run.held_out)} held out"
        + ("" if run.chooses else f" ({why_none_held_out(run)}: the last epoch is what gets merged)")
    )
    epochs = run.config.max_epochs
    print(f"parameters: {trained:,} trained of {total:,}; at most {run.total_steps} steps in {epochs} epochs")
    print(f"{memory}; disk: {disk / GIB:.2f} GiB", flush=True)


def why_none_held_out(run: Run) -> str:
    """Why there are no clips to judge epochs by."""
    return "too few to judge by" if run.config.validation_clips == "auto" else "none, by validation_clips = 0"


def finish(run: Run, job: Job) -> int:
    """Merge the chosen adapters, listen to them, and say what came out and what to type next."""
    hear_unchosen(run)
    written = merge(run, job, PARTS)  # before listening: whoever has no patience for that has a voice
    if run.audition is not None:
        sentences = hear_merged(run)
        if left_out := [part.name for part in run.parts.values() if part.left_out]:
            merge(run, job, left_out)
    if run.device.type == "cuda":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated(run.device) / GIB:.2f} GiB")
    for part in run.parts.values():
        print(f"{part.name}: {outcome(run, part)}")
    print(f"merged {run.chosen_path.name}: " + ", ".join(str(path) for path in written))
    show_kept(run, job)
    if run.audition is not None:
        summarise(run, sentences)
    note_merged(run)
    speak = partial(command_line, "inference_joint.py", model_dir=job.args.model_dir, output_dir=run.output_dir)
    if run.chooses and trained_parts(run) and not any(part.choice.epoch for part in run.parts.values()):
        last = speak(ckpt=run.last_path, text=SAMPLE_TEXT)
        print(f"warning: no epoch was chosen, so the merged files speak {run.origin.alike}; the last epoch: {last}")
    print("next: " + speak(text=SAMPLE_TEXT))
    return 0


def merge(run: Run, job: Job, parts: Sequence[str]) -> list[Path]:
    """Write the merged files of these parts, and the voice; returns the paths."""
    paths = merged_paths(run.output_dir, run.config.training_mode)
    outputs = {part: paths[part] for part in parts}
    return write_merged(load_checkpoint(run.chosen_path), run.chosen_path, job.model_dir, outputs)


def show_kept(run: Run, job: Job) -> None:
    """The epochs that are kept, and how to merge another than the chosen one."""
    remove_thinned(run)  # what a run that was killed left
    write_metrics(run)
    if rows := kept_rows(run):
        print("\n".join(["epochs kept:", *table(run, rows)]))
    if others := rows.keys() - {*merged_epochs(run).values()}:
        folders = {"model_dir": job.args.model_dir, "output_dir": run.output_dir}
        print("merge another of them: " + command_line("merge_joint_weights.py", **folders, epoch=max(others)))


def outcome(run: Run, part: Part) -> str:
    """What training did to one part: the base's losses, those of the epoch that is merged, and the lowest held-out one.

    The merged epoch need not be the one of the lowest loss where its sound decides.
    """
    last, origin, before = last_trained(run, part)[0], run.origin, part.base_held_out
    if not last:
        return f"not trained, {origin.short} loss {part.base_loss:.3f}; merged {origin.alike}"
    if not run.chooses:
        return f"loss of the last epoch {part.last_loss:.3f} ({origin.short} {part.base_loss:.3f}); merged epoch {last}"
    if run.by_sound:
        lowest = f"{part.best_loss:.3f} in epoch {part.best_epoch}" if part.best_epoch else "never lower"
        held_out = f", held out {before:.3f} -> {lowest}" if run.held_out else ""
        why_base = f"with it {part.left_out}" if part.left_out else "no epoch was better by the rules of select_by"
        merged = f"epoch {part.choice.epoch}" if part.choice.epoch else f"{origin.alike}: {why_base}"
        shown = part.choice.epoch or last
        rows = (row for row in run.history if row["epoch"] == shown)
        loss = next(rows, {}).get(f"{part.name}_train", part.last_loss)
        return f"loss {part.base_loss:.3f} -> {loss:.3f}{held_out}; merged {merged} (select_by = audio)"
    lost = part.best_epoch > 0 and part.best_loss < part.choice.loss
    gone = f" (epoch {part.best_epoch} had {part.best_loss:.3f}, and was not kept)" if lost else ""
    if not part.choice.epoch:
        which = "no epoch at hand" if lost else "no epoch"
        return f"{which} beat the {origin.short} on held-out clips ({before:.3f}); merged {origin.alike}{gone}"
    return f"held-out loss {before:.3f} -> {part.choice.loss:.3f}; merged epoch {part.choice.epoch}{gone}"


def main(argv: Sequence[str] | None = None) -> int:
    return leave(run_main(lambda: train(parse_args(argv)), SAVES_MEMORY))


if __name__ == "__main__":
    raise SystemExit(main())
