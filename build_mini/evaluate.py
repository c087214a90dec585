"""Does CosyVoice-mini speak, and does it learn a new voice? Figures of a model directory, by judges from outside.

python -m build_mini.evaluate                                     # all parts; `make eval-mini` installs the judges
python -m build_mini.evaluate --part speech --all-voices
python -m build_mini.evaluate --part finetune --speaker-dir my_voice/raw_audio --mode flow_only

What the judges heard is kept, clip by clip, in WORK_DIR/eval_<digest of the model directory>/rows.json, the sounds in
sounds/ beside it. Nothing is computed twice: a run that was stopped goes on where it was; `--fresh` starts its parts
anew. Figures go to figures.json in that folder; what no model changes is kept in WORK_DIR/eval_references.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from build_mini import judges
from build_mini.common import HERE, MEL_RATE, MODEL_DIR, SEED, replace_file, write_text
from build_mini.corpus import speak_flite
from clips.find import RawClip, find_clips
from config import MODES, UserError
from cosyvoice.cli.cosyvoice import VOICES, CosyVoice
from cosyvoice.cli.frontend import CosyVoiceFrontEnd
from cosyvoice.tokenizer.tokenizer import LETTERS, PHONES, get_tokenizer
from cosyvoice.utils.audio_files import AudioError, read_audio, resample
from cosyvoice.utils.weights import file_fingerprint, read_spk2info
from cosyvoice.utils.yaml_loader import read_model_config
from text.normalizer import OURS
from utils import read_settings, run_main, user_mistakes
from voice.loading import Source, load_voice
from voice.metrics import pitch, position
from voice.speaking import Speaker, speakable

ROOT = HERE.parent
SPEAKER_DIR = ROOT / "examples" / "en_allison" / "raw_audio"
SENTENCES = HERE / "eval_sentences.txt"
FLITE_VOICES = ("slt", "awb", "rms", "kal16")  # voices that flite can speak with, whatever else the model can
MAIN_VOICE = "slt"  # says every sentence, and is the base's own voice in the fine-tuning table
TARGETS = ("slt", "rms")  # voices that real clips are converted to
TOGETHER = "flite's, together"
BASE_TUNED = "base, speaker's vector"
REAL_TRAINING, REAL_HELD_OUT, OTHERS = "real, trained on", "real, held out", "other voices"

TRAIN_CLIPS, TRAIN_SHARE = 30, 0.75  # clips to fine-tune on: so many, or this share where there are fewer than 40
HELD_OUT_CLIPS = 20  # most real clips for the ceiling
VOICE_CLIPS = 16  # of a voice that clips are converted to
OTHER_CLIPS = 10  # of each other voice, for the floor

FRAME_SEC = 0.02  # of loudness
SILENT_DB = 40  # below the loudest frame

# What the model must reach.
WER_GOAL, WER_SHIPS, WER_LOSS = 0.15, 0.25, 0.05
GAP_SHARE = 0.5
SHORTEST, LONGEST = 0.6, 1.6  # duration / expected duration
MOS_LOSS = 0.3
POSITION = 0.7
TRAIN_SECONDS = 600

Figures = dict[str, float | None]
Table = dict[str, Figures]  # by row, then by column


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--part", choices=[*PARTS, "all"], default="all")
    add("--model-dir", type=Path, default=MODEL_DIR, help="model directory to judge")
    add("--work-dir", type=Path, default=HERE / "work", help="scratch folder, where the figures go too")
    add("--speaker-dir", type=Path, default=SPEAKER_DIR, help="recordings and texts of an unseen speaker")
    add("--mode", action="append", choices=MODES, help="fine-tune in this mode only; repeatable")
    add("--other-clips", type=Path, help="one sub-folder of recordings for each further voice of the floor")
    add("--targets", nargs="+", default=list(TARGETS), metavar="VOICE", help="voices that real clips are converted to")
    add("--all-voices", action="store_true", help=f"every voice says all sentences, not only {MAIN_VOICE}")
    add("--through", choices=SPEAKING, default="library", help="speech: inference_sft, or inference_joint's speaker")
    add("--limit", type=int, help="at most so many clips and sentences, to try it out")
    add("--threads", type=int, default=2, help="CPU threads (the scripts that are run choose their own)")
    add("--fresh", action="store_true", help="compute the chosen parts again")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 2:
        parser.error(f"argument --limit: {args.limit} is too few; give 2 or more")
    return args


# ---- one clip and what the judges say about it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """A clip to judge, (1, N) at `rate` Hz; `text` is None where nobody is to say what was said."""

    wave: Tensor
    rate: int
    text: str | None = None
    ended: bool = True  # by itself, not at a limit
    tries: int = 1
    work_seconds: float = 0.0  # spent on making it


@dataclass(frozen=True)
class Judged:
    """What the judges, and a few measurements, say about one clip."""

    text: str | None
    whisper: str | None
    sphinx: str | None
    vector: list[float]  # GE2E, (256,), unit length
    mos: float
    seconds: float
    speech_seconds: float  # without silence before and after
    f0_hz: float | None  # median over voiced frames
    f0_spread: float | None  # standard deviation over voiced frames, semitones
    ended: bool
    tries: int
    work_seconds: float

    @property
    def phones(self) -> int | None:
        """Phones of its text."""
        return None if self.text is None else phone_count(self.text)


def judge(sound: Sound) -> Judged:
    """The sound heard by every judge; speech that is not English is not given to the recognisers."""
    heard = resample(sound.wave, sound.rate, judges.RATE)
    wave, tone = heard[0].numpy(), pitch(heard)
    english = sound.text is not None and in_plain_letters(sound.text)
    return Judged(
        text=sound.text,
        whisper=judges.hear_whisper(wave) if english else None,
        sphinx=judges.hear_sphinx(wave) if english else None,
        vector=[round(float(value), 6) for value in judges.ge2e(wave)],
        mos=judges.naturalness(wave),
        seconds=len(wave) / judges.RATE,
        speech_seconds=speech_seconds(wave, judges.RATE),
        f0_hz=tone and tone.hz,
        f0_spread=tone and tone.spread,
        ended=sound.ended,
        tries=sound.tries,
        work_seconds=sound.work_seconds,
    )


def speech_seconds(wave: np.ndarray, rate: int) -> float:
    """Time from the first to the last frame of a wave (N,) that is not silent."""
    size = round(FRAME_SEC * rate)
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    loudness = np.sqrt(np.square(frames).mean(axis=1))
    loud = np.flatnonzero(loudness > loudness.max(initial=0.0) * 10 ** (-SILENT_DB / 20))
    return float(loud[-1] - loud[0] + 1) * FRAME_SEC if len(loud) else 0.0


def in_plain_letters(text: str) -> bool:
    """Whether all letters are those of English."""
    return all(char.isascii() for char in text if char.isalpha())


def phone_count(text: str) -> int | None:
    """Phones of an English text; None where a word is not in the dictionary."""
    tokenizer = get_tokenizer()
    symbols = tokenizer.decode(tokenizer.encode(text)).split()
    known = in_plain_letters(text) and not set(symbols) & set(LETTERS)
    return sum(symbol in set(PHONES) for symbol in symbols) if known else None


# ---- figures of several clips ----------------------------------------------------------------------------------------


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def word_errors(clips: Sequence[Judged], judge_name: str) -> float | None:
    """Word error rate over all clips that "whisper" or "sphinx" heard."""
    heard = [(clip.text, getattr(clip, judge_name)) for clip in clips if getattr(clip, judge_name) is not None]
    return judges.word_errors(*map(list, zip(*heard, strict=True))) if heard else None


def phone_rate(clips: Sequence[Judged]) -> float | None:
    """Phones per second between first and last sound, over clips whose phones are known."""
    known = [clip for clip in clips if clip.phones]
    return sum(clip.phones for clip in known) / sum(clip.speech_seconds for clip in known) if known else None


def summary(clips: Sequence[Judged]) -> Figures:
    """What every table says about a set of clips."""
    voiced = [clip.f0_hz for clip in clips if clip.f0_hz is not None]
    return {
        "clips": len(clips),
        "WER Whisper": word_errors(clips, "whisper"),
        "WER Sphinx": word_errors(clips, "sphinx"),
        "MOS": mean(clip.mos for clip in clips),
        "phones/s": phone_rate(clips),
        "F0 Hz": float(np.median(voiced)) if voiced else None,
        "F0 spread": mean(clip.f0_spread for clip in clips),
    }


def making(clips: Sequence[Judged]) -> Figures:
    """How the clips came about: share that ended by itself, attempts, work / sound."""
    return {
        "ended": mean(clip.ended for clip in clips),
        "tries": mean(clip.tries for clip in clips),
        "real-time factor": sum(clip.work_seconds for clip in clips) / sum(clip.seconds for clip in clips),
    }


def centre(clips: Sequence[Judged]) -> np.ndarray:
    """GE2E centroid (256,) of a voice."""
    return judges.centroid([np.array(clip.vector) for clip in clips])


def cosine(clips: Sequence[Judged], middle: np.ndarray) -> float:
    """Mean GE2E cosine of clips to a voice's centroid."""
    return float(np.mean([np.array(clip.vector) @ middle for clip in clips]))


