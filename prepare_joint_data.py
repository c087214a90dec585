"""Turn recordings and their texts into training data, and say what is wrong with them.

    python prepare_joint_data.py                                   # raw_audio/*.wav + *.txt -> data/
    python prepare_joint_data.py --input-dir my_voice --output-dir data_my_voice
    python prepare_joint_data.py --split                           # cut long recordings into clips first
    python prepare_joint_data.py --fix                             # copies with short edges and even loudness
    python prepare_joint_data.py --transcribe                      # draft missing texts for review

Clips that did not change are not computed again; data/report.txt names every clip that needs attention.
"""

from common.startup import start_script, start_worker

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()
elif __name__ == "__mp_main__":  # a process of several that extract
    start_worker()

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from clips.audio_doctor import (
    Finding,
    audio_flags,
    check_levels,
    check_speakers,
    check_text_help,
    check_texts,
    text_flags,
)
from clips.cutting import split_recordings, write_drafts
from clips.features import EXTRACTION_VERSION, Extraction, Record, default_workers, extract_all
from clips.find import DRAFT_SUFFIX, RawClip, find_clips
from clips.mending import DONE, LOUDNESS_LUFS, fix_recordings, fixed_folder
from clips.report import report_entry, report_text
from clips.report_page import report_page
from clips.text_check import Spoken, TextCheck
from common.files import PART_SUFFIX, only_run, write_text
from common.recogniser import Recogniser, character_error_rate, missing
from config import UserError
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import CUDA_PROVIDER, onnxruntime
from cosyvoice.utils.audio_files import AudioError, read_audio, require_sound_file
from cosyvoice.utils.common import EXTRACTOR_RATE
from cosyvoice.utils.files import read_file
from cosyvoice.utils.records import read_record
from cosyvoice.utils.weights import file_fingerprint
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config, require_files
from dataset import EXTRACTORS, META_FILE, extractor_fingerprints, write_shard
from text.languages import digits_in_english, language_of, tagged_language
from text.normalizer import DEFAULT
from utils import (
    ASR_HELP,
    DEFAULT_DATA_DIR,
    DEFAULT_INPUT_DIR,
    DEFAULT_MODEL,
    MODEL_HELP,
    add_normalizer_argument,
    command_line,
    find_folder,
    run_main,
    select_device,
    user_mistakes,
)

