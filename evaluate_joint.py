"""Is the voice any good? Speak a fixed list of sentences, measure them, and say what is better and what is noise.

python evaluate_joint.py                                              # the newest voice in output/ against the base
python evaluate_joint.py --ckpt output/joint_joint_best.ckpt --ckpt output/joint_joint_last.ckpt --base
python evaluate_joint.py --base --ckpt output/joint_joint_best.ckpt --lora-scale 0.8
python evaluate_joint.py --base --model-dir pretrained_models/CosyVoice-mini --output-dir output/base

Prints a table with 95 % intervals and writes OUTPUT_DIR/evaluation/: the sounds, evaluation.json, and evaluation.html,
one page with players that can be sent to a friend.
"""

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from checkpoint import checkpoint_config, load_checkpoint, runs_in
from clips.mel_store import DataError
from common.files import move_aside, read_lines, text_name, write_text
from common.recogniser import Recogniser, missing
from config import JointConfig, UserError
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.utils.common import EXTRACTOR_RATE
from cosyvoice.utils.yaml_loader import ModelConfig, read_model_config
from dataset import Clip, check_made_for, data_fingerprint, read_meta, read_rows, split_by
from utils import (
    AS_PREPARED,
    ASR_HELP,
    DEFAULT_DATA_DIR,
    DEFAULT_MODEL,
    DEFAULT_OUTPUT_DIR,
    add_device_argument,
    add_folder_arguments,
    add_merged_arguments,
    add_normalizer_argument,
    add_seed_argument,
    add_set_argument,
    check_seed,
    find_folder,
    read_settings,
    run_main,
    select_device,
    user_mistakes,
)
from voice.evaluation import (
    BY_NAME,
    CAMPPLUS,
    EVALUATION,
    FIGURES,
    GE2E,
    Clarity,
    Comparison,
    Ears,
    Sentence,
    Vectors,
    as_json,
    compare,
    figures_of,
    finite,
    in_words,
    listen_to,
    shipped_list,
    speak_sentence,
    summary,
    text_tokens,
    unit_mean,
)
from voice.evaluation_page import REAL, page
from voice.loading import (
    Source,
    Voice,
    check_strength,
    choose_normalizer,
    find_weights,
    load_voice,
    trained_file,
    voices_in,
    weight_files,
    weights_words,
)
from voice.metrics import cosine, position
from voice.recordings import own_pitch, read_recording, recordings_folder
from voice.speaking import Speaker, speakable, write_audio

VOICE_CLIPS, REAL_CLIPS = 50, 10  # most that are listened to, of those trained on and of those held out
BASE, TUNED = "base", "tuned"
RECORDINGS = "give the folder that the data was made from with --raw-audio"
FEWEST_SENTENCES = 3  # with fewer an interval means nothing


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", action="store_true", help="compare the untouched base model, in this voice | 比较未训练的基座模型")
    add(
        "--ckpt",
        type=Path,
        action="append",
        default=[],
        help="compare a checkpoint; repeatable | 比较一个检查点，可多次使用",
    )
    scale_help = (
        "strength of each --ckpt: 0 is the base model, at most 2 [1.0] | --ckpt 的强度：0 即基座模型，最大 2 [1.0]"
    )
    add("--lora-scale", type=float, default=1.0, help=scale_help)
    add_merged_arguments(parser)
    add(
        "--speaker",
        metavar="NAME",
        help="voice of --base, by its name in spk2info.pt | --base 的音色：spk2info.pt 里的名字",
    )
    add(
        "--sentences",
        type=Path,
        help="UTF-8 file of what is spoken, one sentence a line [ten of ours] | 念哪些句子，每行一句 [自带的十句]",
    )
    add(
        "--language", help="language of the sentences: en, zh, ... [told by the text] | 句子的语言：en、zh…… [自动判断]"
    )
    add(
        "--data-dir",
        type=Path,
        help=f"prepared clips of the speaker [{DEFAULT_DATA_DIR}] | 准备好的训练数据 [{DEFAULT_DATA_DIR}]",
    )
    add(
        "--raw-audio",
        type=Path,
        help="folder of the recordings they were made from [as noted there] | 原始录音的文件夹 [数据里记着]",
    )
    add("--asr-model", type=Path, help=ASR_HELP)
    add_normalizer_argument(parser, otherwise=AS_PREPARED)
    add_seed_argument(parser)
    add_set_argument(parser)
    add_folder_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or Path(DEFAULT_OUTPUT_DIR)
    return args