def lengths(ratios: Sequence[float]) -> Figures:
    """Durations against what was expected."""
    return {
        "shortest": min(ratios),
        "median": float(np.median(ratios)),
        "longest": max(ratios),
        f"in {SHORTEST}-{LONGEST}": mean(SHORTEST <= ratio <= LONGEST for ratio in ratios),
    }


# ---- what is kept between runs ---------------------------------------------------------------------------------------


@dataclass
class Rows:
    """Results by key in one JSON file, which is written anew after each result."""

    path: Path
    keep_sounds: bool  # in a folder beside the file

    @cached_property
    def known(self) -> dict[str, dict]:
        """What is there already."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def forget(self, prefix: str) -> None:
        """Drop every result whose key begins so."""
        for key in [key for key in self.known if key.startswith(prefix)]:
            del self.known[key]

    def once(self, key: str, compute: Callable[[], dict]) -> dict:
        """The result of that key, computed only where it is not known."""
        if key not in self.known:
            self.known[key] = compute()
            lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in self.known.items())
            write_text(self.path, f"{{\n{lines}\n}}\n")
        return self.known[key]

    def judged(self, key: str, make: Callable[[], Sound]) -> Judged:
        """The judgement of a sound, which is made only where that is not known."""
        return Judged(**self.once(key, lambda: asdict(judge(self.keep(key, make())))))

    def keep(self, key: str, sound: Sound) -> Sound:
        """Write the sound to listen to."""
        if self.keep_sounds:
            path = self.path.parent / "sounds" / f"{re.sub('[^A-Za-z0-9_/.-]', '_', key)[:120]}.flac"
            samples = sound.wave[0].clamp(-1, 1).numpy()
            replace_file(path, lambda part: soundfile.write(part, samples, sound.rate, format="FLAC"))
        return sound


def directory_digest(directory: Path) -> str:
    """Twelve hexadecimal digits that change with any file of a model directory."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    prints = "".join(f"{name} {file_fingerprint(directory / name)}\n" for name in names)
    return short_digest(prints)