CLIPS_PER_SHARD = 200
CACHED = ("*.npz*", "*.help.json*", "*.heard.json*")  # after the clip's fingerprint
PRINTED_LINES = 40  # of the report; report.txt has all
LANGUAGE_CLIPS = 5  # by which a recogniser tells the language of texts in Latin letters
TEXT_PACKAGES = ("wetext", "inflect", "num2words", "py3langid")  # their versions decide how numbers are written out


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; the older tool's --input_dir, --output_dir and --pretrained_dir are accepted."""
    title, _, examples = __doc__.partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=title, epilog=examples, formatter_class=raw, allow_abbrev=False)
    add = parser.add_argument
    input_help = (
        f"folder of the recordings and texts [{DEFAULT_INPUT_DIR}] | 录音和文本所在的文件夹 [{DEFAULT_INPUT_DIR}]"
    )
    add("--input-dir", "--input_dir", type=Path, help=input_help)
    add(
        "--output-dir",
        "--output_dir",
        type=Path,
        default=Path(DEFAULT_DATA_DIR),
        help=f"folder for training data and report [{DEFAULT_DATA_DIR}] | 训练数据和报告的文件夹 [{DEFAULT_DATA_DIR}]",
    )
    add("--model-dir", "--model_dir", "--pretrained_dir", type=Path, help=MODEL_HELP)
    add(
        "--device",
        default="auto",
        help="where to compute: auto, cpu or cuda [auto] | 用什么计算：auto、cpu 或 cuda [auto]",
    )
    add("--workers", type=int, help="processes side by side [as many as help, at most 4] | 并行进程数 [自动，最多 4]")
    add("--force", action="store_true", help="compute unchanged clips again, too | 没有变化的录音也重新计算")
    check_help = "do not ask the LLM whether each text fits its recording | 不用 LLM 核对文本与录音是否相符"
    add("--no-text-check", action="store_true", help=check_help)
    split_help = "only cut long recordings at pauses into clips of 1.5-15 s | 只把长录音在停顿处切成 1.5～15 秒的小段"
    add("--split", action="store_true", help=split_help)
    fix_help = (
        f"only write copies to INPUT_DIR_fixed, edges trimmed, {LOUDNESS_LUFS:g} LUFS | "
        f"只把副本写到 INPUT_DIR_fixed：剪去首尾静音，响度 {LOUDNESS_LUFS:g} LUFS"
    )
    add("--fix", action="store_true", help=fix_help)
    draft_help = "only draft missing texts, for you to correct | 只为缺文本的录音写草稿，供你改正"
    add("--transcribe", action="store_true", help=draft_help)
    add_normalizer_argument(parser, otherwise=f"{DEFAULT} | {DEFAULT}")
    add("--asr-model", type=Path, help=ASR_HELP)
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"argument --workers: {args.workers} must be at least 1")
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """UserError for flags that would do nothing beside the others."""
    only = [f"--{name}" for name in ("fix", "split", "transcribe") if getattr(args, name)]
    if args.fix and len(only) > 1:
        raise UserError("give --fix by itself: cut and draft first, then fix what came out")
    idle = [name for name in ("force", "workers", "no_text_check", "text_normalizer") if only and getattr(args, name)]
    if idle:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UserError(f"{only[0]} makes no training data and does not use {named}; leave it out")
    if args.asr_model and (args.no_text_check or only and not args.transcribe):
        raise UserError(f"--asr-model is not used with {only[0] if only else '--no-text-check'}; leave one of them out")


# ---- what a clip's features depend on --------------------------------------------------------------------------------


def data_meta(config: ModelConfig, text_normalizer: str) -> dict[str, Any]:
    """What meta.json says of the model directory and of who reads the texts.

    Raises FileNotFoundError where a file is missing."""
    require_files(config.directory, EXTRACTORS)
    return {
        "token_rate_hz": config.token_rate_hz,
        "sample_rate": config.sample_rate,
        "text_token_size": config.text_token_size,
        "speech_token_size": config.speech_token_size,
        "extractors": extractor_fingerprints(config),
        "text_normalizer": text_normalizer,
    }


def settings_digest(config: ModelConfig, meta: dict[str, Any]) -> str:
    """sha256 of all that features depend on besides audio and transcript."""
    settings = [EXTRACTION_VERSION, *meta["extractors"].values(), config.token_rate_hz, meta["text_normalizer"]]
    return sha256([*settings, *map(version, TEXT_PACKAGES)])


