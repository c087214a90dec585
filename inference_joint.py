"""Speak text in the trained voice; no reference audio anywhere.

python inference_joint.py --text "The quick brown fox."
python inference_joint.py --text-file sentences.txt --output output/book.wav --seed 7
python inference_joint.py --ckpt output/joint_joint_last.ckpt --lora-scale 0.8 --text "A little less of it."
python inference_joint.py --base --text "How the base model says it."
"""

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from clips.audio_doctor import text_flags
from common.files import read_lines, text_name, too_long
from config import UserError
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.yaml_loader import read_model_config
from text.normalizer import unread_signs
from utils import (
    AS_PREPARED,
    DEFAULT_MODEL,
    DEFAULT_OUTPUT_DIR,
    add_device_argument,
    add_folder_arguments,
    add_merged_arguments,
    add_normalizer_argument,
    add_seed_argument,
    add_set_argument,
    add_setting_argument,
    check_seed,
    find_folder,
    read_settings,
    run_main,
    select_device,
    user_mistakes,
)
from voice.loading import Source, check_strength, choose_normalizer, load_voice
from voice.speaking import BATCH, Speaker, Speech, normalized, speakable, unreadable, write_audio

DEFAULT_OUTPUT = "result.wav"  # in the output folder
SPEEDS = (0.5, 2.0)
MAX_NAMED = 20  # letters or lines in a warning
SIGNS = {  # flags of a text, and what is said about them
    "markup_left": "contains markup or symbols that are read aloud; remove what should not be spoken",
    "digits_in_english": "digits are read in English; write the numbers as words",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="text to speak | 要合成的文本")
    file_help = "file with one text a line, one sound each; - is standard input | 文本文件，每行一个音频；- 为标准输入"
    text.add_argument("--text-file", type=Path, help=file_help)
    add_merged_arguments(parser)
    parser.add_argument("--ckpt", type=Path, help="speak from a checkpoint, not merged | 直接用检查点合成，不必合并")
    scale_help = "strength of --ckpt: 0 is the base model, at most 2 [1.0] | --ckpt 的强度：0 即基座模型，最大 2 [1.0]"
    parser.add_argument("--lora-scale", type=float, default=1.0, help=scale_help)
    parser.add_argument(
        "--base", action="store_true", help="the untouched base model, in this voice | 用未训练的基座模型念"
    )
    parser.add_argument(
        "--speaker", metavar="NAME", help="another voice, by its name in spk2info.pt | 换一个音色：spk2info.pt 里的名字"
    )
    parser.add_argument(
        "--print-text",
        action="store_true",
        help="print how each text will be read, and stop | 打印每条文本的读法，然后退出",
    )
    parser.add_argument(
        "--output", type=Path, help=f".wav or .flac to write [OUTPUT_DIR/{DEFAULT_OUTPUT}] | 写到哪个 .wav 或 .flac"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="0.5 (slow) to 2.0 (fast) [1.0] | 语速：0.5（慢）～2.0（快）[1.0]"
    )
    add_normalizer_argument(parser, otherwise=AS_PREPARED)
    add_seed_argument(parser)
    add_setting_argument(parser, "--flow-steps", "inference.flow_steps")
    add_setting_argument(parser, "--flow-solver", "inference.flow_solver")
    add_setting_argument(parser, "--precision", "inference.precision")
    add_set_argument(parser)
    add_folder_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or Path(DEFAULT_OUTPUT_DIR)
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """UserError for values and combinations that make no sense, before anything is loaded."""
    if not (math.isfinite(args.speed) and SPEEDS[0] <= args.speed <= SPEEDS[1]):
        raise UserError(f"--speed {args.speed:g}: give a number from {SPEEDS[0]} (slow) to {SPEEDS[1]} (fast)")
    check_strength(args.lora_scale, of_checkpoint=bool(args.ckpt))
    check_seed(args.seed)
    if args.base + bool(args.ckpt) + bool(args.llm or args.flow) > 1:
        raise UserError("give one of --base, --ckpt, or --llm/--flow, not several")
    if args.ckpt and args.speaker:
        raise UserError("--speaker works with --base or open merged files; a checkpoint has its own voice")


def check_output(output: Path) -> None:
    """UserError for a path that no sound file can be written to."""
    if output.suffix.lower() not in (".wav", ".flac"):
        raise UserError(f"--output {output}: the name must end in .wav or .flac")
    if too_long(output):
        raise UserError(f"{output}: a name in it is too long for the disk; give a shorter one with --output")
    if output.is_dir():
        raise UserError(f"{output} is a folder; give the name of a file with --output")


def numbered(output: Path, number: int) -> Path:
    """Where the sound of a line of a text file goes."""
    return output.with_name(f"{output.stem}_{number:04d}{output.suffix}")


# ---- the script ------------------------------------------------------------------------------------------------------