def clip_digest(clip: RawClip) -> str:
    """Twelve hexadecimal digits that change with a recording or its text."""
    return short_digest(f"{file_fingerprint(clip.path)} {clip.text}")


def short_digest(text: str) -> str:
    """Twelve hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Setup:
    """What all parts share."""

    args: argparse.Namespace
    folder: Path  # of this model's results
    rows: Rows  # of this model
    references: Rows  # real clips and flite

    @classmethod
    def of(cls, args: argparse.Namespace) -> Setup:
        """Folders and what earlier runs left in them. UserError for a model directory that is not there."""
        if not args.model_dir.is_dir():
            raise UserError(f"{args.model_dir} is not a folder; give a model directory with --model-dir")
        part = "" if args.limit is None else f"_limit{args.limit}"
        folder = args.work_dir / f"eval_{directory_digest(args.model_dir)}{part}"
        rows = Rows(folder / "rows.json", keep_sounds=True)
        references = Rows(args.work_dir / "eval_references.json", keep_sounds=False)
        return cls(args, folder, rows, references)

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences to speak."""
        lines = SENTENCES.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()][: self.args.limit]

    @cached_property
    def speaker(self) -> str:
        """The unseen speaker: the folder's name, and digits that change with any recording or text that is taken."""
        folder = self.args.speaker_dir.resolve()
        name = folder.parent.name if folder.name == "raw_audio" else folder.name
        return f"{name}_{short_digest(' '.join(map(clip_digest, self.clips)))}"

    @cached_property
    def clips(self) -> list[RawClip]:
        """The unseen speaker's recordings. UserError where there are none, or none with a text."""
        if not self.args.speaker_dir.is_dir():
            raise UserError(f"{self.args.speaker_dir} is not a folder; give the recordings with --speaker-dir")
        clips = [clip for clip in find_clips(self.args.speaker_dir)[0] if clip.text and not clip.flags]
        if len(clips) < 2:
            raise UserError(
                f"{self.args.speaker_dir}: fewer than two recordings have a text (001.txt beside 001.wav); "
                "prepare_joint_data.py leaves out those without, in every mode"
            )
        return clips[: self.args.limit]

    @cached_property
    def own_voices(self) -> list[str]:
        """Voices of the model, those that flite has too first."""
        with user_mistakes():
            names = list(read_spk2info(self.args.model_dir / VOICES))
        return sorted(names, key=lambda name: name not in FLITE_VOICES)

    def flite(self, voice: str, text: str) -> Judged:
        """flite's own rendering."""
        return self.references.judged(f"flite/{voice}/{text}", partial(flite_sound, voice, text))

    def real(self, clip: RawClip) -> Judged:
        """A recording as it is."""
        return self.references.judged(f"clip/{clip.name}/{clip_digest(clip)}", partial(real_sound, clip))

    def further_clips(self) -> dict[str, list[RawClip]]:
        """{voice: recordings} of the folder --other-clips."""
        folder = self.args.other_clips
        if folder and not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give one with a sub-folder for each voice to --other-clips")
        folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder else []
        return {path.name: find_clips(path)[0][:OTHER_CLIPS] for path in folders}

    def voice_clips(self, voice: str) -> list[Judged]:
        """Clips of one of the model's voices that the model did not make."""
        if voice in FLITE_VOICES:
            return [self.flite(voice, text) for text in tqdm(self.sentences[:VOICE_CLIPS], f"flite {voice}")]
        clips = self.further_clips().get(voice)
        if clips is None:
            raise UserError(f"no clips of {voice}: flite has no such voice; put some into OTHER_CLIPS/{voice}")
        return [self.real(clip) for clip in tqdm(clips, voice)]