def sha256(data: Any) -> str:
    """Hexadecimal digest of plain data."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


# ---- clips on their way to the data set ------------------------------------------------------------------------------


@dataclass
class Candidate:
    """A recording with all that was found out about it."""

    raw: RawClip
    audio: str  # sha256 of the file, "" where it cannot be opened
    fingerprint: str  # sha256 over audio, transcript and extraction settings
    finding: Finding
    record: Record | None = None  # None only for a second file of the same name

    @classmethod
    def of(cls, raw: RawClip, settings: str) -> "Candidate":
        """The recording with its fingerprint and the flags of its files."""
        try:
            require_sound_file(raw.path)
            audio = file_fingerprint(raw.path)
        except (OSError, AudioError):
            audio = ""  # extraction finds the reason
        finding = Finding(raw.name, raw.file)
        for name, figures in raw.flags.items():
            finding.flag(name, **figures)
        # files that cannot be opened are told apart by their names: each has a reason of its own
        return cls(raw, audio, sha256([audio or raw.file, raw.text, settings]), finding)

    @property
    def used(self) -> bool:
        """Whether it goes into the data set."""
        return self.finding.status != "dropped"


def extract_clips(
    clips: Sequence[Candidate],
    cache: Path,
    config: ModelConfig,
    device: str,
    text_normalizer: str,
    workers: int | None,
    force: bool,
) -> str:
    """Fill in the clips' records, computing those that are missing, or with `force` all; what to say where the models
    made something of none, "" where they did.

    device: of `onnx_device`. workers: processes; None: as many as help."""
    jobs = {}
    for clip in clips:
        path = cache / f"{clip.fingerprint}.npz"
        known = Record.load(path)
        # what could not be decoded is tried again: the fault may have been outside of the file
        if "duplicate_name" not in clip.raw.flags and (force or known is None or known.problem):
            jobs[path] = Extraction(clip.raw.path, clip.raw.text or "", path, config.directory, device, text_normalizer)
    if jobs:
        workers = min(len(jobs), workers or default_workers(len(jobs), device, config.directory))
        print(f"to do     {len(jobs)} new or changed of {len(clips)}, {workers} at a time", flush=True)
        faults = extract_all(list(jobs.values()), workers)
    else:
        faults = {}
        print("to do     nothing: no recording, text or model file changed", flush=True)
    for clip in clips:
        if "duplicate_name" not in clip.raw.flags:
            clip.record = Record.load(cache / f"{clip.fingerprint}.npz")
    failed = [path for path, fault in faults.items() if fault]
    if len(failed) < 2 or any(clip.record and clip.record.has_arrays for clip in clips):
        return ""
    return f"the models made nothing of any recording, so the fault is most likely in {config.directory}; "


def examine(clips: Sequence[Candidate]) -> None:
    """Flag each clip by itself, then the usable ones against each other."""
    first: dict[str, str] = {}
    for clip in clips:
        if clip.record is not None:
            _flag_by_record(clip.finding, clip.record, clip.raw.text or "")
        if clip.used and first.setdefault(clip.audio, clip.raw.name) != clip.raw.name:
            clip.finding.flag("duplicate_audio", same_as=first[clip.audio])
    used = [clip for clip in clips if clip.used]
    check_texts([clip.finding for clip in used])
    check_levels([clip.finding for clip in used])
    if used:
        check_speakers([clip.finding for clip in used], speaker_vectors(used))


def _flag_by_record(finding: Finding, record: Record, written: str) -> None:
    if record.figures is None:
        finding.flag("unreadable", problem=record.problem)
        return
    finding.figures.update(asdict(record.figures), text=record.text, written=written, waveform=record.waveform)
    for name, figures in record.flags.items():
        finding.flag(name, **figures)
    no_text = {"missing_text", "unreadable_text"} & set(finding.flags)
    for name in audio_flags(record.figures) + ([] if no_text else text_flags(record.text, written)):
        finding.flag(name)
    if finding.status != "dropped":
        for figure, name in (("text_tokens", "text_token"), ("speech_tokens", "speech_token")):
            finding.figures[figure] = len(record.array(name))


def check_texts_by_llm(
    clips: Sequence[Candidate], cache: Path, config: ModelConfig, device: torch.device, force: bool
) -> list[str]:
    """Flag texts that are not what is said; notes for the report. Only what is new, or `force`, loads the LLM."""
    weights = config.directory / "llm.pt"
    if not weights.is_file():
        return [f"texts are not checked against the audio: {weights} is missing"]
    with user_mistakes():
        check = TextCheck(cache, file_fingerprint(weights), [spoken(clip) for clip in clips], force)
        if check.todo:
            check.run(load_part(config, "llm").to(device).eval())
    helps = [help_ and help_ * config.token_rate_hz for help_ in check.results()]
    note = check_text_help([clip.finding for clip in clips], helps)
    return [note] if note else []


def open_recogniser(args: argparse.Namespace) -> Recogniser | None:
    """The recogniser; None where none is installed and none was asked for. UserError for a bad --asr-model."""
    absent = args.asr_model is None and missing(with_model=True)
    return None if args.no_text_check or absent else Recogniser(args.asr_model)


def check_texts_by_recogniser(clips: Sequence[Candidate], cache: Path, recogniser: Recogniser, force: bool) -> None:
    """Character error rate of each clip; stored for each clip, and with `force` computed again.

    It flags nothing but digits that were read in English where another language in Latin letters is heard."""
    language = None
    for clip in tqdm(clips, "recognised", unit="clip"):
        text, path = clip.finding.figures["text"], cache / f"{clip.fingerprint}.heard.json"
        stored = read_recognised(path)
        if force or stored is None or stored.recogniser != recogniser.name:
            language = language or recogniser.language([wave_of(clip) for clip in clips[:LANGUAGE_CLIPS]])
            own = language_of(text)
            spoken_in = language if own == "en" and not tagged_language(text) else own  # Latin letters: by the sound
            heard = recogniser.hear(wave_of(clip), spoken_in)
            stored = Recognised(recogniser.name, heard, spoken_in)
            write_text(path, json.dumps(asdict(stored), ensure_ascii=False) + "\n")
        if digits_in_english(clip.raw.text or "", text, stored.language):
            clip.finding.flag("digits_in_english")
        clip.finding.figures["heard"] = stored.heard
        clip.finding.figures["cer"] = round(character_error_rate(text, stored.heard, stored.language), 3)


def wave_of(clip: Candidate) -> np.ndarray:
    """The recording (N,) at 16 kHz."""
    return read_audio(clip.raw.path).mono(EXTRACTOR_RATE)[0].numpy()


@dataclass(frozen=True)
class Recognised:
    """What a recogniser heard in a clip, as it is stored."""

    recogniser: str
    heard: str
    language: str


def read_recognised(path: Path) -> Recognised | None:
    """A stored result; None where there is none that can be read."""
    try:
        return read_record(Recognised, json.loads(read_file(path)), str(path))
    except (OSError, ValueError, RecursionError):
        return None


def spoken(clip: Candidate) -> Spoken:
    """What the text check needs of a clip."""
    record = clip.record
    tokens = (torch.from_numpy(record.array(name)).long() for name in ("text_token", "speech_token"))
    return Spoken(clip.fingerprint, *tokens, torch.from_numpy(record.array("utt_embedding")))


def speaker_vectors(clips: Sequence[Candidate]) -> np.ndarray:
    """(n, 192) raw vectors."""
    return np.stack([clip.record.array("utt_embedding") for clip in clips])


# ---- output ----------------------------------------------------------------------------------------------------------


def publish(
    clips: Sequence[Candidate], meta: dict[str, Any], output_dir: Path, folders: Mapping[str, Path]
) -> list[Path]:
    """Write shards, meta.json and, last, data.list: until then the data set of the run before stays whole.

    folders: input_dir and model_dir, from which `dataset.prepare_again` makes a command.
    """
    mean = speaker_vectors(clips).astype(np.float64).mean(axis=0).astype(np.float32)
    seconds = sum(clip.finding.figures["duration_sec"] for clip in clips)
    meta = {**meta, "clips": len(clips), "seconds": round(seconds, 3)}
    digest = sha256([meta, mean.tolist(), [[clip.raw.name, clip.raw.file, clip.fingerprint] for clip in clips]])[:12]
    shards = []
    for start in range(0, len(clips), CLIPS_PER_SHARD):
        # another data set gets other names: what data.list names stays as it is until data.list changes
        shards.append(output_dir / f"clips_{len(shards):04}_{digest}.parquet")
        write_shard(shards[-1], [row(clip, mean) for clip in clips[start : start + CLIPS_PER_SHARD]], meta)
    noted = meta | {name: os.path.abspath(folder) for name, folder in folders.items()}
    write_text(output_dir / META_FILE, json.dumps(noted, indent=2, sort_keys=True) + "\n")
    write_text(output_dir / "data.list", "".join(f"{path.name}\n" for path in shards))
    for path in set(output_dir.glob("clips_*.parquet*")) - set(shards):
        path.unlink(missing_ok=True)
    return shards


def row(clip: Candidate, mean: np.ndarray) -> dict[str, Any]:
    """The clip as dataset.SCHEMA wants it; mean: speaker vector of the whole set."""
    record = clip.record
    mel = record.array("speech_feat")
    return {
        "utt": clip.raw.name,
        "wav": clip.raw.file,
        "text": record.text,
        "text_token": record.array("text_token"),
        "speech_token": record.array("speech_token"),
        "speech_feat": mel.reshape(-1),
        "speech_feat_len": len(mel),
        "utt_embedding": record.array("utt_embedding"),
        "spk_embedding": mean,
        "duration_sec": clip.finding.figures["duration_sec"],
        "fingerprint": clip.fingerprint,
    }


def write_report(findings: Sequence[Finding], notes: Sequence[str], input_dir: Path, output_dir: Path) -> None:
    """report.json, an array with one clip a line; report.txt and report.html for people."""
    lines = ",\n".join(json.dumps(report_entry(finding), ensure_ascii=False) for finding in findings)
    write_text(output_dir / "report.json", f"[\n{lines}\n]\n")
    write_text(output_dir / "report.txt", report_text(findings, notes) + "\n")
    write_text(output_dir / "report.html", report_page(findings, notes, input_dir, output_dir))


def forget_old_files(cache: Path, clips: Iterable[Candidate]) -> None:
    """Delete what clips left that are gone or have changed, and what a killed run left half-done."""
    fingerprints = {clip.fingerprint for clip in clips}
    for path in (path for pattern in CACHED for path in cache.glob(pattern)):
        if path.is_file() and (path.name.partition(".")[0] not in fingerprints or path.suffix == PART_SUFFIX):
            path.unlink(missing_ok=True)


# ---- the command -----------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> None:
    """Recordings -> data set and report; raises UserError where that is impossible."""
    check_arguments(args)
    input_dir = find_folder(args.input_dir, DEFAULT_INPUT_DIR, "put 001.wav, 001.txt, ... there or give --input-dir")
    raw_clips, notes = find_clips(input_dir)
    if args.fix:
        return fix(args, input_dir, raw_clips, notes)
    if args.split or args.transcribe:
        return make_clips(args, input_dir, raw_clips, notes)
    refuse_output_among_recordings(args.output_dir, input_dir, raw_clips)
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    device, extractors_on = select_device(args.device), onnx_device(args.device)
    with user_mistakes():
        config = read_model_config(model_dir)
        meta = data_meta(config, args.text_normalizer or DEFAULT)
    print(f"model     {model_dir} ({config.token_rate_hz} speech tokens/s), on {extractors_on}")
    print(f"audio     {input_dir}: {len(raw_clips)} recordings", flush=True)
    recogniser = open_recogniser(args)
    with only_run(args.output_dir, "prepare_joint_data.py"):
        settings = settings_digest(config, meta)
        clips, cache = [Candidate.of(raw, settings) for raw in raw_clips], args.output_dir / "cache"
        doubt = extract_clips(clips, cache, config, extractors_on, meta["text_normalizer"], args.workers, args.force)
        examine(clips)
        used = [clip for clip in clips if clip.used]
        if not args.no_text_check:
            notes += check_texts_by_llm(used, cache, config, device, args.force)
        if recogniser is not None:
            check_texts_by_recogniser(used, cache, recogniser, args.force)
        findings = [clip.finding for clip in clips]
        write_report(findings, notes, input_dir, args.output_dir)
        print(f"\n{report_text(findings, notes, PRINTED_LINES)}\n", flush=True)
        if not used:
            raise UserError(
                f"none of the {len(clips)} recordings in {input_dir} can be used, no training data was written; {doubt}"
                f"{findings[0].clip}: {findings[0].reasons[0]}; all reasons are in {args.output_dir / 'report.txt'}"
            )
        shards = publish(used, meta, args.output_dir, {"input_dir": input_dir, "model_dir": model_dir})
        forget_old_files(cache, clips)
    print(f"data      {args.output_dir / 'data.list'} and {len(shards)} parquet file{'s' * (len(shards) > 1)}")
    print(f"report    {args.output_dir / 'report.txt'}, report.html, report.json")
    following = command_line("train_joint.py", data_dir=args.output_dir, model_dir=args.model_dir)
    print(f"next\n{following}", flush=True)


def refuse_output_among_recordings(output_dir: Path, input_dir: Path, clips: Sequence[RawClip]) -> None:
    """UserError where report.txt would lie beside recordings: it is the transcript of a recording report.wav."""
    if output_dir.resolve() in {folder.resolve() for folder in (input_dir, *(clip.path.parent for clip in clips))}:
        raise UserError(f"{output_dir} holds recordings; choose another folder for the training data with --output-dir")


def make_clips(args: argparse.Namespace, input_dir: Path, clips: list[RawClip], notes: list[str]) -> None:
    """--split and --transcribe: files for a person to check; no training data is made."""
    recogniser = Recogniser(args.asr_model) if args.transcribe else None  # refused before anything is cut
    if args.split:
        lines = split_recordings(clips)
        clips, notes = find_clips(input_dir)
        print("\n".join(lines + notes) or f"nothing to cut: all recordings in {input_dir} are short enough")
    if recogniser:
        drafts, lines = write_drafts(clips, recogniser)
        print("\n".join([*lines, *([] if args.split else notes), f"{len(drafts)} drafts written (*{DRAFT_SUFFIX})"]))
        if any(os.path.isfile(clip.sibling(DRAFT_SUFFIX)) for clip in clips if "missing_text" in clip.flags):
            print(f"Listen, correct each, and rename 001{DRAFT_SUFFIX} to 001.txt: only then is it trained on,")
            print("for a text that differs from the audio teaches the voice wrong words.")
    elif missing := [clip for clip in clips if "missing_text" in clip.flags]:
        first = missing[0].path
        print(f"{len(missing)} recordings have no text: write what is said in {first.name}")
        print(f"into {first.with_suffix('.txt').name} beside it, and so on,")
        print(f"or have drafts written: {same_folders(args)} --transcribe")
    print(f"then\n{same_folders(args)}", flush=True)


def same_folders(args: argparse.Namespace, input_dir: Path | None = None) -> str:
    """A command with the folders of this one: without them one voice's data would take the place of another's."""
    folders = {"input_dir": input_dir or args.input_dir, "output_dir": args.output_dir, "model_dir": args.model_dir}
    return command_line("prepare_joint_data.py", **folders)


def fix(args: argparse.Namespace, input_dir: Path, clips: list[RawClip], notes: list[str]) -> None:
    """--fix: mended copies beside the recordings; no training data is made."""
    lines, target = fix_recordings(clips, input_dir), fixed_folder(input_dir)
    print("\n".join(lines + notes) or "nothing had to be changed")
    print(f"copies are in {target}, what was done to each in {target / DONE}; the originals are untouched")
    print(f"then\n{same_folders(args, target)}", flush=True)


def onnx_device(name: str) -> str:
    """ "cpu" or "cuda:0", where the ONNX models run; UserError where a GPU is asked for that onnxruntime cannot use."""
    device = select_device(name)
    if device.type == "cuda" and CUDA_PROVIDER not in onnxruntime.get_available_providers():
        if name != "auto":
            raise UserError(f"--device {name} needs pip install onnxruntime-gpu; --device cpu is fast enough here")
        return "cpu"
    return str(device) if device.type == "cuda" else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 after a mistake of the user's, 130 after Ctrl-C (finished clips are kept)."""
    return run_main(lambda: prepare(parse_args(argv)), "use --workers 1 and shorter recordings")


if __name__ == "__main__":
    sys.exit(main())
