"""What the doctor says of a recording's file, and recordings written again."""

import io
from pathlib import Path

import numpy as np
import soundfile

from clips.audio_doctor import FLAGS
from cosyvoice.utils.audio_files import Recording


def file_flags(recording: Recording) -> dict[str, dict[str, str]]:
    """The doctor's flags of a file that is not as its header says, each with the figures of its sentence."""
    if recording.header_sec == recording.duration_sec:
        return {}
    held = {"held_sec": f"{recording.duration_sec:.2f}"}
    if recording.header_sec == 0:
        return {"unfinished_header": held}
    return {"incomplete": held | {"header_sec": f"{recording.header_sec:.2f}"}}


def file_warnings(recording: Recording) -> list[str]:
    """The sentences of `file_flags`: what copies of the recording no longer have, and --split and --fix print."""
    return [FLAGS[name][1].format_map(figures) for name, figures in file_flags(recording).items()]


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """A 24-bit wav file of samples (N, channels). Raises OSError with the reason, which libsndfile does not tell."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format="WAV", subtype="PCM_24")
    path.write_bytes(encoded.getvalue())