def flite_sound(voice: str, text: str) -> Sound:
    """The text spoken by flite, at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.flac"
        speak_flite(text, voice, path)
        samples, rate = soundfile.read(path, dtype="float32")
    return Sound(torch.from_numpy(samples)[None], rate, text)


def real_sound(clip: RawClip) -> Sound:
    """A recording and its text. UserError for one that cannot be read."""
    try:
        return Sound(read_audio(clip.path).mono(judges.RATE), judges.RATE, clip.text)
    except AudioError as error:
        raise UserError(f"{clip.path}: {error}") from error


# ---- part 1: real clips through the model's speech tokens, flow and vocoder ------------------------------------------


def resynthesis(setup: Setup) -> dict[str, Table]:
    """Intelligibility of copies, and how far another voice's vector moves the voice."""
    voice = load_model(setup)
    with user_mistakes():
        targets = {name: voice.speaker(name) for name in setup.args.targets}
    waves = {clip.name: real_sound(clip).wave for clip in tqdm(setup.clips, "reading")}
    own = torch.stack([voice.frontend.speaker_vector(wave) for wave in waves.values()]).mean(dim=0, keepdim=True)
    vectors = {"own vector": own, **{f"to {name}": vector for name, vector in targets.items()}}
    made = {"real clips": [setup.real(clip) for clip in tqdm(setup.clips, "real clips")]}
    makers = {"vocoder only": partial(copy_sound, voice)}
    makers |= {name: partial(revoiced, voice, vector) for name, vector in vectors.items()}
    for system, make in makers.items():
        made[system] = [
            setup.rows.judged(
                f"resynthesis/{setup.speaker}/{system}/{clip.name}", partial(make, waves[clip.name], clip.text)
            )
            for clip in tqdm(setup.clips, system)
        ]
    middle = centre(made["real clips"])
    systems = {name: summary(clips) | {"cosine": cosine(clips, middle)} for name, clips in made.items()}
    converted = {name: (made[f"to {name}"], made["real clips"], setup.voice_clips(name)) for name in targets}
    return {"systems": systems, "conversion": {name: conversion(*clips) for name, clips in converted.items()}}


def load_model(setup: Setup) -> CosyVoice:
    """The model, on the CPU."""
    with user_mistakes():
        return CosyVoice(setup.args.model_dir)


def copy_sound(voice: CosyVoice, wave: Tensor, text: str) -> Sound:
    """A 16 kHz wave (1, N) -> mel -> vocoder."""
    mel = voice.frontend.mel(resample(wave, judges.RATE, MEL_RATE))
    torch.manual_seed(SEED)
    with torch.inference_mode():
        made, _ = voice.model.hift.inference(mel.T[None])
    return Sound(made.clone(), MEL_RATE, text)


def revoiced(voice: CosyVoice, vector: Tensor, wave: Tensor, text: str) -> Sound:
    """A 16 kHz wave (1, N) -> speech tokens -> flow with the speaker vector (1, 192) -> vocoder."""
    with user_mistakes():
        tokens = torch.tensor([voice.frontend.speech_tokens(wave)], dtype=torch.int32)
    nothing = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, 0, 80)
    torch.manual_seed(SEED)
    return Sound(voice.model.token2wav(tokens, *nothing, vector, uuid="", finalize=True), MEL_RATE, text)


