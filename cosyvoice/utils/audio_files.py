"""Sound files of every kind -> samples. soundfile reads wav, flac and ogg; PyAV, which holds ffmpeg, reads the rest.

What a file is, is told by its first bytes and not by its name. Files are not trusted: nothing that one of them names is
opened, formats that only name other files are not known, and what is decoded has a limit.
"""

import math
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor

from cosyvoice.utils.common import MAX_VALUES, AudioError, InputError, check_amount
from cosyvoice.utils.files import require_file
from cosyvoice.utils.wav_header import WavHeader, read_wav_header

MIN_SOURCE_RATE = 8_000  # Hz of a recording, as of a telephone; below words are hard to tell apart
FULL_SOURCE_RATE = 16_000  # Hz; with less the sound ends where s, f and sh still have much of theirs
MAX_FILE_BYTES = 2**35  # 34 GB
MAX_PEAK = 100.0  # times full scale, 40 dB above it; recorders with 32-bit float write a few times full scale
INTEGER_SCALES = (2**15, 2**23, 2**31)  # full scales of whole numbers, which some programs write as float
MAX_RESAMPLE_TAPS = 4_000_000  # 16 MB of filter; 48 000 -> 22 050 Hz has 52 000
# In order of preference, where two files differ only in the suffix
AUDIO_SUFFIXES = (
    ".wav .wave .rf64 .flac .aiff .aif .w64 .au .caf .ogg .opus .oga .mp3 .m4a .m4b .aac .mp4 .wma .webm .amr .ape "
    ".mka .mp2 .ac3 .wv .tta .mov .mkv .m4v .3gp .avi .flv .wmv"
).split()

SOUNDFILE_SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
START_BYTES = 4096

# First bytes of what people save under the name of a recording: what it is, and what to do
FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer and not the recording; run: git lfs pull"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"%PDF", "a PDF document and not a recording"),
    (b"\x89PNG", "a picture and not a recording"),
    (b"\xff\xd8\xff", "a picture and not a recording"),
    (b"GIF8", "a picture and not a recording"),
    (b"MThd", "a MIDI file, which holds notes and no sound; export it as wav"),
    (b"#EXTM3U", "a playlist, which only names recordings; bring these"),
    (b"[playlist]", "a playlist, which only names recordings; bring these"),
    (b"ffconcat", "a playlist, which only names recordings; bring these"),
    (b"<!doctype html", "a web page and not a recording; download the file itself"),
    (b"<html", "a web page and not a recording; download the file itself"),
    (b"<?xml", "an XML text and not a recording"),
)


@dataclass(frozen=True)
class Recording:
    """Decoded audio."""

    samples: np.ndarray  # (N, channels) float32, full scale is 1
    sample_rate: int
    duration_sec: float  # of the whole file, also where only its start was decoded
    header_sec: float  # what its header says where that is more; 0.0: a wav whose header was never finished

    def mono(self, sample_rate: int) -> Tensor:
        """(1, N) at another rate, channels averaged, and where that exceeds full scale divided by its peak."""
        wave = torch.from_numpy(self.samples.mean(axis=1, dtype=np.float32))[None]
        return resample(wave / wave.abs().max().clamp(min=1), self.sample_rate, sample_rate)


