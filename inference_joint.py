"""Speak text in the trained voice; no reference audio anywhere.

python inference_joint.py --text "The quick brown fox."
python inference_joint.py --text-file sentences.txt --output output/book.wav --seed 7
python inference_joint.py --ckpt output/joint_joint_last.ckpt --lora-scale 0.8 --text "A little less of it."
python inference_joint.py --base --text "How the base model says it."
"""

import argparse
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from checkpoint import PARTS, base_fingerprint, check_base, is_baked, load_checkpoint, merged_part
from config import InferenceConfig, JointConfig, UserError, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.utils.weights import read_spk2info, speaker_embedding
from cosyvoice.utils.yaml_loader import read_model_config
from runaway import listen, loop_seconds
from utils import (
    DEFAULT_MODEL,
    DEFAULT_OUTPUT_DIR,
    add_device_argument,
    add_folder_arguments,
    atomic_path,
    command_line,
    find_folder,
    read_finetune_yaml,
    run_main,
    select_device,
    user_mistakes,
)

DEFAULT_OUTPUT = "result.wav"  # in the output folder
SPEEDS = (0.5, 2.0)
TAG = re.compile(r"<\|.*?\|>")  # <|en|> and the like steer the model and are not spoken
LENGTH_SLACK_SEC = 1.0  # on top of the expected duration: short texts vary most


@dataclass(frozen=True)
class Voice:
    """A speaker: vector (1, 192), and seconds of speech per text token where that was measured."""

    name: str
    embedding: Tensor
    seconds_per_text_token: float | None = None


@dataclass(frozen=True)
class Speech:
    """Sound of one segment, (1, N) at the model's rate, and what the guard has against it."""

    wave: Tensor
    complaints: list[str]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="text to speak | 要合成的文本")
    text.add_argument("--text-file", type=Path, help="one wav a line, numbered | 文本文件，每行生成一个音频")
    parser.add_argument("--llm", type=Path, help="merged LLM [newest in OUTPUT_DIR] | 合并后的 LLM 权重")
    parser.add_argument("--flow", type=Path, help="merged flow [newest in OUTPUT_DIR] | 合并后的 Flow 权重")
    parser.add_argument("--ckpt", type=Path, help="speak straight from a checkpoint | 直接用检查点合成")
    parser.add_argument("--lora-scale", type=float, default=1.0, help="strength with --ckpt, 0-2 [1.0] | LoRA 强度")
    parser.add_argument("--base", action="store_true", help="the untouched base model | 使用原始基座模型")
    parser.add_argument("--speaker", metavar="NAME", help="a voice of spk2info.pt | 音色名称")
    parser.add_argument("--output", type=Path, help=f"wav or flac [OUTPUT_DIR/{DEFAULT_OUTPUT}] | 输出音频路径")
    parser.add_argument("--speed", type=float, default=1.0, help="0.5 (slow) to 2.0 (fast) [1.0] | 语速")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same audio [0] | 随机种子")
    parser.add_argument("--flow-steps", metavar="N", help="Euler steps [10] | Flow 求解步数")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="setting | 覆盖配置项"
    )
    add_folder_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or Path(DEFAULT_OUTPUT_DIR)
    return args


# ---- what to speak with ----------------------------------------------------------------------------------------------


def check_arguments(args: argparse.Namespace) -> None:
    """UserError for values and combinations that make no sense, before anything is loaded."""
    if not (math.isfinite(args.speed) and SPEEDS[0] <= args.speed <= SPEEDS[1]):
        raise UserError(f"--speed {args.speed:g}: give a number from {SPEEDS[0]} (slow) to {SPEEDS[1]} (fast)")
    if not (math.isfinite(args.lora_scale) and 0 <= args.lora_scale <= 2):
        raise UserError(f"--lora-scale {args.lora_scale:g}: give a number from 0 to 2")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: give a whole number from 0 to {2**32 - 1}")
    if args.base + bool(args.ckpt) + bool(args.llm or args.flow) > 1:
        raise UserError("give one of --base, --ckpt, or --llm/--flow, not several")
    if args.ckpt and args.speaker:
        raise UserError("--speaker works with --base or open merged files; a checkpoint has its own voice")
    if args.lora_scale != 1.0 and not args.ckpt:
        raise UserError("--lora-scale works with --ckpt; merged files have their strength fixed")