def conversion(converted: list[Judged], source: list[Judged], target: list[Judged]) -> Figures:
    """How much of the way from the source's to the target's GE2E vector was gone.

    One half of the target's clips makes its centroid, the other half shows how near its own clips come."""
    middle, own = centre(target[::2]), target[1::2]
    ends = cosine(source, middle), cosine(own, middle)
    got = cosine(converted, middle)
    return {"source": ends[0], "converted": got, "target": ends[1], "share of the gap": position(got, *ends)}


# ---- part 2: sentences in the model's own voices ---------------------------------------------------------------------


def speech(setup: Setup) -> dict[str, Table]:
    """Intelligibility, duration and naturalness of the untouched model."""
    speak = SPEAKING[setup.args.through](setup)
    pairs = speaking_plan(setup.own_voices, setup.sentences, setup.args.all_voices)
    spoken = {
        (name, text): setup.rows.judged(
            f"speech/{setup.args.through}/{name}/{setup.sentences.index(text) + 1:02d} {text}",
            partial(speak, name, text),
        )
        for name, text in tqdm(pairs, "speaking")
    }
    kin = {pair: setup.flite(*pair) for pair in tqdm(spoken, "flite") if pair[0] in FLITE_VOICES}
    rate = seconds_per_phone(list(kin.values()))
    table = {}
    for name in setup.own_voices:
        mine = {pair: clip for pair, clip in spoken.items() if pair[0] == name}
        table[name] = speech_figures(mine, kin, rate)
    spread = pairs if setup.args.all_voices else spread_over(setup.own_voices, setup.sentences)
    common = [pair for pair in spread if pair[0] in FLITE_VOICES]
    table[TOGETHER] = speech_figures({pair: spoken[pair] for pair in common}, kin, rate)
    return {"voices": {name: figures for name, figures in table.items() if figures}}


def spread_over(voices: Sequence[str], sentences: Sequence[str]) -> list[tuple[str, str]]:
    """(voice, sentence): the sentences one after the other by the voices in turn, for flite's and the others apart."""
    groups = [[name for name in voices if (name in FLITE_VOICES) is shared] for shared in (True, False)]
    return [(group[i % len(group)], text) for group in groups if group for i, text in enumerate(sentences)]


def speaking_plan(voices: Sequence[str], sentences: Sequence[str], all_voices: bool) -> list[tuple[str, str]]:
    """(voice, sentence) of all that is spoken: each sentence by one voice and by the main one, or by every voice."""
    full = [(name, text) for name in voices if all_voices or name == MAIN_VOICE for text in sentences]
    return list(dict.fromkeys([*spread_over(voices, sentences), *full]))


def seconds_per_phone(clips: Sequence[Judged]) -> float | None:
    """Seconds of whole clips per phone; None without clips."""
    phones = sum(clip.phones or 0 for clip in clips)
    return sum(clip.seconds for clip in clips) / phones if phones else None


def speech_figures(
    spoken: dict[tuple[str, str], Judged], kin: dict[tuple[str, str], Judged], sec_per_phone: float | None
) -> Figures:
    """One line of the table; {} where nothing was spoken.

    kin: flite saying the same, which gives the expected duration; other voices are expected to take sec_per_phone."""
    if not spoken:
        return {}
    clips, same = list(spoken.values()), [kin[pair] for pair in spoken if pair in kin]
    ratios = [
        clip.seconds / (kin[pair].seconds if pair in kin else (clip.phones or 0) * sec_per_phone)
        for pair, clip in spoken.items()
        if pair in kin or (clip.phones and sec_per_phone)
    ]
    theirs = {"flite WER": word_errors(same, "whisper"), "flite MOS": mean(clip.mos for clip in same)}
    return summary(clips) | theirs | (lengths(ratios) if ratios else {}) | making(clips)


def library_speaker(setup: Setup) -> Callable[[str, str], Sound]:
    """Speaks (voice, text) with CosyVoice.inference_sft."""
    voice = load_model(setup)

    def speak(name: str, text: str) -> Sound:
        torch.manual_seed(SEED)
        started, pieces, ended = time.perf_counter(), [], True
        for piece in voice.inference_sft(text, name):
            pieces.append(piece["tts_speech"])
            ended &= voice.model.llm.stopped_by_eos
        spent = time.perf_counter() - started
        return Sound(torch.cat(pieces, dim=1), MEL_RATE, text, ended, work_seconds=spent)

    return speak