def infer(args: argparse.Namespace) -> int:
    """Check everything, load, speak, write."""
    check_arguments(args)
    lines = [args.text] if args.text is not None else read_lines(args.text_file)
    output = args.output or args.output_dir / DEFAULT_OUTPUT
    check_output(output if args.text is not None else numbered(output, len(lines)))  # no other is longer
    device = select_device(args.device)
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    config = read_settings(args.overrides, model_dir)[0]
    source = Source(args.output_dir, args.base, args.ckpt, args.llm, args.flow, args.lora_scale, args.speaker)
    frontend, texts = read_texts(lines, args.text_normalizer, source, model_dir, print_text=args.print_text)
    check_texts(args, texts)
    if args.print_text:
        return 0
    texts = {number: segments for number, segments in texts.items() if segments}

    model, voice = load_voice(source, model_dir, device, config.inference.precision)
    speaker = Speaker(model, frontend, voice, config.inference, args.speed)
    doubtful = 0
    total = sum(map(len, texts.values()))
    with tqdm(total=total, desc="speaking", unit="segment", disable=total == 1) as bar:
        for group in groups(texts):
            started = time.monotonic()
            speeches = speaker.speak_texts([texts[number] for number in group], args.seed, heard=bar.update)
            spoken = dict(zip(group, speeches, strict=True))
            for number, speech in spoken.items():
                path = output if args.text is not None else numbered(output, number)
                replaced = "; it replaced an earlier file" if path.exists() else ""
                write_audio(path, speech.wave, speaker.sample_rate)
                print(f"{path}: {seconds(speech, speaker):.2f} s of speech{replaced}", flush=True)
                for complaint in speech.complaints:
                    print(f"warning: {path}: {complaint}", flush=True)
                doubtful += bool(speech.complaints)
            took, said = time.monotonic() - started, sum(seconds(speech, speaker) for speech in spoken.values())
            print(f"{said:.2f} s of speech in {took:.1f} s (real-time factor {took / said:.2f})", flush=True)
    if doubtful:
        print(f"{doubtful} of {len(texts)} files are doubtful: listen, try another --seed or an earlier checkpoint")
    return 0


def read_texts(
    lines: Sequence[str], asked: str | None, source: Source, model_dir: Path, *, print_text: bool
) -> tuple[CosyVoiceFrontEnd, dict[int, list[str]]]:
    """The front end, and {number of the line from 1: its segments, [] where nothing can be spoken}.

    asked: name of the text normaliser, None for the one that the voice was prepared with. print_text: print how each
    line is read, also what this model has no letters for, one line each, and warnings to standard error."""
    warn = partial(print, file=sys.stderr if print_text else sys.stdout, flush=True)
    reader, warning = choose_normalizer(asked, [source], model_dir)
    if warning:
        warn(warning)
    with user_mistakes():
        frontend = CosyVoiceFrontEnd(read_model_config(model_dir), normalizer=reader)
        read = normalized if print_text else speakable
        texts = {number: read(frontend, line) for number, line in enumerate(lines, start=1)}
    for line in warnings(frontend, lines, texts):
        warn(f"warning: {line}")
    if print_text:
        for segments in texts.values():
            print(" ".join("".join(segments).split()))
    return frontend, texts


def check_texts(args: argparse.Namespace, texts: Mapping[int, Sequence[str]]) -> None:
    """UserError where nothing can be spoken; else the numbers of the lines of which that is so are printed."""
    for number in [number for number, segments in texts.items() if not segments]:
        if args.text is not None:
            raise UserError(f"--text {args.text!r}: nothing in it can be spoken; give words or numbers")
        skipped = f"{text_name(args.text_file)}, line {number}: nothing that can be spoken; skipped"
        print(skipped, file=sys.stderr if args.print_text else sys.stdout, flush=True)
    if not any(texts.values()):
        raise UserError(f"{text_name(args.text_file)}: no line holds anything that can be spoken")


def warnings(frontend: CosyVoiceFrontEnd, lines: Sequence[str], texts: Mapping[int, Sequence[str]]) -> Iterator[str]:
    """What will be read wrongly or not at all: letters that the model does not know, and each of SIGNS.

    texts: {number of the line from 1: its segments}."""
    if letters := unreadable(frontend, "".join(lines)):
        named = " ".join(letters[:MAX_NAMED]) + (" ..." if len(letters) > MAX_NAMED else "")
        yield f"this model cannot read {named}: words with these letters are skipped or sound like noise"
    spoken = {number: "".join(segments) for number, segments in texts.items()}
    flags = {number: text_flags(spoken[number], line) for number, line in enumerate(lines, 1)}
    for flag, warning in SIGNS.items():
        if found := [number for number, names in flags.items() if flag in names]:
            named = ", ".join(map(str, found[:MAX_NAMED])) + (" ..." if len(found) > MAX_NAMED else "")
            where = f"line{'s' * (len(found) > 1)} {named}" if len(lines) > 1 else "the text"
            signs = unread_signs("".join(spoken[number] for number in found))[:MAX_NAMED]
            yield f"{where}: {warning}" + (f" ({' '.join(signs)})" if signs and flag == "markup_left" else "")


def groups(texts: Mapping[int, Sequence[str]]) -> Iterator[list[int]]:
    """Numbers of texts, in order, that are spoken together: as many as make up a batch of segments."""
    group, waiting = [], 0
    for number, segments in texts.items():
        group.append(number)
        waiting += len(segments)
        if waiting >= BATCH:
            yield group
            group, waiting = [], 0
    if group:
        yield group


def seconds(speech: Speech, speaker: Speaker) -> float:
    """Length of the sound."""
    return speech.wave.shape[1] / speaker.sample_rate


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: infer(parse_args(argv)), "speak shorter texts")


if __name__ == "__main__":
    raise SystemExit(main())
