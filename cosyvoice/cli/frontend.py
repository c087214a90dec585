"""What the networks are fed: text -> segments and token ids; audio -> speech tokens, speaker vector and mel."""

import io
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import torch
import torchaudio
import torchaudio.compliance.kaldi
from torch import Tensor

from cosyvoice.cli.mp3 import mp3_seconds
from cosyvoice.cli.text import STOCK, TextNormalizer, contains_chinese, is_only_punctuation, split_paragraph
from cosyvoice.utils.common import EXTRACTOR_RATE, InputError
from cosyvoice.utils.yaml_loader import DOWNLOAD, ModelConfig, require_files
from matcha.utils.audio import cached_mel_filters, hann_window

MIN_SOURCE_RATE = 16_000  # Hz of a recording; sounds are lost below
MAX_TOKEN_SEC = 30  # that the speech tokenizer takes
MIN_TOKEN_SAMPLES = 201  # the reflection at both ends takes 200
MIN_SPEAKER_SAMPLES = 400  # one frame of the filterbank
MAX_RESAMPLE_TAPS = 4_000_000  # 16 MB of filter; 48 000 -> 22 050 Hz has 52 000
FFMPEG_SUFFIXES = ".m4a .aac .mp4 .wma .webm .amr .ape .mka".split()  # what libsndfile does not know
# In order of preference, where two files differ only in the suffix
AUDIO_SUFFIXES = ".wav .flac .aiff .aif .w64 .au .caf .ogg .opus .oga .mp3".split() + FFMPEG_SUFFIXES
FFMPEG_TIMEOUT_SEC = 300
FFMPEG_FORMATS = "aac,ac3,aiff,amr,ape,asf,caf,eac3,flac,g722,matroska,mov,mp3,ogg,tta,w64,wav,wv"  # no playlists
SF_NO_SUCH_FILE = 7  # libsndfile's code for "File does not exist or is not a regular file"
LONGEST_SEC = 24 * 3600  # a file that is said to hold more does not say how much it holds
MP3_SLACK_SEC = 0.25  # a decoder leaves out what the encoder put in around the sound
SLACK_SEC = 0.1  # by which the length in a header may be wrong
BLOCK = 2**20  # samples at once where they are only counted
WHISPER_FFT, WHISPER_HOP, WHISPER_BANDS = 400, 160, 128

SPEECH_TOKENIZER = "speech_tokenizer_v1.onnx"
SPEAKER_MODEL = "campplus.onnx"
CUDA_PROVIDER = "CUDAExecutionProvider"  # onnxruntime's name for a GPU


# ---------------------------------------------------------------------------------------------- audio
class AudioError(InputError):
    """A recording that cannot be used; the message gives the reason, the caller names the file."""