# ---- what is compared ------------------------------------------------------------------------------------------------


def choose_systems(args: argparse.Namespace, model_dir: Path) -> dict[str, Source]:
    """Systems by name, the base first; the base and the newest merged pair where nothing is named.

    UserError where two would have one name, or one folder of sounds, or --speaker would be heard nowhere."""
    pair, named = bool(args.llm or args.flow), bool(args.llm or args.flow or args.ckpt)
    if args.speaker and named and not args.base:
        raise UserError("--speaker is the voice of the base; add --base, for --ckpt, --llm and --flow have their own")
    systems = {}
    if args.base or not named:
        systems[BASE] = Source(args.output_dir, base=True, speaker=args.speaker)
    if pair or not (args.base or named):
        systems[TUNED] = Source(args.output_dir, llm=args.llm, flow=args.flow)
    strength = "" if args.lora_scale == 1.0 else f" at lora-scale {args.lora_scale:g}"
    owners = {file_name(name).casefold(): name for name in (*systems, REAL)}
    for path in args.ckpt:
        name = f"{path.parent / path.stem}{strength}"
        folder = file_name(name).casefold()  # on some disks A and a are one
        if folder in owners:
            raise UserError(
                f"--ckpt {path} and '{owners[folder]}' would have the same name here; rename one, give each once"
            )
        owners[folder], systems[name] = name, Source(args.output_dir, ckpt=path, lora_scale=args.lora_scale)
    if BASE in systems:
        systems[BASE] = replace(systems[BASE], voice=compared_voice(args, systems, model_dir))
    return systems


def compared_voice(args: argparse.Namespace, systems: Mapping[str, Source], model_dir: Path) -> Voice | None:
    """The speaker of the named weights, whom the base is compared with; None where --speaker or OUTPUT_DIR says who."""
    if args.speaker:
        return None
    if args.ckpt:
        return Voice.of(load_checkpoint(args.ckpt[0])["speaker"])
    if TUNED not in systems:
        return None
    beside = trained_file(weight_files(systems[TUNED], model_dir), model_dir).parent
    return next(reversed(voices_in(beside, model_dir).values()), None)


@dataclass(frozen=True)
class Reference:
    """What a voice is held against: the speaker's clips that training never saw, and other voices."""

    centres: Vectors  # the speaker's mean vectors, by encoder
    real: list[Sentence]  # held-out clips
    ceiling: float | None  # mean campplus cosine of held-out clips
    floor: float | None  # mean campplus cosine of other voices
    own_hz: float | None = None  # median pitch of some recordings


NOTHING = Reference({}, [], None, None)


Split = tuple[list[Clip], list[Clip]]  # clips trained on, clips held out


def split_clips(args: argparse.Namespace, clips: Sequence[Clip]) -> Split:
    """The clips as the named checkpoints split them, else the newest run in the output folder, else the defaults."""
    if not clips:
        return [], []
    paths = args.ckpt or runs_in(args.output_dir)[-1:]
    return split_of(paths, args, clips) if paths else split_by(JointConfig(), clips)


def split_of(paths: Sequence[Path], args: argparse.Namespace, clips: Sequence[Clip]) -> Split:
    """The clips as the first checkpoint that was trained on them split them; a warning for each that knows others."""
    checkpoints = {path: load_checkpoint(path) for path in paths}
    fingerprint = data_fingerprint(clips)
    own = [path for path, checkpoint in checkpoints.items() if checkpoint["data"] == fingerprint]
    splits = {path: split_by(checkpoint_config(checkpoints[path], path), clips) for path in own or paths}
    first, split = next(iter(splits.items()))
    for path in paths:
        if path not in own:
            print(
                f"warning: {path} was trained on other clips than those of {data_folder(args)}: "
                "similarity is to the speaker of these, and some that count as held out may be known to it",
                flush=True,
            )
        elif [clip.utt for clip in splits[path][1]] != [clip.utt for clip in split[1]]:
            print(f"warning: {path} held out other clips than {first}, whose are taken here", flush=True)
    return split


