"""A speaker's recordings, found again once their clips are prepared."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from torch import Tensor
from tqdm import tqdm

from config import UserError
from cosyvoice.utils.audio_files import load_wav
from cosyvoice.utils.common import EXTRACTOR_RATE
from dataset import Clip, made_from, spread_out
from utils import DEFAULT_INPUT_DIR, find_folder, user_mistakes
from voice.metrics import pitch

SAME_SEC = 0.05  # by which decoders of different versions may disagree about a compressed recording
PITCH_CLIPS = 30  # most whose recordings tell the speaker's pitch: of five alone it would be told 3 % wrong
PITCH_REMEDY = "it is compared where the recordings that the clips were made from are at hand"
LOW_CUT_DB = -15.0  # unfiltered voices have -9 to +7; below this the mini model mistakes the pitch
LOW_CUT = (
    "warning: in the recordings the voice's lowest harmonic is {:.0f} dB below the next ones, as after a low-cut "
    "filter or a telephone: the trained voice may speak at a wrong pitch; recordings without the filter are better"
)


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
        if os.path.isabs(clip.wav) or ".." in Path(clip.wav).parts or "\0" in clip.wav:
            raise UserError(f"clip '{clip.utt}' was made from {clip.wav}, which is no path below {folder}; {remedy}")
        if not path.is_file():
            raise UserError(f"clip '{clip.utt}' was made from {clip.wav}, which is not in {folder}; {remedy}")
        wave = load_wav(path, EXTRACTOR_RATE)
    seconds = wave.shape[1] / EXTRACTOR_RATE
    if abs(seconds - clip.duration) > SAME_SEC:
        lengths = f"{seconds:.2f} s, the clip made from it {clip.duration:.2f} s"
        raise UserError(f"{path} is another recording, or has changed ({lengths}); {remedy}")
    return wave


def own_pitch(clips: Sequence[Clip], data_dir: Path, recordings: Path | None = None) -> float | None:
    """The speaker's pitch in Hz, told from recordings; None, with a line that says so, where none tells.

    It is the mean without the lowest and the highest quarter. recordings: their folder, where it is not the one that
    the data notes. Those without the voice's lowest harmonic are warned of."""
    waves, reason = some_recordings(spread_out(clips, PITCH_CLIPS), data_dir, recordings)
    found = [tone for wave in tqdm(waves, "pitch of the recordings", leave=False) if (tone := pitch(wave))]
    if not found:
        print(
            f"the pitch will not be compared with the speaker's: {reason or 'no voice in the recordings'}", flush=True
        )
        return None
    if (level := median(tone.lowest_db for tone in found)) < LOW_CUT_DB:
        print(LOW_CUT.format(-level), flush=True)
    quarter = len(found) // 4
    return fmean(sorted(tone.hz for tone in found)[quarter : len(found) - quarter])


def some_recordings(clips: Sequence[Clip], data_dir: Path, given: Path | None) -> tuple[list[Tensor], UserError | None]:
    """Waves (1, N) at EXTRACTOR_RATE of the clips whose recordings are there, and why the last of the others is not."""
    waves, reason = [], None
    try:
        folder = recordings_folder(data_dir, given, PITCH_REMEDY)
    except UserError as error:
        return [], error
    for clip in clips:
        try:
            waves.append(read_recording(clip, folder, PITCH_REMEDY))
        except UserError as error:
            reason = error
    return waves, reason
