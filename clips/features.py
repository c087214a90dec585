"""One recording and its text -> training features and figures, kept in one record file for each clip.

Records are written as soon as they are ready and named by a fingerprint of everything that they depend on: a run that
was killed goes on where it stopped, and what did not change is never computed again.
"""

import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clips.audio_doctor import audio_flags, drops, text_flags
from clips.decode import file_flags
from clips.measuring import AudioFigures, measure
from clips.mel_store import first_line
from clips.waveform import Waveform, waveform
from common.files import atomic_path
from config import UserError
from cosyvoice.cli.frontend import MAX_TOKEN_SEC, SPEECH_TOKENIZER, CosyVoiceFrontEnd
from cosyvoice.utils.audio_files import AudioError, read_audio
from cosyvoice.utils.common import EXTRACTOR_RATE, SAMPLE_RATE, InputError
from cosyvoice.utils.files import require_file
from cosyvoice.utils.memory import is_out_of_memory
from cosyvoice.utils.yaml_loader import read_model_config
from text.normalizer import normalizer
from utils import user_mistakes

# Raise it when the same audio and text would give other values, or a flag that drops clips changes: records of
# dropped clips hold no features. A new figure needs no new version: records without it are computed again.
EXTRACTION_VERSION = 8
ARRAYS = ("text_token", "speech_token", "speech_feat", "utt_embedding")  # of a clip that nothing drops
MAX_WORKERS = 4  # each holds the speech tokenizer: 0.6 GB for CosyVoice-300M
# Rough cost of a 5 s clip on one core: taken as 1 s with the tokenizer of CosyVoice-300M (0.5 GB), little with a small.
CLIP_SEC, CLIP_SEC_PER_BYTE = 0.05, 1 / 0.5e9
WORKER_SEC = 5.0  # work that a process must have to be worth its start
TOKEN_COUNT_SLACK_SEC = 0.2  # speech tokens against audio; one token is 0.02-0.04 s
# What `np.load` and the values of a spoiled record can raise
DAMAGED_RECORD = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
# What a clip can provoke in the code that measures it and the models that hear it
FAULTS_OF_CLIPS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Extraction:
    """A clip to extract; the result goes to the file `record`."""

    path: Path
    text: str  # as the user wrote it; "": the audio is only measured
    record: Path
    model_dir: Path
    device: str
    text_normalizer: str


@dataclass(frozen=True)
class Record:
    """What `extract` stored. A clip that cannot be decoded, or of which the models make nothing, has a problem and no
    figures; a bad one has no arrays."""

    path: Path
    problem: str | None
    figures: AudioFigures | None
    text: str  # normalised
    flags: dict[str, dict[str, str]]  # of the file, by `file_flags`
    waveform: Waveform | None = None
    has_arrays: bool = False

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """The record without its arrays, or None where there is none that can be read whole."""
        try:
            require_file(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if arrays.pop("digest").tobytes() != digest(arrays):
                return None
            values, has_arrays = json.loads(arrays.pop("values").tobytes()), bool(arrays)
            if "figures" not in values:
                return cls(path, values.get("problem"), None, "", {})
            figures, wave = AudioFigures(**values["figures"]), Waveform(**values["waveform"])
            return cls(path, None, figures, values["text"], values["flags"], wave, has_arrays)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            RuntimeError,
        ):
            return None

    def array(self, name: str) -> np.ndarray:
        """One of the arrays that `features` makes."""
        with np.load(self.path, allow_pickle=False) as file:
            return file[name]


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of named arrays: a record that anything changed is computed again."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def extract(job: Extraction) -> str:
    """Measure one clip and, where nothing drops it, make its features; store all of it in job.record.

    A bad clip is no error: what went wrong in measuring and in the models is returned, "" where nothing did. Raises
    UserError where the model directory cannot be opened or the record cannot be written.
    """
    front_end, fault = _front_end(job.model_dir, job.device, job.text_normalizer), ""
    values: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    try:
        recording = read_audio(job.path, MAX_TOKEN_SEC + 1)
        figures = measure(recording.samples, recording.sample_rate, recording.duration_sec)
        text = normalized(front_end, job.text)
        if not drops(audio_flags(figures) + text_flags(text)):
            wave_16k, wave_22k = recording.mono(EXTRACTOR_RATE), recording.mono(SAMPLE_RATE)
            arrays = features(front_end, text, wave_16k, wave_22k)
        wave = asdict(waveform(recording.samples, recording.sample_rate))
        values = {"figures": asdict(figures), "text": text, "flags": file_flags(recording), "waveform": wave}
    except TimeoutError as error:
        raise UserError(str(error)) from error
    except AudioError as error:
        values = {"problem": str(error)}
    except FAULTS_OF_CLIPS as error:
        if is_out_of_memory(error):
            raise
        fault = first_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
        values, arrays = {"problem": f"nothing can be trained on it: {fault}"}, {}
    with atomic_path(job.record) as part, open(part, "wb") as file:
        arrays["values"] = np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)
        np.savez(file, digest=np.frombuffer(digest(arrays), dtype=np.uint8), **arrays)
    return fault