def load_wav(path: str | Path, sample_rate: int) -> Tensor:
    """The file's audio as (1, N) float32 at `sample_rate`, channels averaged.

    Raises FileNotFoundError, and InputError naming the file for one that `read_audio` refuses or that is below 8 kHz.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        recording = read_audio(path)
        if recording.sample_rate < MIN_SOURCE_RATE:
            raise AudioError(f"{recording.sample_rate} Hz is too low; record at {FULL_SOURCE_RATE} Hz or more")
        return recording.mono(sample_rate)
    except AudioError as error:
        raise InputError(f"{path}: {error}") from error


def read_audio(path: Path, max_sec: float | None = None) -> Recording:
    """The file's sound at its own rate; max_sec: no more than the first so many seconds are decoded.

    Raises AudioError for a file that cannot be opened or decoded, is empty, not finite or beyond every full scale.
    """
    try:
        require_sound_file(path)
        with path.open("rb") as file:
            recording = _decoded(path, file, max_sec)
    except OSError as error:
        raise AudioError(error.strerror or str(error), "cannot_open") from error
    if len(recording.samples) == 0:
        raise AudioError("it holds no sound (0 samples); record or copy it again", "no_sound")
    peak = max(float(recording.samples.max()), -float(recording.samples.min()))
    if not math.isfinite(peak):
        raise AudioError("it holds samples that are not numbers (NaN or infinite); export it again", "not_finite")
    if peak <= MAX_PEAK:
        return recording
    scale = next((scale for scale in INTEGER_SCALES if peak <= scale), None)
    if scale is None:
        raise AudioError(f"its samples reach {peak:.3g} times full scale; export it again as 16-bit wav", "too_loud")
    return replace(recording, samples=recording.samples / np.float32(scale))


def require_sound_file(path: Path) -> None:
    """Raises OSError for what is no regular file, and AudioError for more bytes than any sound that is read has."""
    require_file(path)
    if os.stat(path).st_size > MAX_FILE_BYTES:
        raise AudioError(f"it is larger than {MAX_FILE_BYTES >> 30} GiB, more than any recording has", "too_much")


def _decoded(path: Path, file: BinaryIO, max_sec: float | None) -> Recording:
    start = file.read(START_BYTES)
    if not start:
        raise AudioError("the file is empty (0 bytes); record or copy it again", "empty")
    if what := _foreign(start):
        raise AudioError(f"it is {what}", "not_audio")
    header = read_wav_header(file)
    if start.startswith(SOUNDFILE_SIGNATURES) and header.for_soundfile:
        if sound := _by_soundfile(path, max_sec, header):
            return sound
    from cosyvoice.utils.pyav import decode  # 15 MB of memory, which only some files need

    samples, rate, seconds, stated_sec = decode(file, max_sec, ignore_length=header.unfinished)
    return Recording(samples, rate, seconds, 0.0 if header.unfinished else stated_sec)


def _foreign(start: bytes) -> str:
    """What a file with these first bytes is where it surely is no sound, else ""."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, what in FOREIGN:
        if start.startswith(signature) or text[: len(signature)].lower() == signature:
            return what
    try:
        letters = text.decode("utf-8")
    except UnicodeDecodeError as error:
        letters = text.decode("utf-8", "ignore") if error.start > len(text) - 4 else "\0"  # the last one may be cut
    if all(letter.isprintable() or letter.isspace() for letter in letters):
        return "text and not a recording"
    return ""


# ---- soundfile -------------------------------------------------------------------------------------------------------


def _by_soundfile(path: Path, max_sec: float | None, header: WavHeader) -> Recording | None:
    """The sound; None for what libsndfile does not read to its end, or of which it does not know the length."""
    try:
        with soundfile.SoundFile(_sound_file_name(path)) as file:
            rate, length = file.samplerate, file.frames
            wanted = length if max_sec is None else min(length, int(max_sec * rate))
            if length * file.channels > 4 * MAX_VALUES:  # as of a flac that does not say its length
                return None
            check_amount(wanted * file.channels)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    if len(samples) < wanted:
        return None
    return Recording(samples, rate, length / rate, header.seconds(length / rate))


def _sound_file_name(path: Path) -> Path | bytes:
    """The path as soundfile opens it: it cannot encode names that are not UTF-8 (from old archives)."""
    return path if os.name == "nt" else os.fsencode(path)


# ---- another rate ----------------------------------------------------------------------------------------------------


def resample(wave: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """(1, N) at another rate, by torchaudio's windowed sinc with its default settings.

    Where the two rates have so little in common that its filter would fill the memory, by soxr in its best quality.
    """
    if source_rate == target_rate:
        return wave
    common = math.gcd(source_rate, target_rate)
    if (source_rate // common) * (target_rate // common) > MAX_RESAMPLE_TAPS:
        return torch.from_numpy(soxr.resample(wave[0].numpy(), source_rate, target_rate, quality="VHQ"))[None]
    with torch.no_grad():
        return _resampler(source_rate, target_rate)(wave)


@lru_cache(maxsize=8)
def _resampler(source_rate: int, target_rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(source_rate, target_rate)