def newest_pair(output_dir: Path) -> dict[str, Path]:
    """The newest LLM and flow that were merged together; UserError where there is none."""
    for llm in sorted(output_dir.glob("llm_merged_*.pt"), key=lambda path: -path.stat().st_mtime):
        flow = llm.with_name(llm.name.replace("llm_", "flow_", 1))
        if flow.is_file():
            return {"llm": llm, "flow": flow}
    if any(output_dir.glob("joint_*_last.ckpt")):
        merge = command_line("merge_joint_weights.py", output_dir=output_dir)
        raise UserError(
            f"the training in {output_dir} did not end; go on with it (--resume), or merge it as it is: {merge}"
        )
    raise UserError(
        f"no trained voice in {output_dir} (llm_merged_*.pt with its flow_merged_*.pt); run: python train_joint.py, "
        "give --llm and --flow, or use --base for the untouched model"
    )


def weight_files(args: argparse.Namespace, model_dir: Path) -> dict[str, Path]:
    """{part: file} to load."""
    if args.base or args.ckpt:
        return {part: model_dir / f"{part}.pt" for part in PARTS}
    given = {part: getattr(args, part) for part in PARTS}
    if all(given.values()):
        return given
    newest = newest_pair(args.output_dir)
    return {part: given[part] or newest[part] for part in PARTS}


def voices_in(folder: Path) -> dict[str, Voice]:
    """Named voices of the folder's spk2info.pt; {} where it has none."""
    path = folder / "spk2info.pt"
    with user_mistakes():
        entries = read_spk2info(path)
        return {
            name: Voice(name, speaker_embedding(entry), entry.get("seconds_per_text_token"))
            for name, entry in entries.items()
        }


def choose_voice(args: argparse.Namespace, model_dir: Path, folder: Path, needed: bool) -> Voice:
    """The named voice, else the trained one (last in `folder`), else the first of the model directory.

    needed: False where the weights speak in one voice whatever vector they get.
    """
    trained, own = voices_in(folder), voices_in(model_dir)
    known = {**own, **trained}
    if args.speaker is not None:
        if args.speaker not in known:
            raise UserError(f"--speaker {args.speaker}: no such voice; known: {', '.join(known) or 'none'}")
        return known[args.speaker]
    if trained:
        return list(trained.values())[-1]
    if not needed:
        return Voice("baked in", torch.zeros(1, 192))
    if own:
        return next(iter(own.values()))
    raise UserError(
        f"no speaker vector: neither {folder / 'spk2info.pt'} nor {model_dir / 'spk2info.pt'} holds a voice; train one "
        "(python train_joint.py), point --output-dir to one, or use a model with named voices (CosyVoice-300M-SFT)"
    )


def load_voice(args: argparse.Namespace, model_dir: Path, device: torch.device) -> tuple[CosyVoiceModel, Voice]:
    """The three networks with the chosen weights, and the voice to feed them; prints which."""
    files = weight_files(args, model_dir)
    checkpoint = load_checkpoint(args.ckpt) if args.ckpt else None
    if checkpoint is not None:
        check_base(checkpoint, args.ckpt, base_fingerprint(model_dir), model_dir)
    with user_mistakes():
        config = read_model_config(model_dir)
        parts = {part: load_part(config, part, path, inference=True) for part, path in files.items()}
        hift = load_part(config, "hift", inference=True)
        if checkpoint is not None:
            for part, network in parts.items():
                state = merged_part(checkpoint, args.ckpt, model_dir, part, lora_scale=args.lora_scale)
                network.load_state_dict(state, assign=True)
    if checkpoint is not None:
        speaker = checkpoint["speaker"]
        voice = Voice(speaker["name"], speaker["embedding"], speaker["seconds_per_text_token"])
    else:
        folder = args.output_dir if args.base else files["llm"].parent
        open_input = not all(is_baked(network.state_dict()) for network in parts.values())
        voice = choose_voice(args, model_dir, folder, needed=open_input)
        if args.speaker and not open_input:
            raise UserError("--speaker: these files have one voice baked in; use --base, or merge --no-bake-speaker")
    source = args.ckpt or ", ".join(map(str, files.values()))
    print(f"speaking with {source}; voice: {voice.name}", flush=True)
    return CosyVoiceModel(parts["llm"], parts["flow"], hift, device), voice