def script_speaker(setup: Setup) -> Callable[[str, str], Sound]:
    """Speaks (voice, text) like `inference_joint.py --base --speaker VOICE`, but with a single attempt."""

    @cache
    def speaker(name: str) -> Speaker:
        return open_speaker(setup, Source(setup.folder, base=True, speaker=name), max_retries=0)

    return lambda name, text: spoken_sound(speaker(name), text)


def open_speaker(setup: Setup, source: Source, **limits: float) -> Speaker:
    """The speaker of `inference_joint.py`, with other limits where they are given."""
    model_dir = setup.args.model_dir
    overrides = [f"inference.{name}={value}" for name, value in limits.items()]
    config = read_settings(overrides, model_dir)[0]
    model, voice = load_voice(source, model_dir, torch.device("cpu"))
    return Speaker(model, CosyVoiceFrontEnd(read_model_config(model_dir), normalizer=OURS), voice, config.inference)


def spoken_sound(speaker: Speaker, text: str) -> Sound:
    """The text with the guard against runaway."""
    started = time.perf_counter()
    speech = speaker.speak(speakable(speaker.frontend, text), seed=0)
    spent = time.perf_counter() - started
    return Sound(speech.wave, speaker.sample_rate, text, speech.ended, speech.attempts, spent)


SPEAKING = {"library": library_speaker, "script": script_speaker}


# ---- part 3: fine-tuning with the shipped scripts --------------------------------------------------------------------


def finetune(setup: Setup) -> dict[str, Table]:
    """What the scripts make of a few clips, in each mode, beside the untouched base."""
    modes = setup.args.mode or list(MODES)
    count = training_count(len(setup.clips))
    train, held_out = setup.clips[:count], setup.clips[count:][:HELD_OUT_CLIPS]
    folder, key = setup.folder / "finetune" / setup.speaker, f"finetune/{setup.speaker}"
    prepared = setup.rows.once(f"{key}/prepare", partial(prepare, setup, train, folder))
    trained = {mode: setup.rows.once(f"{key}/{mode}", partial(train_mode, setup, mode, folder)) for mode in modes}
    own = MAIN_VOICE if MAIN_VOICE in setup.own_voices else setup.own_voices[0]
    trained_once = folder / modes[0]  # where the speaker's mean vector is
    systems = {
        f"base, {own}": Source(trained_once, base=True, speaker=own),
        BASE_TUNED: Source(trained_once, base=True),
        **{mode: Source(folder / mode) for mode in modes},
    }
    spoken = {name: speak_tuned(setup, name, source, setup.sentences) for name, source in systems.items()}
    real = {
        REAL_TRAINING: [setup.real(clip) for clip in tqdm(train, REAL_TRAINING)],
        REAL_HELD_OUT: [setup.real(clip) for clip in tqdm(held_out, REAL_HELD_OUT)],
    }
    middle = centre(real[REAL_TRAINING])
    lowest, highest = floor(setup, middle), cosine(real[REAL_HELD_OUT], middle)
    table = {name: summary(clips) | {"cosine": cosine(clips, middle)} for name, clips in (spoken | real).items()}
    table[OTHERS] = {"cosine": lowest}
    for name, row in table.items():
        row["position"] = position(row["cosine"], lowest, highest)
        row |= making(spoken[name]) if name in spoken else {}
        row |= {"training s": trained[name]["seconds"]} if name in trained else {}
    rhythms = same_texts(setup, systems, real[REAL_HELD_OUT])
    return {"systems": table, "rhythm": rhythms, "preparing": {"prepare_joint_data.py": prepared}}


def same_texts(setup: Setup, systems: dict[str, Source], real: list[Judged]) -> Table:
    """The rhythm of each system and of the speaker, over the clips whose texts the model can speak; {} without any."""
    real = [clip for clip in real if clip.phones]
    texts = [clip.text for clip in real]
    read = {name: speak_tuned(setup, f"{name}, texts held out", source, texts) for name, source in systems.items()}
    return {name: rhythm(clips, real) for name, clips in (read | {REAL_HELD_OUT: real}).items()} if real else {}


def rhythm(spoken: Sequence[Judged], real: Sequence[Judged]) -> Figures:
    """Pace and melody of clips beside those of the speaker who says the same texts."""
    ratios = [clip.speech_seconds / own.speech_seconds for clip, own in zip(spoken, real, strict=True)]
    return {
        "clips": len(spoken),
        "phones/s": phone_rate(spoken),
        "duration / real": float(np.median(ratios)),
        "F0 spread": mean(clip.f0_spread for clip in spoken),
    }


