"""The user's recordings, decoded."""

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor

from cosyvoice.cli import frontend
from cosyvoice.utils.common import InputError

# Of a wav file's header
UNKNOWN_BYTES = 0x7FFFF000  # this or more stands for the size of the sound where it was not known beforehand: in a pipe
SLACK_SEC = 0.05  # some programs count the header in
MOST_CHUNKS = 100  # before the sound


@dataclass(frozen=True)
class Recording:
    """Decoded audio."""

    samples: np.ndarray  # (N, channels) float32, full scale is 1
    sample_rate: int
    duration_sec: float  # of the whole file; where ffmpeg decoded only its start, of that

    def mono(self, sample_rate: int) -> Tensor:
        """(1, N) at another rate, channels averaged. Raises AudioError for one that it cannot be converted to."""
        wave = torch.from_numpy(self.samples.mean(axis=1, dtype=np.float32))[None]
        try:
            return frontend.resample(wave, self.sample_rate, sample_rate)
        except InputError as error:
            raise frontend.AudioError(str(error)) from error


# ---- decoding --------------------------------------------------------------------------------------------------------


def read_audio(path: Path, max_sec: float | None = None) -> Recording:
    """Decoded samples at the file's own rate, at most max_sec of them. Raises AudioError with the reason."""
    return Recording(*frontend.decode(path, max_sec))


def cut_short(path: Path) -> dict[str, str] | None:
    """The figures of `incomplete` for a wav file that holds less sound than its header says; None for any other file.

    libsndfile reads such a file as if it ended there."""
    try:
        with path.open("rb") as file:
            stated, held, byte_rate = wav_bytes(file)
    except (OSError, struct.error):  # reading it finds the reason; a header that is cut has no sound after it
        return None
    if not byte_rate or stated == 0 or stated >= UNKNOWN_BYTES or stated - held <= SLACK_SEC * byte_rate:
        return None
    return {"held_sec": f"{held / byte_rate:.2f}", "header_sec": f"{stated / byte_rate:.2f}"}


def wav_bytes(file: BinaryIO) -> tuple[int, int, int]:
    """Bytes of sound that the header of a wav file states, those that it holds, and bytes per second; 0s for others."""
    byte_rate = 0
    if struct.unpack("<4s4x4s", file.read(12)) != (b"RIFF", b"WAVE"):
        return 0, 0, 0
    for _ in range(MOST_CHUNKS):
        kind, size = struct.unpack("<4sI", file.read(8))
        start = file.tell()
        if kind == b"data":
            return size, os.fstat(file.fileno()).st_size - start, byte_rate
        if kind == b"fmt ":
            byte_rate = struct.unpack("<8xI", file.read(12))[0]
        file.seek(start + size + size % 2)
    return 0, 0, 0


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """A 24-bit wav file of samples (N, channels). Raises OSError with the reason, which libsndfile does not tell."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format="WAV", subtype="PCM_24")
    path.write_bytes(encoded.getvalue())
