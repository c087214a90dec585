"""--fix: copies of the recordings with short edges and even loudness, and a list of what was done to each.

The originals are not touched. Loudness is that of ITU-R BS.1770-4 (LUFS), as broadcasters measure it.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional
from tqdm import tqdm

from clips.audio_doctor import DC_OFFSET
from clips.decode import file_warnings, write_wav
from clips.find import RawClip, recordings_of, shown_name
from clips.measuring import decibel, edge_silences, frame_levels, peak
from common.files import atomic_path, part_name, rename_over
from config import UserError
from cosyvoice.utils.audio_files import MIN_SOURCE_RATE
from cosyvoice.utils.files import read_file
from cosyvoice.utils.records import read_record
from cosyvoice.utils.weights import file_fingerprint
from utils import user_mistakes

LOUDNESS_LUFS = -23.0  # EBU R 128
PEAK_DB = -1.0  # loudest sample, dBFS; louder clips are turned up less
LOUDNESS_STEP_DB = 0.5  # smaller differences are left alone
EDGE_SEC = 0.2  # silence that stays before and after the speech
LONGEST_EDGE_SEC = 0.3  # edges up to this are left alone
SHORTEST_SEC = 0.4  # loudness is measured in blocks of this length
LONGEST_SEC = 300  # of a recording that its loudness is measured by
MOST_CHANNELS = 5  # that BS.1770 has weights for
DONE = "fixed.json"
DROPPED_BY_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # nobody's work


@dataclass(frozen=True)
class Mended:
    """A recording as it should be, and what was done to get there."""

    samples: np.ndarray  # (N, channels)
    done: list[str] = field(default_factory=list)


def fixed_folder(input_dir: Path) -> Path:
    """Where the copies of a folder's recordings go: beside it, also where it is given as `.` or `..`."""
    folder = input_dir.resolve() if input_dir.name in ("", "..") else input_dir
    return folder.parent / f"{folder.name}_fixed"