def load_wav(path: str | Path, sample_rate: int) -> Tensor:
    """The file's audio as (1, N) float32 at `sample_rate`, channels averaged. Raises as `read_audio`."""
    wave, source_rate = read_audio(path)
    try:
        return resample(wave, source_rate, sample_rate)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """The file's audio, (1, N) float32 with the channels averaged, and its sample rate; nothing else is changed.

    Raises FileNotFoundError, and InputError naming the file for one that `decode` refuses or that is below 16 kHz.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        samples, sample_rate, _ = decode(path)
    except AudioError as error:
        raise InputError(f"{path}: {error}") from error
    if sample_rate < MIN_SOURCE_RATE:
        raise InputError(f"{path}: {sample_rate} Hz is too low; record at {MIN_SOURCE_RATE} Hz or more")
    return torch.from_numpy(samples.mean(axis=1, dtype=np.float32))[None], sample_rate


def decode(path: Path, max_sec: float | None = None) -> tuple[np.ndarray, int, float]:
    """Samples (N, channels) float32 at the file's own rate, that rate, and the seconds of the whole file.

    max_sec: no more than the first so many seconds are decoded. What libsndfile cannot read is decoded by ffmpeg where
    that is installed; the seconds are then those decoded. Raises AudioError for a file that is unreadable, empty or not
    finite.
    """
    try:
        if path.stat().st_size == 0:
            raise AudioError("the file is empty (0 bytes); record or copy it again")
        path.open("rb").close()  # says "Permission denied" where libsndfile says "System error"
        samples, rate, length = _decode_with_libsndfile(path, max_sec)
        if path.suffix.lower() == ".mp3" and (whole_sec := mp3_seconds(path)) > length / rate + MP3_SLACK_SEC:
            samples, rate = _decode_whole_mp3(path, max_sec, length / rate, whole_sec)
            length = len(samples) if max_sec is None else round(whole_sec * rate)
    except soundfile.LibsndfileError as error:
        samples, rate = _decode_refused(path, max_sec, error)
        length = len(samples)
    except OSError as error:
        raise AudioError(error.strerror or str(error)) from error
    if len(samples) == 0:
        raise AudioError("it holds no sound (0 samples); record or copy it again")
    if not np.isfinite(samples).all():
        raise AudioError("it holds samples that are not numbers (NaN or infinite); export it again")
    return samples, rate, length / rate


class _OnwardFile(soundfile.SoundFile):
    """Read from start to end: at the end of a FLAC without a length libsndfile fails to seek, as each read does."""

    def seekable(self) -> bool:
        """No."""
        return False


def _decode_with_libsndfile(path: Path, max_sec: float | None) -> tuple[np.ndarray, int, int]:
    """Samples (N, channels), rate, and how many samples the whole file holds."""
    with _OnwardFile(sound_file_name(path)) as file:
        rate = file.samplerate
        length = file.frames if file.frames <= LONGEST_SEC * rate else _counted(path)
        wanted = length if max_sec is None else min(length, int(max_sec * rate))
        samples = file.read(wanted, dtype="float32", always_2d=True)
    return samples, rate, length if len(samples) == wanted else len(samples)


def _counted(path: Path) -> int:
    """Samples in a file that does not say how many, as a FLAC that went through a pipe, by reading all of it."""
    with _OnwardFile(sound_file_name(path)) as file:
        blocks = iter(lambda: len(file.read(BLOCK, dtype="float32", always_2d=True)), 0)
        return sum(blocks)


def _decode_refused(path: Path, max_sec: float | None, refused: soundfile.LibsndfileError) -> tuple[np.ndarray, int]:
    """Samples (N, channels) and rate of what libsndfile refused."""
    # of a .mp3 that is none libsndfile says that it is not there
    refusal = "no sound in it" if refused.code == SF_NO_SUCH_FILE else refused.error_string.rstrip(".")
    try:
        samples, rate = decode_with_ffmpeg(path, max_sec)
    except AudioError as error:
        if path.suffix.lower() in FFMPEG_SUFFIXES:
            raise
        raise AudioError(f"damaged or not audio at all ({refusal})") from error
    if len(samples) < rate * (_stated_sec(path, max_sec) - SLACK_SEC):  # ffmpeg stops at the damage without a word
        raise AudioError(f"damaged after {len(samples) / rate:.1f} s ({refusal}); copy or export it again")
    return samples, rate


def _decode_whole_mp3(path: Path, max_sec: float | None, read_sec: float, whole_sec: float) -> tuple[np.ndarray, int]:
    """Samples (N, channels) and rate of an MP3 of which libsndfile stops short."""
    try:
        return decode_with_ffmpeg(path, max_sec)
    except AudioError as error:
        raise AudioError(
            f"only {read_sec:.1f} s of its {whole_sec:.1f} s can be read without ffmpeg (a variable bitrate without a "
            "table, or files joined to one); convert it to wav"
        ) from error


def _stated_sec(path: Path, max_sec: float | None) -> float:
    """Seconds, up to max_sec, that a file should have by its header; 0 where libsndfile reads none in it."""
    try:
        with soundfile.SoundFile(sound_file_name(path)) as file:
            stated = file.frames / file.samplerate
    except soundfile.LibsndfileError:
        return 0.0
    return 0.0 if stated > LONGEST_SEC else stated if max_sec is None else min(stated, max_sec)


def sound_file_name(path: Path) -> Path | bytes:
    """The path as soundfile opens it: it cannot encode names that are not UTF-8 (from old archives)."""
    return path if os.name == "nt" else os.fsencode(path)


def decode_with_ffmpeg(path: Path, max_sec: float | None = None) -> tuple[np.ndarray, int]:
    """Samples (N, channels) float32 and sample rate by the ffmpeg on the PATH; it may open no other file or address.

    max_sec: no more than the first so many seconds are decoded. Raises AudioError with the reason, without the name of
    the file.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise AudioError("no audio, or a format that needs ffmpeg, which is not installed; convert it to wav")
    limits = ["-nostdin", "-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FFMPEG_FORMATS]
    start = [] if max_sec is None else ["-t", f"{max_sec:g}"]
    wanted = ["-map", "0:a:0", *start, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    command = [ffmpeg, *limits, "-i", str(path.resolve()), *wanted]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FFMPEG_TIMEOUT_SEC, check=True)
        return soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.decode("utf-8", "replace").splitlines()[-1:])
        raise AudioError(f"no audio that can be decoded ({reason}); convert it to wav") from error
    except (subprocess.TimeoutExpired, OSError, soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"ffmpeg did not decode it ({type(error).__name__}); convert it to wav") from error