# ---- speaking --------------------------------------------------------------------------------------------------------


class Speaker:
    """Text in, checked sound out, with one model and one voice."""

    def __init__(
        self,
        model: CosyVoiceModel,
        frontend: CosyVoiceFrontEnd,
        voice: Voice,
        limits: InferenceConfig,
        speed: float = 1.0,
    ) -> None:
        self.model, self.frontend, self.voice, self.limits, self.speed = model, frontend, voice, limits, speed
        self.sample_rate = frontend.config.sample_rate
        self.token_rate_hz = frontend.config.token_rate_hz

    def speak(self, segments: Sequence[str], seed: int) -> Speech:
        """All segments in order, joined without pause."""
        spoken = [self.speak_segment(segment, seed) for segment in segments]
        complaints = [
            f"'{segment}': {complaint}"
            for segment, speech in zip(segments, spoken, strict=True)
            for complaint in speech.complaints
        ]
        return Speech(torch.cat([speech.wave for speech in spoken], dim=1), complaints)

    def speak_segment(self, segment: str, seed: int) -> Speech:
        """One segment; after a runaway the next seeds are tried, and the least bad attempt is kept."""
        attempts = []
        for attempt in range(self.limits.max_retries + 1):
            torch.manual_seed(seed + attempt)
            attempts.append(self.attempt(segment))
            if not attempts[-1].complaints:
                break
        if not any(speech.wave.shape[1] for speech in attempts):
            raise UserError(f"'{segment}': the model gives no speech; raise inference.max_token_text_ratio")
        chosen = min(
            attempts, key=lambda speech: (not speech.wave.shape[1], len(speech.complaints), speech.wave.shape[1])
        )
        if len(attempts) > 1:
            outcome = "still not right, the least bad one is kept" if chosen.complaints else "good"
            reasons = "; ".join(attempts[0].complaints)
            print(f"runaway in '{segment}' ({reasons}): {len(attempts) - 1} more seeds tried, {outcome}", flush=True)
        return chosen

    def attempt(self, segment: str) -> Speech:
        """One try with the generator as it stands."""
        text = torch.tensor([self.frontend.text_tokens(segment)], dtype=torch.int32)
        longest = self.longest(text.shape[1])
        tokens, complaints = [], []
        for token in self.model.speech_tokens(
            text,
            self.voice.embedding,
            min_token_text_ratio=self.limits.min_token_text_ratio,
            max_token_text_ratio=self.limits.max_token_text_ratio,
        ):
            tokens.append(token)
            if len(tokens) >= longest:
                complaints.append(f"longer than {longest / self.token_rate_hz:.1f} s, cut there")
                break
        else:
            if not self.model.llm.stopped_by_eos:
                complaints.append("did not end by itself")
        if not tokens:
            return Speech(torch.zeros(1, 0), ["no speech"])
        if len(tokens) < self.shortest(text.shape[1]):
            complaints.append(f"only {len(tokens) / self.token_rate_hz:.1f} s, too short for its text")
        if (looped := loop_seconds(tokens, self.token_rate_hz)) > self.limits.max_silence_sec:
            complaints.append(f"repeats itself for {looped:.1f} s")
        empty = torch.zeros(1, 0, dtype=torch.int32)
        wave = self.model.token2wav(
            torch.tensor([tokens], dtype=torch.int32),
            empty,
            torch.zeros(1, 0, 80),
            self.voice.embedding,
            uuid="",
            finalize=True,
            speed=self.speed,
            n_timesteps=self.limits.flow_steps,
        )
        return Speech(wave, complaints + listen(wave, self.sample_rate, self.limits.max_silence_sec / self.speed))

    def shortest(self, n_text_tokens: int) -> float:
        """Speech tokens below which a segment counts as cut short; 0 where the voice's rate is unknown."""
        if self.voice.seconds_per_text_token is None:
            return 0.0
        expected = n_text_tokens * self.voice.seconds_per_text_token
        return (expected / self.limits.max_duration_ratio - LENGTH_SLACK_SEC / 2) * self.token_rate_hz

    def longest(self, n_text_tokens: int) -> float:
        """Speech tokens after which a segment counts as run away; no limit where the voice's rate is unknown."""
        if self.voice.seconds_per_text_token is None:
            return math.inf
        expected = n_text_tokens * self.voice.seconds_per_text_token
        return round((self.limits.max_duration_ratio * expected + LENGTH_SLACK_SEC) * self.token_rate_hz)


