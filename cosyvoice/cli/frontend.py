"""What the networks are fed: text -> segments and token ids; audio -> speech tokens, speaker vector and mel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import onnxruntime
import torch
import torchaudio.compliance.kaldi
from torch import Tensor

from cosyvoice.cli.text import STOCK, TextNormalizer, blocks, contains_chinese, is_only_punctuation, split_paragraph
from cosyvoice.utils.common import EXTRACTOR_RATE, InputError
from cosyvoice.utils.memory import is_out_of_memory
from cosyvoice.utils.weights import check_listed
from cosyvoice.utils.yaml_loader import DOWNLOAD, DOWNLOAD_AGAIN, ModelConfig, require_files
from matcha.utils.audio import cached_mel_filters, hann_window

LONGEST_TEXT = 200_000  # characters: four hours of English, half a day of Chinese, in one sound
MAX_ENCODED = 2000  # characters; a tokenizer's time for a word may grow with the square of its length
MAX_TOKEN_SEC = 30  # that the speech tokenizer takes
MIN_TOKEN_SAMPLES = 201  # the reflection at both ends takes 200
MIN_SPEAKER_SAMPLES = 400  # one frame of the filterbank
WHISPER_FFT, WHISPER_HOP, WHISPER_BANDS = 400, 160, 128

SPEECH_TOKENIZER = "speech_tokenizer_v1.onnx"
SPEAKER_MODEL = "campplus.onnx"
# By the number of inputs, of the speaker model and of the speech tokenizer: types and shapes; 0 is the time
TAKEN = {
    1: (("tensor(float)", (1, 0, 80)),),
    2: (("tensor(float)", (1, WHISPER_BANDS, 0)), ("tensor(int32)", (1,))),
}
GIVEN = {1: r"tensor\(float\)", 2: r"tensor\(u?int\d+\)"}
VECTOR_LENGTHS = (1e-3, 1e6)  # that a raw speaker vector may have; usual are 5 to 50
RUN_SEC, RUN_SEC_PER_SEC = 60, 20  # a model's time, and for each second of sound; slow computers take 2 a second
FATAL_ONLY = 4  # level of what onnxruntime prints by itself
CUDA_PROVIDER = "CUDAExecutionProvider"  # onnxruntime's name for a GPU


# ---------------------------------------------------------------------------------------------- features
def whisper_logmel(wave: Tensor) -> Tensor:
    """Log-mel (1, 128, N // 160) of a 16 kHz wave (1, N), N >= 201, as Whisper takes it but not padded to 30 s.

    Base 10, at most 8 below the loudest value, then (x + 4) / 4. Source: Radford et al. 2022, section 2.2.
    """
    window = hann_window(WHISPER_FFT, wave.device)
    spectrum = torch.stft(wave, WHISPER_FFT, WHISPER_HOP, window=window, center=True, return_complex=True)
    power = spectrum[..., :-1].abs().square()
    filters = cached_mel_filters(EXTRACTOR_RATE, WHISPER_FFT, WHISPER_BANDS, 0.0, None, wave.device)
    log = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


def kaldi_fbank(wave: Tensor) -> Tensor:
    """Kaldi filterbank (T, 80) of a 16 kHz wave (1, N) in [-1, 1], natural logarithm, mean over time subtracted."""
    bands = torchaudio.compliance.kaldi.fbank(wave, num_mel_bins=80, dither=0.0, sample_frequency=EXTRACTOR_RATE)
    return bands - bands.mean(dim=0, keepdim=True)


# ---------------------------------------------------------------------------------------------- the front end
class CosyVoiceFrontEnd:
    """Everything between the user's text and audio and the networks. Tokenizer and ONNX models open at first use."""

    def __init__(
        self,
        config: ModelConfig,
        device: str | torch.device = "cpu",
        *,
        normalizer: TextNormalizer = STOCK,
        threads: int = 1,
    ) -> None:
        """device: "cuda" lets the ONNX models run there. threads: of each ONNX model."""
        self.config, self.normalizer, self.threads = config, normalizer, threads
        self.device = torch.device(device)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that the yaml names."""
        return self.config.get_tokenizer()

    def text_tokens(self, text: str) -> list[int]:
        """Text token ids, no start or language token added."""
        allowed = self.config.allowed_special
        encoded = (self.tokenizer.encode(block, allowed_special=allowed) for block in blocks(text, MAX_ENCODED))
        return list(chain.from_iterable(encoded))

    def text_normalize(self, text: str, split: bool = True, text_frontend: bool = True) -> list[str] | str:
        """Segments to speak one after the other, or with split=False one string, with numbers written out.

        Text that holds `<|` and `|>`, and any text without text_frontend, is taken as it is and not split. Segments
        with nothing but punctuation are left out, and tagged text of which the tokenizer knows nothing, so the list may
        be empty. Raises InputError for text that is too long, or with half a character, as bytes that are not UTF-8
        leave it.
        """
        if len(text) > LONGEST_TEXT:
            limit = f"at most {LONGEST_TEXT:,} are spoken in one sound; cut it into several texts"
            raise InputError(f"the text '{text[:20]}...' has {len(text):,} characters; {limit}")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InputError(f"the text {text!r} holds bytes that are not UTF-8; write or save it again as UTF-8")
        if ("<|" in text and "|>" in text) or not text_frontend or text == "":
            known = text == "" or not text_frontend or self.text_tokens(text)
            return ([text] if known else []) if split else text
        spoken = self.normalizer.normalize(text.strip())
        if not split:
            return spoken
        segments = split_paragraph(spoken, self.text_tokens, "zh" if contains_chinese(spoken) else "en")
        return [segment for segment in segments if not is_only_punctuation(segment)]

    def speech_tokens(self, wave16k: Tensor) -> list[int]:
        """Speech tokens, 50 a second, of a 16 kHz wave (1, N). Raises InputError for one that is too short or long."""
        _check_wave(wave16k, MIN_TOKEN_SAMPLES, "speech tokens")
        seconds = wave16k.shape[1] / EXTRACTOR_RATE
        if seconds > MAX_TOKEN_SEC:
            raise InputError(f"the audio is {seconds:.1f} s long; speech tokens are made of at most {MAX_TOKEN_SEC} s")
        features = whisper_logmel(wave16k).numpy()
        length = np.array([features.shape[2]], dtype=np.int32)
        ids, size = self._speech_tokenizer(seconds, features, length), self.config.speech_token_size
        path = self._speech_tokenizer.path
        if not 0 < ids.size <= features.shape[2] or ids.size not in ids.shape:
            raise InputError(f"{path}: gives the shape {ids.shape} for {seconds:.2f} s instead of one row of tokens")
        if ids.min() < 0 or ids.max() >= size:
            raise InputError(f"{path}: gives tokens outside 0..{size - 1}")
        return ids.flatten().tolist()

    def speaker_vector(self, wave16k: Tensor) -> Tensor:
        """The raw speaker vector (192,), float32, of a 16 kHz wave (1, N). Raises InputError for one below 25 ms."""
        _check_wave(wave16k, MIN_SPEAKER_SAMPLES, "a speaker vector")
        values = self._speaker_model(wave16k.shape[1] / EXTRACTOR_RATE, kaldi_fbank(wave16k)[None].numpy())
        path, size, (shortest, longest) = self._speaker_model.path, self.config.spk_embed_dim, VECTOR_LENGTHS
        if values.size != size or size not in values.shape:
            raise InputError(f"{path}: gives the shape {values.shape} instead of {size} numbers")
        if not shortest < np.linalg.norm(values.astype(np.float64)) < longest:
            raise InputError(f"{path}: does not give {size} finite numbers of usual size for this audio")
        return torch.from_numpy(values).flatten()

    def mel(self, wave22k: Tensor) -> Tensor:
        """Raw log-mel (T, 80) of a 22.05 kHz wave (1, N); a wave that exceeds [-1, 1] is first divided by its peak."""
        _check_wave(wave22k, 1, "mel frames")
        peak = wave22k.abs().max()
        return self.config.feat_extractor(wave22k / peak if peak > 1 else wave22k)[0].T.contiguous()

    def open_models(self) -> None:
        """Open what else opens at first use. Raises InputError and OSError for what does not."""
        _ = self.tokenizer, self._speech_tokenizer, self._speaker_model, self.config.feat_extractor

    @cached_property
    def _speech_tokenizer(self) -> OnnxModel:
        return open_onnx(self.config.directory / SPEECH_TOKENIZER, 2, self.device, self.threads)

    @cached_property
    def _speaker_model(self) -> OnnxModel:
        return open_onnx(self.config.directory / SPEAKER_MODEL, 1, self.device, self.threads)


def _check_wave(wave: Tensor, min_samples: int, wanted: str) -> None:
    if wave.ndim != 2 or wave.shape[0] != 1:
        raise InputError(f"the wave has the shape {tuple(wave.shape)}; {wanted} need (1, N), one channel")
    if wave.shape[1] < min_samples:
        raise InputError(f"the audio has {wave.shape[1]} samples; {wanted} need at least {min_samples}")
    if not torch.isfinite(wave).all():
        raise InputError("the audio holds samples that are not numbers (NaN or infinite)")


def onnx_providers(device: torch.device) -> list[tuple[str, dict[str, int]]]:
    """Where onnxruntime is to run a model, best first, each with its options: on the device as far as it can.

    Without an index it would take the first GPU, whichever one the networks are on."""
    wanted = [(CUDA_PROVIDER, {"device_id": device.index or 0})] if device.type == "cuda" else []
    available = onnxruntime.get_available_providers()
    return [provider for provider in (*wanted, ("CPUExecutionProvider", {})) if provider[0] in available]


@dataclass(frozen=True)
class OnnxModel:
    """A model that a download brought: what it does with a sound is not trusted."""

    path: Path
    session: onnxruntime.InferenceSession

    def __call__(self, seconds: float, *arrays: np.ndarray) -> np.ndarray:
        """Its first output for arrays made of so many seconds of sound, in the order of its inputs.

        Raises InputError where it fails, and TimeoutError where it does not end."""
        names = [entry.name for entry in self.session.get_inputs()]
        options, limit = onnxruntime.RunOptions(), RUN_SEC + RUN_SEC_PER_SEC * seconds
        options.log_severity_level = FATAL_ONLY
        watchdog = Timer(limit, setattr, (options, "terminate", True))
        watchdog.daemon = True
        watchdog.start()
        try:
            output = self.session.get_outputs()[0].name
            return self.session.run([output], dict(zip(names, arrays, strict=True)), options)[0]
        except Exception as error:  # onnxruntime has a class for each of a dozen kinds of failure
            if options.terminate:
                told = f"{self.path}: gave nothing for {seconds:.1f} s of sound within {limit:.0f} s"
                raise TimeoutError(f"{told}; {DOWNLOAD_AGAIN}") from error
            if is_out_of_memory(error):
                raise MemoryError(f"{self.path}: {seconds:.1f} s of sound need more memory than there is") from error
            raise InputError(f"{self.path}: fails ({type(error).__name__}) on {seconds:.1f} s of sound") from error
        finally:
            watchdog.cancel()


def open_onnx(path: Path, inputs: int, device: torch.device, threads: int) -> OnnxModel:
    """The speaker model (1 input) or the speech tokenizer (2).

    Raises FileNotFoundError, and InputError for a file that is no ONNX model or takes or gives something else.
    """
    require_files(path.parent, [path.name])
    check_listed(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnx_providers(device))
    except Exception as error:  # as above
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: needs more memory than there is") from error
        raise InputError(
            f"{path}: cannot be opened as an ONNX model ({type(error).__name__}); {DOWNLOAD_AGAIN}"
        ) from error
    taken, given = session.get_inputs(), session.get_outputs()
    if len(taken) != inputs or not given:
        raise InputError(
            f"{path}: has {len(taken)} inputs and {len(given)} outputs, expected {inputs} and 1; {DOWNLOAD}"
        )
    for entry, (kind, shape) in zip(taken, TAKEN[inputs], strict=True):
        fits = len(entry.shape) == len(shape) and all(
            a == b for a, b in zip(entry.shape, shape, strict=True) if b and isinstance(a, int)
        )
        if entry.type != kind or not fits:
            raise InputError(f"{path}: takes {entry.type} {entry.shape}, expected {kind} {list(shape)}; {DOWNLOAD}")
    if not re.fullmatch(GIVEN[inputs], given[0].type):
        raise InputError(f"{path}: gives {given[0].type}, expected {GIVEN[inputs]}; {DOWNLOAD}")
    return OnnxModel(path, session)
