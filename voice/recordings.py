"""A speaker's recordings, found again once their clips are prepared."""

from pathlib import Path

from torch import Tensor

from config import UserError
from cosyvoice.cli.frontend import load_wav
from cosyvoice.utils.common import EXTRACTOR_RATE
from dataset import Clip, made_from
from utils import DEFAULT_INPUT_DIR, find_folder, user_mistakes

SAME_SEC = 0.05  # by which decoders of different versions may disagree about a compressed recording


def recordings_folder(data_dir: Path, given: Path | None, remedy: str) -> Path:
    """The folder given, else the one that the data notes as its own, else the usual one; UserError where none is."""
    noted = made_from(data_dir).get("input_dir")
    with user_mistakes():
        if given is None and noted is not None and noted.is_dir():
            return noted
        return find_folder(given, DEFAULT_INPUT_DIR, remedy)


def read_recording(clip: Clip, folder: Path, remedy: str) -> Tensor:
    """A clip's recording, (1, N) at EXTRACTOR_RATE; UserError where it is missing, or not what the clip was made from.

    A clip is as long as its recording, while one of another speaker may well have the same name."""
    path = folder / clip.wav
    with user_mistakes():
        if not path.is_file():
            raise UserError(f"clip '{clip.utt}' was made from {clip.wav}, which is not in {folder}; {remedy}")
        wave = load_wav(path, EXTRACTOR_RATE)
    seconds = wave.shape[1] / EXTRACTOR_RATE
    if abs(seconds - clip.duration) > SAME_SEC:
        lengths = f"{seconds:.2f} s, the clip made from it {clip.duration:.2f} s"
        raise UserError(f"{path} is another recording, or has changed ({lengths}); {remedy}")
    return wave