def training_count(clips: int) -> int:
    """How many of so many clips are trained on; the rest is held out."""
    return max(1, min(TRAIN_CLIPS, int(clips * TRAIN_SHARE)))


def prepare(setup: Setup, clips: Sequence[RawClip], folder: Path) -> Figures:
    """Copies of the clips as a user would lay them down, made into training data; seconds, and clips that were used."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw_audio").mkdir(parents=True)
    for number, clip in enumerate(clips, start=1):
        shutil.copyfile(clip.path, folder / "raw_audio" / f"{number:03d}{clip.path.suffix}")
        (folder / "raw_audio" / f"{number:03d}.txt").write_text(clip.text, encoding="utf-8")
    options = {"input-dir": folder / "raw_audio", "output-dir": folder / "data", "model-dir": setup.args.model_dir}
    seconds = run_script("prepare_joint_data.py", folder / "prepare.log", options)
    used = json.loads((folder / "data" / "meta.json").read_text(encoding="utf-8"))["clips"]
    return {"seconds": seconds, "clips": len(clips), "clips used": used}


def train_mode(setup: Setup, mode: str, folder: Path) -> Figures:
    """Seconds of training and merging; the default mode is not named on the command line."""
    shutil.rmtree(folder / mode, ignore_errors=True)
    options = {"data-dir": folder / "data", "output-dir": folder / mode, "model-dir": setup.args.model_dir}
    options |= {} if mode == MODES[0] else {"mode": mode}
    return {"seconds": run_script("train_joint.py", folder / f"train_{mode}.log", options)}


def run_script(script: str, log: Path, options: dict[str, object]) -> float:
    """Seconds that one of the project's scripts took. UserError with its last words where it failed."""
    words = [word for name, value in options.items() for word in (f"--{name}", absolute(value))]
    print(f"python {script} {' '.join(words)}  > {log}", flush=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, script, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        raise UserError(f"{script} ended with exit code {done.returncode}: {last} (all of it is in {log})")
    return time.monotonic() - started


def absolute(value: object) -> str:
    """An option's value that means the same in every folder."""
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def speak_tuned(setup: Setup, system: str, source: Source, texts: Sequence[str]) -> list[Judged]:
    """Texts as inference_joint.py speaks them."""

    @cache
    def speaker() -> Speaker:
        return open_speaker(setup, source)

    return [
        setup.rows.judged(
            f"finetune/{setup.speaker}/{system}/{number:02d} {text}", lambda text=text: spoken_sound(speaker(), text)
        )
        for number, text in enumerate(tqdm(texts, system), start=1)
    ]


def floor(setup: Setup, middle: np.ndarray) -> float:
    """Mean cosine of other voices to the speaker's centroid; every voice weighs the same."""
    voices = [[setup.flite(name, text) for text in setup.sentences] for name in tqdm(FLITE_VOICES, "flite")]
    further = setup.further_clips()
    voices += [[setup.real(clip) for clip in tqdm(clips, name)] for name, clips in further.items()]
    return float(np.mean([cosine(clips, middle) for clips in voices]))


# ---- what the model must reach ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A figure beside what it should be."""

    what: str
    value: float | None
    target: str
    reached: bool


def at_most(what: str, value: float | None, limit: float) -> Check:
    """Reached up to the limit."""
    return Check(what, value, f"at most {limit:g}", value is not None and value <= limit)


def at_least(what: str, value: float | None, limit: float) -> Check:
    """Reached from the limit on."""
    return Check(what, value, f"at least {limit:g}", value is not None and value >= limit)


def resynthesis_checks(tables: dict[str, Table]) -> list[Check]:
    """Real speech through tokens, flow and vocoder."""
    found = [at_most("WER Whisper, own vector", tables["systems"]["own vector"]["WER Whisper"], WER_GOAL)]
    shares = {name: row["share of the gap"] for name, row in tables["conversion"].items()}
    return found + [at_least(f"share of the gap to {name}", share, GAP_SHARE) for name, share in shares.items()]


def speech_checks(tables: dict[str, Table]) -> list[Check]:
    """Text to speech, over the voices that flite has as well."""
    row = tables["voices"].get(TOGETHER)
    if row is None:
        return []
    return [
        at_most("WER Whisper", row["WER Whisper"], WER_GOAL),
        at_most("WER Whisper, the least that ships", row["WER Whisper"], WER_SHIPS),
        at_least("shortest / expected duration", row["shortest"], SHORTEST),
        at_most("longest / expected duration", row["longest"], LONGEST),
        at_least("MOS minus that of the training voices", row["MOS"] - row["flite MOS"], -MOS_LOSS),
        at_least("share that ended by itself", row["ended"], 1.0),
    ]


def finetune_checks(tables: dict[str, Table]) -> list[Check]:
    """Fine-tuning, for the modes that were run."""
    rows = tables["systems"]
    base, found = rows[BASE_TUNED], []
    if joint := rows.get("joint"):
        found += [
            at_least("position, joint", joint["position"], POSITION),
            more("position, joint, above the base's", joint["position"], base["position"]),
            at_most("WER Whisper, joint minus base", difference(joint, base, "WER Whisper"), WER_LOSS),
            at_least("share that ended by itself, joint", joint["ended"], 1.0),
            at_most("seconds of training, joint", joint["training s"], TRAIN_SECONDS),
        ]
    if flow := rows.get("flow_only"):
        found.append(more("position, flow_only, above the base's", flow["position"], base["position"]))
    if "llm_only" in rows and (same := tables["rhythm"]):  # of the same texts, as each has a pace of its own
        for column in ("phones/s", "F0 spread"):
            near, far = (difference(same[name], same[REAL_HELD_OUT], column) for name in ("llm_only", BASE_TUNED))
            reached = None not in (near, far) and abs(near) < abs(far)
            words = f"nearer to 0 than the base's {shown(far)}"
            found.append(Check(f"{column} minus the real one, same texts, llm_only", near, words, reached))
    return found


def more(what: str, value: float | None, limit: float | None) -> Check:
    """Reached beyond another figure."""
    reached = None not in (value, limit) and value > limit
    return Check(what, value, f"more than {shown(limit)}", reached)


def difference(row: Figures, other: Figures, column: str) -> float | None:
    """Of one column; None where either is not known."""
    values = row.get(column), other.get(column)
    return None if None in values else values[0] - values[1]


# ---- the command -----------------------------------------------------------------------------------------------------


def shown(value: float | None) -> str:
    """A figure in a table."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def as_text(table: Table) -> str:
    """Aligned columns."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    width = max(map(len, table))
    lines = ["  ".join([" " * width, *(column.rjust(5) for column in columns)])]
    for name, row in table.items():
        cells = [shown(row.get(column)).rjust(max(5, len(column))) for column in columns]
        lines.append("  ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def report(title: str, tables: dict[str, Table], checks: list[Check]) -> str:
    """All tables of one part, and what was to be reached."""
    lines = [f"\n== {title}"]
    for name, table in tables.items():
        lines += [f"\n{name}", as_text(table)] if table else []
    lines += ["", *(f"{'yes' if c.reached else 'NO ':3s} {c.what}: {shown(c.value)} ({c.target})" for c in checks)]
    return "\n".join(lines)


PARTS = {
    "resynthesis": (resynthesis, resynthesis_checks),
    "speech": (speech, speech_checks),
    "finetune": (finetune, finetune_checks),
}


def title_of(setup: Setup, part: str) -> str:
    """Name of a part's figures, and beginning of its keys."""
    return f"speech/{setup.args.through}" if part == "speech" else f"{part}/{setup.speaker}"


def with_rows(earlier: dict[str, dict], tables: dict[str, dict]) -> dict[str, dict]:
    """A part's tables, with the rows of an earlier run that this one had not, like those of other modes."""
    return {name: earlier.get(name, {}) | tables.get(name, {}) for name in earlier | tables}


def evaluate(args: argparse.Namespace) -> None:
    """The chosen parts, one after the other; figures are saved after each."""
    judges.require()
    if shutil.which("flite") is None:
        raise UserError("flite is not installed; run: apt-get install flite")
    torch.set_num_threads(args.threads)
    setup = Setup.of(args)
    parts = list(PARTS) if args.part == "all" else [args.part]
    path = setup.folder / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"model": str(args.model_dir)}
    if args.fresh:
        setup.references.forget("")
        for part in parts:
            setup.rows.forget(f"{title_of(setup, part)}/")
            figures.pop(title_of(setup, part), None)
    for part in parts:
        work, check = PARTS[part]
        tables = work(setup)
        checks = check(tables)
        title = title_of(setup, part)
        found = tables | {"checks": {c.what: asdict(c) for c in checks}}
        figures[title] = with_rows(figures.get(title, {}), found)
        write_text(path, json.dumps(figures, indent=1) + "\n")
        print(report(title, tables, checks), flush=True)
    print(f"\nfigures: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 where something is missing, 130 after Ctrl-C (what was judged is kept)."""
    return run_main(lambda: evaluate(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