def resample(wave: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """(1, N) at another rate, by torchaudio's windowed sinc with its default settings.

    Raises InputError where the two rates have so little in common that the filter would fill the memory.
    """
    if source_rate == target_rate:
        return wave
    common = math.gcd(source_rate, target_rate)
    if (source_rate // common) * (target_rate // common) > MAX_RESAMPLE_TAPS:
        raise InputError(f"{source_rate} Hz is an odd sample rate; convert the audio to 16000, 44100 or 48000 Hz")
    with torch.no_grad():
        return _resampler(source_rate, target_rate)(wave)


@lru_cache(maxsize=8)
def _resampler(source_rate: int, target_rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source_rate, target_rate)


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
        return list(self.tokenizer.encode(text, allowed_special=self.config.allowed_special))

    def text_normalize(self, text: str, split: bool = True, text_frontend: bool = True) -> list[str] | str:
        """Segments to speak one after the other, or with split=False one string, with numbers written out.

        Text that holds `<|` and `|>`, and any text without text_frontend, is taken as it is and not split. Segments
        with nothing but punctuation are left out, and tagged text of which the tokenizer knows nothing, so the list may
        be empty. Raises InputError for text with half a character, as bytes that are not UTF-8 leave it.
        """
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InputError(f"the text {text!r} holds bytes that are not UTF-8; write or save it again as UTF-8")
        if ("<|" in text and "|>" in text) or not text_frontend or text == "":
            known = text == "" or not text_frontend or self.text_tokens(text)
            return ([text] if known else []) if split else text
        spoken = self.normalizer.normalize(text.strip())
        if not split:
            return spoken
        segments = split_paragraph(spoken, self.text_tokens, "zh" if contains_chinese(text) else "en")
        return [segment for segment in segments if not is_only_punctuation(segment)]

    def speech_tokens(self, wave16k: Tensor) -> list[int]:
        """Speech tokens, 50 a second, of a 16 kHz wave (1, N). Raises InputError for one that is too short or long."""
        _check_wave(wave16k, MIN_TOKEN_SAMPLES, "speech tokens")
        seconds = wave16k.shape[1] / EXTRACTOR_RATE
        if seconds > MAX_TOKEN_SEC:
            raise InputError(f"the audio is {seconds:.1f} s long; speech tokens are made of at most {MAX_TOKEN_SEC} s")
        features = whisper_logmel(wave16k).numpy()
        length = np.array([features.shape[2]], dtype=np.int32)
        tokens = self._speech_tokenizer(features, length).flatten().tolist()
        if any(not 0 <= token < self.config.speech_token_size for token in tokens):
            size = self.config.speech_token_size
            raise InputError(f"{self.config.directory / SPEECH_TOKENIZER}: gives tokens outside 0..{size - 1}")
        return tokens

    def speaker_vector(self, wave16k: Tensor) -> Tensor:
        """The raw speaker vector (192,), float32, of a 16 kHz wave (1, N). Raises InputError for one below 25 ms."""
        _check_wave(wave16k, MIN_SPEAKER_SAMPLES, "a speaker vector")
        vector = torch.from_numpy(self._speaker_model(kaldi_fbank(wave16k)[None].numpy())).float().flatten()
        if vector.numel() != self.config.spk_embed_dim or not torch.isfinite(vector).all():
            path = self.config.directory / SPEAKER_MODEL
            raise InputError(f"{path}: does not give {self.config.spk_embed_dim} finite numbers for this audio")
        return vector

    def mel(self, wave22k: Tensor) -> Tensor:
        """Raw log-mel (T, 80) of a 22.05 kHz wave (1, N); a wave that exceeds [-1, 1] is first divided by its peak."""
        _check_wave(wave22k, 1, "mel frames")
        peak = wave22k.abs().max()
        return self.config.feat_extractor(wave22k / peak if peak > 1 else wave22k)[0].T.contiguous()

    @cached_property
    def _speech_tokenizer(self) -> Callable[..., np.ndarray]:
        return open_onnx(self.config.directory / SPEECH_TOKENIZER, 2, self.device, self.threads)

    @cached_property
    def _speaker_model(self) -> Callable[..., np.ndarray]:
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


def open_onnx(path: Path, inputs: int, device: torch.device, threads: int) -> Callable[..., np.ndarray]:
    """The model as a function of `inputs` arrays, in the order of its inputs, that gives its first output.

    Raises FileNotFoundError, and InputError for a file that is no ONNX model or takes another number of inputs.
    """
    require_files(path.parent, [path.name])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnx_providers(device))
    except Exception as error:  # onnxruntime has a class for each of a dozen kinds of damage
        raise InputError(f"{path}: cannot be opened as an ONNX model ({type(error).__name__}); {DOWNLOAD}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != inputs or not session.get_outputs():
        found = f"{len(names)} inputs and {len(session.get_outputs())} outputs"
        raise InputError(f"{path}: has {found}, expected {inputs} and 1; {DOWNLOAD}")
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]