def data_folder(args: argparse.Namespace) -> Path:
    """Where the prepared clips are, named or not."""
    return args.data_dir or Path(DEFAULT_DATA_DIR)


def read_clips(args: argparse.Namespace, model_config: ModelConfig) -> list[Clip]:
    """The speaker's prepared clips; [], with a line that says why, where none were named and none for this model are
    at hand."""
    data_dir = data_folder(args)
    if args.data_dir is None and not data_dir.is_dir():
        print(f"speaker similarity is skipped: no prepared clips in {data_dir} (give --data-dir)", flush=True)
        return []
    clips = read_rows(data_dir)
    try:
        check_made_for(clips, data_dir, read_meta(data_dir), model_config)
    except DataError as error:
        if args.data_dir is not None:
            raise
        print(f"speaker similarity is skipped: {error}", flush=True)
        return []
    return clips


def read_reference(args: argparse.Namespace, model_dir: Path, split: Split, ears: Ears) -> Reference:
    """What the clips tell about the speaker, and the recordings where they are at hand."""
    train, held_out = split
    if not train:
        return NOTHING
    centre = unit_mean([clip.utt_embedding for clip in train])  # of both ends of the scale and all that lies on it
    others = [voice.embedding for voice in voices_in(model_dir).values()]
    floor = None if not others else sum(cosine(other, centre) for other in others) / len(others)
    ceiling = sum(cosine(clip.utt_embedding, centre) for clip in held_out) / len(held_out) if held_out else None
    voice, real = [] if ears.ge2e is None else train[:VOICE_CLIPS], held_out[:REAL_CLIPS]
    try:
        folder = recordings_folder(data_folder(args), args.raw_audio, RECORDINGS)
        waves = {clip.utt: read_recording(clip, folder, RECORDINGS) for clip in [*voice, *real]}
    except UserError as error:
        if args.raw_audio is not None:
            raise
        print(f"real clips are not listened to: {error}", flush=True)
        return Reference({CAMPPLUS: centre}, [], ceiling, floor)
    centres = heard_centres([waves[clip.utt] for clip in voice], ears) | {CAMPPLUS: centre}
    heard = [
        listen_to(clip.text, waves[clip.utt], EXTRACTOR_RATE, clip.speech_token.tolist(), ears, centres)
        for clip in tqdm(real, REAL)
    ]
    return Reference(centres, heard, ceiling, floor)


def heard_centres(waves: Sequence[Tensor], ears: Ears) -> Vectors:
    """The speaker's mean vectors, from recordings, by those encoders whose vectors are not stored with the clips."""
    vectors = [ears.vectors(wave)[GE2E] for wave in tqdm(waves, "the speaker's voice", disable=not waves)]
    return {GE2E: unit_mean(vectors)} if vectors else {}


def sentence_list(args: argparse.Namespace, clips: Sequence[Clip]) -> Path:
    """The user's list, else the one that ships in the language of the clips' texts, else the English one."""
    return args.sentences or shipped_list([clip.text for clip in clips])


def read_sentences(args: argparse.Namespace, clips: Sequence[Clip], frontend: CosyVoiceFrontEnd) -> list[str]:
    """The sentences to speak, each once. UserError for a line that cannot be spoken, and for too few."""
    path = sentence_list(args, clips)
    name = text_name(path)
    lines = {number: line.strip() for number, line in enumerate(read_lines(path), start=1) if line.strip()}
    by_sound: dict[tuple[str, ...], str] = {}
    for number, line in lines.items():
        segments = tuple(speakable(frontend, line))
        if not segments:
            raise UserError(f"{name}, line {number}: nothing can be spoken in {line!r}; remove that line")
        by_sound.setdefault(segments, line)
    if repeated := len(lines) - len(by_sound):  # they would count twice, and cannot be strangers to each other
        print(f"{name}: {repeated} repeated line{'s' * (repeated > 1)} left out", flush=True)
    sentences = list(by_sound.values())
    if len(sentences) < FEWEST_SENTENCES:
        raise UserError(f"{name}: {len(sentences)} sentences say too little; give {FEWEST_SENTENCES} or more")
    hint = "" if args.sentences else "; give --sentences FILE for others, in the speaker's language"
    print(f"{len(sentences)} sentences of {name}{hint}", flush=True)
    return sentences