@lru_cache(maxsize=1)
def _front_end(model_dir: Path, device: str, text_normalizer: str) -> CosyVoiceFrontEnd:
    """One front end for each process, so that the ONNX models are opened once, and before any clip: UserError for one
    that cannot be, which is no clip's fault."""
    with user_mistakes():
        front_end = CosyVoiceFrontEnd(read_model_config(model_dir), device, normalizer=normalizer(text_normalizer))
        front_end.open_models()
        return front_end


def normalized(front_end: CosyVoiceFrontEnd, text: str) -> str:
    """Text exactly as synthesis would speak it: its segments joined, so also with the final mark that it appends.

    Raises AudioError for a text that synthesis would refuse: the clip cannot be used."""
    try:
        return "".join(front_end.text_normalize(text)) if text else ""
    except InputError as error:
        raise AudioError(str(error)) from error


def features(front_end: CosyVoiceFrontEnd, text: str, wave_16k: Tensor, wave_22k: Tensor) -> dict[str, np.ndarray]:
    """Training features: text_token (L,), speech_token (S,) int32; speech_feat (T, 80), utt_embedding (192,) float32.

    speech_feat is the natural-log mel as extracted, the speaker vector is raw. Raises InputError where what a model
    gives does not fit the audio or cosyvoice.yaml.
    """
    arrays = {
        "text_token": np.asarray(front_end.text_tokens(text), dtype=np.int32),
        "speech_token": np.asarray(front_end.speech_tokens(wave_16k), dtype=np.int32),
        "speech_feat": front_end.mel(wave_22k).numpy(),
        "utt_embedding": front_end.speaker_vector(wave_16k).numpy(),
    }
    config, seconds = front_end.config, wave_16k.shape[1] / EXTRACTOR_RATE
    tokens, ids = len(arrays["speech_token"]), arrays["text_token"]
    if abs(tokens / config.token_rate_hz - seconds) > TOKEN_COUNT_SLACK_SEC:
        raise InputError(
            f"{SPEECH_TOKENIZER} gave {tokens} tokens for {seconds:.2f} s, but cosyvoice.yaml says "
            f"{config.token_rate_hz} per second; the two files in {config.directory} do not belong together"
        )
    if not len(ids):
        raise InputError("the tokenizer that cosyvoice.yaml names knows nothing of its text")
    if ids.min() < 0 or ids.max() >= config.text_token_size:
        raise InputError(
            f"the tokenizer gave id {ids.max()}, but llm.text_token_size of {config.directory} is "
            f"{config.text_token_size}; cosyvoice.yaml names another tokenizer than the model was trained with"
        )
    if not np.isfinite(arrays["speech_feat"]).all():
        raise InputError("its mel is not finite")
    return arrays


# ---- many clips ------------------------------------------------------------------------------------------------------


def extract_all(jobs: Sequence[Extraction], workers: int) -> dict[Path, str]:
    """Run all jobs; {recording: what `extract` gives}. Raises what `extract` raises, and UserError where a
    worker process dies."""
    faults: dict[Path, str] = {}
    with tqdm(total=len(jobs), desc="extracting", unit="clip") as bar:
        if workers == 1:
            with _one_thread():
                for job in jobs:
                    faults[job.path] = extract(job)
                    bar.update()
            return faults
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            try:
                running = {pool.submit(extract, job): job.path for job in jobs}
                for future in as_completed(running):
                    faults[running[future]] = future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process was killed, most likely because memory ran out; run again with --workers 1 "
                    "(finished clips are kept)"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return faults


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as in a worker: the number of threads may change the last bits of a result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    """In each worker: one thread, Ctrl-C left to the parent, and no life without the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def default_workers(jobs: int, device: str, model_dir: Path) -> int:
    """Processes worth starting: no more than CPU cores, and one on a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    work_sec = jobs * (CLIP_SEC + CLIP_SEC_PER_BYTE * (model_dir / SPEECH_TOKENIZER).stat().st_size)
    return 1 if device.startswith("cuda") else max(1, min(cores, MAX_WORKERS, math.ceil(work_sec / WORKER_SEC)))