def digests(folder: Path) -> dict[str, str]:
    """{path below the folder: sha256} of all that it holds besides DONE; a link has "", as --fix writes none."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return {
        shown_name(path.relative_to(folder).as_posix()): "" if path.is_symlink() else file_fingerprint(path)
        for path in paths
        if path != folder / DONE and path.name not in DROPPED_BY_DESKTOPS
    }


@dataclass(frozen=True)
class Copies:
    """What DONE says: the files that --fix wrote, each with its SHA-256."""

    files: dict[str, str]


def refuse_changed_copies(target: Path) -> None:
    """UserError where an earlier run's folder holds anything that this run did not write, or lacks a file of it."""
    if not target.exists():
        return
    if not (target / DONE).is_file():
        raise UserError(f"{target} already exists and was not made by --fix; move it away")
    remedy = f"move {target} away, or go on with it by --input-dir"
    try:
        done = json.loads(read_file(target / DONE))
        written, found = read_record(Copies, done, str(target / DONE)).files, digests(target)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{target / DONE} does not say what --fix wrote, so nothing is replaced; {remedy}") from error
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; {remedy}") from error
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            what = "added" if name not in written else "deleted" if name not in found else "changed"
            raise UserError(f"{target / name} was {what} after --fix had written its copies; {remedy}")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder to write to; it takes the name of `target` when the block ends well, and only then the old one goes.

    Until then the old one is whole, under its own name or, for the moment of the change, under another: a file that a
    program holds open may forbid to remove it or to rename it. Raises as `atomic_path`."""
    old = target.with_name(part_name(f"{target.name}.old"))
    with user_mistakes():
        if old.exists() and not target.exists():  # of a run that was killed at that moment
            rename_over(old, target)
    shutil.rmtree(old, ignore_errors=True)
    if old.exists():
        raise UserError(f"{old} is left of an earlier --fix and cannot be removed; close what uses it and remove it")
    try:
        with atomic_path(target) as folder:
            yield folder
            if target.exists():
                rename_over(target, old)
    except BaseException:
        if old.exists() and not target.exists():
            with suppress(OSError):  # the next run tries again
                rename_over(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def loudness_lufs(samples: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of samples (N, channels); NaN for silence, for less than SHORTEST_SEC, and below 8 kHz.

    Of more than MOST_CHANNELS the mono mix is measured, which is what is trained on, and of a recording of more than
    LONGEST_SEC that much from its middle: filtering takes ten times the memory of the samples."""
    if sample_rate < MIN_SOURCE_RATE or len(samples) < SHORTEST_SEC * sample_rate or not peak(samples) > 0:
        return math.nan
    beyond = max(0, len(samples) - LONGEST_SEC * sample_rate)
    samples = samples[beyond // 2 : len(samples) - beyond // 2]
    if samples.shape[1] > MOST_CHANNELS:
        samples = samples.mean(axis=1, keepdims=True)
    found = float(torchaudio.functional.loudness(torch.from_numpy(np.ascontiguousarray(samples.T)), sample_rate))
    return found if math.isfinite(found) else math.nan


def mend(samples: np.ndarray, sample_rate: int) -> Mended:
    """Samples (N, channels) centred, with long edges cut to EDGE_SEC, at LOUDNESS_LUFS as far as PEAK_DB allows."""
    done = []
    offsets = samples.mean(axis=0, dtype=np.float64).astype(samples.dtype)
    centred = samples - offsets
    lead, trail = edge_silences(frame_levels(centred.mean(axis=1), sample_rate))
    if np.abs(offsets).max() >= DC_OFFSET:
        samples = centred
        done.append(f"DC offset of {max(offsets, key=abs):+.2f} of full scale removed")
    start = lead - EDGE_SEC if lead > LONGEST_EDGE_SEC else 0.0
    end = trail - EDGE_SEC if trail > LONGEST_EDGE_SEC else 0.0
    if start + end > 0 and lead + trail < len(samples) / sample_rate:
        samples = samples[round(start * sample_rate) : len(samples) - round(end * sample_rate)]
        done.append(f"{start:.2f} s cut off before the speech, {end:.2f} s after it")
    loudness = loudness_lufs(samples, sample_rate)
    room = PEAK_DB - float(decibel(peak(samples)))
    gain = min(LOUDNESS_LUFS - loudness, room)
    if math.isfinite(gain) and abs(gain) >= LOUDNESS_STEP_DB:
        samples = samples * 10 ** (gain / 20)
        done.append(f"{gain:+.1f} dB, from {loudness:.1f} to {loudness + gain:.1f} LUFS")
    return Mended(samples.astype(np.float32), done)


def text_words(clip: RawClip) -> list[str]:
    """What the copies no longer tell about a clip's text."""
    if "unreadable_text" in clip.flags:
        return [f"copied without its text: {clip.flags['unreadable_text']['text_problem']}"]
    if clip.text == "":
        return ["copied without its text, which is empty"]
    if conflict := clip.flags.get("text_conflict"):
        return ["copied with the text of {used_file}; {other_file} has '{other_text}'".format_map(conflict)]
    return []


def fix_recordings(clips: Sequence[RawClip], input_dir: Path) -> list[str]:
    """Write fixed copies with their texts to `fixed_folder`, in place of an earlier run's; what was done, by file.

    Raises UserError where the folder holds anything else, no recording can be read, or the disk refuses; one that
    cannot be read, or that shares its name with one that is used, is named and left out."""
    target = fixed_folder(input_dir)
    lines: list[str] = []
    known: dict[str, list[str]] = {}
    with replacing(target) as folder:
        refuse_changed_copies(target)
        shutil.rmtree(folder, ignore_errors=True)  # of a killed run
        folder.mkdir()
        for clip, recording in recordings_of(tqdm(clips, "fixing", unit="clip"), lines):
            mended = mend(recording.samples, recording.sample_rate)
            path = (folder / clip.path.relative_to(input_dir)).with_suffix(".wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, mended.samples, recording.sample_rate)
            if clip.text:
                path.with_suffix(".txt").write_text(clip.text + "\n", encoding="utf-8")
            lines += [f"{clip.file}: {told}" for told in (*file_warnings(recording), *text_words(clip))]
            known[clip.file] = mended.done
            lines += [f"{clip.file}: {'; '.join(mended.done)}"] if mended.done else []
        if not known:
            raise UserError(f"none of the {len(clips)} recordings in {input_dir} can be copied; {lines[0]}")
        record = {"done": known, "printed": lines, "files": digests(folder)}
        (folder / DONE).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        refuse_changed_copies(target)  # it may have been worked on in the meantime
    return lines