def open_recogniser(args: argparse.Namespace) -> Recogniser | None:
    """The recogniser; None, with a line that says so, where none is installed and none was asked for."""
    reason = missing(with_model=args.asr_model is None)
    if reason and args.asr_model is None:
        print(f"word error rates are left out: {reason}", flush=True)
        return None
    return Recogniser(args.asr_model)


def open_clarity(
    frontend: CosyVoiceFrontEnd, device: torch.device, clips: Sequence[Clip], sentences: Sequence[str]
) -> Clarity:
    """The untouched LLM as a judge of clarity; the vector that it is given is the speaker's where clips are at hand."""
    with user_mistakes():
        llm = load_part(frontend.config, "llm", device=device, inference=True)
    centre = unit_mean([clip.utt_embedding for clip in clips]) if clips else torch.zeros(frontend.config.spk_embed_dim)
    return Clarity(llm, frontend, centre, [text_tokens(frontend, text) for text in sentences])


# ---- words -----------------------------------------------------------------------------------------------------------


def table(systems: Mapping[str, Sequence[Sentence]]) -> str:
    """Figures by system with their intervals, aligned."""
    found = {name: summary(figures_of(sentences)) for name, sentences in systems.items()}
    rows = [["", *systems]]
    for figure in FIGURES:
        intervals = [figures.get(figure.name) for figures in found.values()]
        if any(intervals):
            rows.append([figure.title, *(in_words(interval, figure.digits) for interval in intervals)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def meaning(reference: Reference, systems: Mapping[str, Sequence[Sentence]]) -> str:
    """What the similarity means: where it lies between other voices and the speaker's own clips; "" where unknown."""
    if reference.ceiling is None or reference.floor is None or not reference.floor < reference.ceiling:
        return ""  # an exported model's only voice is the speaker
    values = {name: summary(figures_of(sentences)).get(CAMPPLUS) for name, sentences in systems.items()}
    places = [
        f"{name} {position(interval.value, reference.floor, reference.ceiling):.2f}"
        for name, interval in values.items()
        if interval is not None
    ]
    scale = f"0 = other voices ({reference.floor:.3f}), 1 = held-out clips of the speaker ({reference.ceiling:.3f})"
    return f"similarity (campplus) on a scale with {scale}: {', '.join(places)}"


def words(comparisons: Sequence[Comparison]) -> str:
    """What changed, and what did not as far as one can tell."""
    lines = [f"  {BY_NAME[found.name].title}: {found.verdict}" for found in comparisons]
    return "\n".join(lines)


# ---- the script ------------------------------------------------------------------------------------------------------


def evaluate(args: argparse.Namespace) -> None:
    """Speak, measure, compare, write."""
    check_seed(args.seed)
    check_strength(args.lora_scale, of_checkpoint=bool(args.ckpt))
    if args.language is not None and not re.fullmatch("[a-z]{2,3}", args.language):
        raise UserError(f"--language {args.language}: give a code such as en or zh")
    device = select_device(args.device)
    model_dir = find_folder(args.model_dir, DEFAULT_MODEL)
    overrides = ["inference.max_retries=0", *args.overrides]  # what the model does, not what the guard makes of it
    config = read_settings(overrides, model_dir)[0]
    systems = choose_systems(args, model_dir)
    weights = {  # all mistakes before the first sentence
        name: weights_words(source, *find_weights(source, model_dir)) for name, source in systems.items()
    }
    reader, warning = choose_normalizer(args.text_normalizer, list(systems.values()), model_dir)
    if warning:
        print(warning, flush=True)
    with user_mistakes():
        model_config, threads = read_model_config(model_dir), torch.get_num_threads()
        frontend = CosyVoiceFrontEnd(model_config, normalizer=reader, threads=threads)
        clips = read_clips(args, frontend.config)
        split = split_clips(args, clips)
        sentences = read_sentences(args, clips, frontend)
    recogniser = open_recogniser(args)
    ears = Ears(frontend, recogniser, args.language, open_clarity(frontend, device, clips, sentences))
    reference = read_reference(args, model_dir, split, ears)
    if reference.real:
        own_hz = own_pitch(split[0], data_folder(args), args.raw_audio)
        reference = replace(reference, own_hz=own_hz)

    folder, spoken, spoken_by = args.output_dir / EVALUATION, {}, {}
    if folder.exists():
        move_aside([folder], args.output_dir, "evaluation")
    for name, source in systems.items():
        model, voice = load_voice(source, model_dir, device, config.inference.precision)
        speaker = Speaker(model, frontend, voice, config.inference)
        spoken_by[name] = {"weights": weights[name], "voice": voice.name}
        spoken[name] = [
            speak_sentence(speaker, text, args.seed, ears, reference.centres) for text in tqdm(sentences, name)
        ]
        for number, sentence in enumerate(spoken[name], start=1):
            write_audio(folder / file_name(name) / f"{number:02d}.wav", sentence.wave, sentence.sample_rate)
    asked = {
        "model_dir": str(model_dir),
        "data_dir": str(data_folder(args)) if clips else None,
        "clips": {"trained on": len(split[0]), "held out": len(split[1])},
        "sentences": text_name(sentence_list(args, clips)),
        "seed": args.seed,
        "set": args.overrides,
    }
    report(folder, asked, reference, spoken, spoken_by)


def file_name(name: str) -> str:
    """A system's name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def report(
    folder: Path,
    asked: Mapping[str, Any],
    reference: Reference,
    spoken: Mapping[str, Sequence[Sentence]],
    spoken_by: Mapping[str, Mapping[str, str]],
) -> None:
    """Print the table and the verdicts; write JSON and page.

    asked: what was evaluated on, for the record. spoken_by: weights and voice of each system."""
    everything = spoken | ({REAL: reference.real} if reference.real else {})
    targets = own_values(reference)
    first, *others = spoken
    base = figures_of(spoken[first])
    comparisons = {name: compare(figures_of(spoken[name]), base, targets) for name in others}
    scale = meaning(reference, spoken)
    if reference.own_hz is not None:
        scale += f"\npitch of the speaker's recordings: {reference.own_hz:.0f} Hz"
    print(f"\n{table(everything)}\n{scale}")
    for name, found in comparisons.items():
        print(f"\n{name} against {first}:\n{words(found)}")
    figures = {
        **asked,
        "systems": {name: spoken_by.get(name, {}) | as_json(found) for name, found in everything.items()},
        "scale": {"floor": reference.floor, "ceiling": reference.ceiling},
        "own_hz": reference.own_hz,
        "comparisons": {f"{name} against {first}": as_rows(found) for name, found in comparisons.items()},
    }
    written = json.dumps(finite(figures), ensure_ascii=False, indent=1, allow_nan=False)
    write_text(folder / "evaluation.json", written + "\n")
    origins = [f"{name}: {by['weights']}; voice: {by['voice']}" for name, by in spoken_by.items()]
    notes = "\n".join([scale, *origins])
    html = page("Evaluation of the voice", spoken, reference.real, comparisons, targets, notes)
    write_text(folder / "evaluation.html", html)
    print(f"\nlisten: {folder / 'evaluation.html'}; all figures: {folder / 'evaluation.json'}")


def own_values(reference: Reference) -> dict[str, float]:
    """The speaker's own value of the figures that are to be near it, as far as it is known.

    The pitch is the one that training compares with: that of the few held-out clips may lie elsewhere."""
    real = {name: interval.value for name, interval in summary(figures_of(reference.real)).items()}
    pitch = {} if reference.own_hz is None else {"f0_hz": reference.own_hz}
    return real | {"duration_ratio": 1.0} | pitch


def as_rows(comparisons: Sequence[Comparison]) -> dict[str, dict[str, object]]:
    """Comparisons as plain data: by how much ours is better, its interval, and the verdict."""
    return {found.name: {"gain": vars(found.gain), "verdict": found.verdict} for found in comparisons}


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(lambda: evaluate(parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