def write_audio(path: Path, wave: Tensor, sample_rate: int) -> None:
    """16-bit sound file under its final name only when complete."""
    with atomic_path(path) as part:
        try:
            samples, kind = wave[0].clamp(-1, 1).numpy(), path.suffix[1:].upper()
            soundfile.write(part, samples, sample_rate, format=kind, subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise OSError(str(error)) from error


def speakable(frontend: CosyVoiceFrontEnd, text: str) -> list[str]:
    """Normalised segments of a text that hold a letter or digit besides tags; [] where nothing can be spoken."""
    if not text.isprintable() and any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise UserError("the text holds bytes that are not UTF-8; type it again or use --text-file with a UTF-8 file")
    segments = frontend.text_normalize(text, split=True)
    return [segment for segment in segments if any(map(str.isalnum, TAG.sub("", segment)))]


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


# ---- the script ------------------------------------------------------------------------------------------------------


def infer(args: argparse.Namespace) -> int:
    """Check everything, load, speak, write."""
    check_arguments(args)
    output = args.output or args.output_dir / DEFAULT_OUTPUT
    if output.suffix.lower() not in (".wav", ".flac"):
        raise UserError(f"--output {output}: the name must end in .wav or .flac")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give a file name")
    lines = [args.text] if args.text is not None else read_lines(args.text_file)
    device = select_device(args.device)
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    config = inference_settings(args, model_dir)
    with user_mistakes():
        frontend = CosyVoiceFrontEnd(read_model_config(model_dir), device="cpu")
        texts = {number: speakable(frontend, line) for number, line in enumerate(lines, start=1)}
    for number in [number for number, segments in texts.items() if not segments]:
        if args.text is not None:
            raise UserError(f"--text {args.text!r}: nothing in it can be spoken; give words or numbers")
        del texts[number]
        print(f"{args.text_file}, line {number}: nothing that can be spoken; skipped", flush=True)
    if not texts:
        raise UserError(f"{args.text_file}: no line holds anything that can be spoken")

    model, voice = load_voice(args, model_dir, device)
    speaker = Speaker(model, frontend, voice, config.inference, args.speed)
    complaints = 0
    for number, segments in tqdm(texts.items(), "speaking", disable=len(texts) == 1):
        path = output if args.text is not None else output.with_name(f"{output.stem}_{number:04d}{output.suffix}")
        started = time.monotonic()
        speech = speaker.speak(segments, args.seed)
        write_audio(path, speech.wave, speaker.sample_rate)
        seconds = speech.wave.shape[1] / speaker.sample_rate
        took = time.monotonic() - started
        print(f"{path}: {seconds:.2f} s of speech in {took:.1f} s (real-time factor {took / seconds:.2f})", flush=True)
        for complaint in speech.complaints:
            print(f"warning: {path}: {complaint}", flush=True)
        complaints += bool(speech.complaints)
    if complaints:
        print(f"{complaints} of {len(texts)} files are doubtful: listen, try another --seed or an earlier checkpoint")
    return 0


def inference_settings(args: argparse.Namespace, model_dir: Path) -> JointConfig:
    """Resolved settings; --flow-steps is one of them."""
    steps = [f"inference.flow_steps={args.flow_steps}"] if args.flow_steps else []
    defaults = read_finetune_yaml(model_dir)
    return load([*args.overrides, *steps], defaults, model_source=str(model_dir / "finetune.yaml"))[0]


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: infer(parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
