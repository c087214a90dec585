"""What every stage of the build shares: paths, the corpus manifest, the log, atomic files."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from common.files import PART_SUFFIX, rename_over, write_torch
from common.signals import SignalGuard
from config import UserError
from cosyvoice.utils.precision import fast_dtype
from llm_flow_model import autocast

HERE = Path(__file__).resolve().parent
MODEL_DIR = HERE.parent / "pretrained_models" / "CosyVoice-mini"
SEED = 1986
AVERAGE = 0.998  # decay of the running mean of the weights
TOKENIZER_RATE = 16000  # Hz: what both ONNX graphs hear
MEL_RATE = 22050  # Hz: what the mel, the flow and the vocoder work on
TOKEN_HZ = 25  # speech tokens per second
CODES = 1024  # speech token ids
SOURCES = ("corpus", "natural")  # manifests of aligned clips: flite and festvox-ru; Kokoro
READINGS = "readings"  # manifest of aligned clips of which only the speech tokens are kept
TOKENIZER = "tokenizer"  # among speech tokens and in what learnt them: fingerprint of the graph that made them
OWN_VOICES = ("slt", "awb", "rms", "kal16")  # flite voices that the finished model speaks with


@dataclass
class Clip:
    """One utterance of the corpus; `phones` end at `ends` (seconds)."""

    id: str
    voice: str
    lang: str
    split: str  # train | shared | test: shared and test sentences are spoken by every flite voice
    text: str
    seconds: float
    phones: list[str]
    ends: list[float]

    def path(self, work: Path) -> Path:
        """Where its 16 kHz recording lies."""
        return work / "wav" / self.voice / f"{self.id}.flac"

    def wave(self, work: Path) -> Tensor:
        """Samples (N,) in [-1, 1] at 16 kHz."""
        samples, _ = soundfile.read(self.path(work), dtype="float32")
        return torch.from_numpy(samples)


# by file: the stage that makes it
MADE_BY = {
    "corpus.jsonl": "corpus",
    "espeak.jsonl": "corpus",
    "natural.jsonl": "natural",
    "readings.jsonl": "readings",
    "banks.npz": "features",
    "vectors.npz": "acoustics",
    "tokens.npz": "extract",
    "tokens_readings.npz": "readings",
    **{f"logmels_{source}.npz": "features" for source in SOURCES},
    **{f"mels_{source}.npz": "acoustics" for source in SOURCES},
}


def made(work: Path, name: str) -> Path:
    """The path of a file that an earlier stage makes. UserError naming the stage where it is missing."""
    path = work / name
    if not path.exists():
        raise UserError(f"{path} is missing; run: python -m build_mini.build --stage {MADE_BY[name]}")
    return path


def require_programs(*names: str) -> None:
    """UserError where one of Debian's programs is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise UserError(f"not installed here: {', '.join(missing)}; run: apt-get install {' '.join(missing)}")


def write_manifest(work: Path, name: str, clips: list[Clip]) -> None:
    """Write `work/name.jsonl`, one clip a line."""
    lines = (json.dumps(asdict(clip), ensure_ascii=False) for clip in clips)
    write_text(work / f"{name}.jsonl", "\n".join(lines) + "\n")


def read_manifest(work: Path, name: str = "corpus") -> list[Clip]:
    """Clips of one manifest. UserError where its stage has not run."""
    with made(work, f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [Clip(**json.loads(line)) for line in lines]


def aligned_clips(work: Path, *sources: str) -> list[Clip]:
    """Clips of the sources, all by default, with phones and their ends."""
    return [clip for source in sources or SOURCES for clip in read_manifest(work, source)]


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename: a killed run never leaves half a file under the real name.

    Unlike `atomic_path` beside under a name of this process's own, as two stages at once may write the same graph.
    UserError where the disk refuses."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        rename_over(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    finally:
        with suppress(OSError):  # there is none, or no folder for it
            part.unlink()


def save(state: object, path: Path) -> None:
    """torch.save, atomically."""
    replace_file(path, lambda part: write_torch(state, part))


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file, atomically."""
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def load_arrays(work: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of `work/name.npz` by clip id. UserError where its stage has not run."""
    with np.load(made(work, f"{name}.npz")) as arrays:
        return dict(arrays)


def save_arrays(work: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write `work/name.npz`."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)

    replace_file(work / f"{name}.npz", write)


def load_tokens(work: Path, name: str = "tokens") -> dict[str, np.ndarray]:
    """Speech tokens of `work/name.npz` by clip id."""
    arrays = load_arrays(work, name)
    arrays.pop(TOKENIZER, None)
    return arrays


def tokenizer_of(work: Path, name: str = "tokens") -> str:
    """Fingerprint of the graph that made the speech tokens of `work/name.npz`; "" where it is not known."""
    with np.load(made(work, f"{name}.npz")) as arrays:
        return str(arrays[TOKENIZER]) if TOKENIZER in arrays else ""


def save_tokens(work: Path, name: str, arrays: dict[str, np.ndarray], tokenizer: str) -> None:
    """Write what `load_tokens` and `tokenizer_of` read."""
    save_arrays(work, name, arrays | {TOKENIZER: np.array(tokenizer)})


def log_line(work: Path, stage: str, text: str) -> None:
    """Print a dated line and append it to `work/log.md`."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} | {stage} | {text}"
    print(line, flush=True)
    with (work / "log.md").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


@dataclass
class Progress:
    """A resumable training loop: steps so far, seconds spent, running means."""

    work: Path
    stage: str
    minutes: float
    tokenizer: str = ""  # fingerprint of the graph whose tokens are learnt, where some are
    save_every: float = 180.0  # seconds
    log_every: int = 50  # steps
    step: int = 0
    spent: float = 0.0  # seconds of training over all runs

    @property
    def state_path(self) -> Path:
        return self.work / f"{self.stage}.state.pt"

    def finished(self) -> bool:
        """Whether earlier runs spent the time budget; says so. Cheap: a stage asks before it loads its data.

        UserError where they learnt the speech tokens of another tokenizer."""
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=True, mmap=True)
        if state.get(TOKENIZER, "") != self.tokenizer:
            raise UserError(
                f"{self.state_path} was trained on the speech tokens of another tokenizer; "
                "remove it to train this stage anew"
            )
        if self.share(state["spent"]) < 1.0:
            return False
        log_line(self.work, self.stage, f"finished: {state['step']} steps, {state['spent'] / 60:.1f} min")
        return True

    def resume(self, parts: dict[str, torch.nn.Module | torch.optim.Optimizer]) -> None:
        """Load what an earlier run of this stage left, if anything."""
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, weights_only=True)
        self.step, self.spent = state["step"], state["spent"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.manual_seed(SEED + self.step)  # noise goes on too, it does not begin again
        log_line(self.work, self.stage, f"resumed at step {self.step}, {self.spent / 60:.1f} min")

    def checkpoint(self, parts: dict[str, torch.nn.Module | torch.optim.Optimizer]) -> None:
        """Save everything that `resume` reads."""
        state = {name: part.state_dict() for name, part in parts.items()}
        save(state | {"step": self.step, "spent": self.spent, TOKENIZER: self.tokenizer}, self.state_path)

    def fraction(self) -> float:
        """Share of the time budget that is used up, 0 to 1."""
        return self.share(self.spent)

    def share(self, seconds: float) -> float:
        """The same of so much training."""
        return min(1.0, seconds / (60 * self.minutes))

    def steps(self, parts: dict[str, torch.nn.Module | torch.optim.Optimizer]) -> Iterator[int]:
        """Yield step numbers until the time budget is spent; save now and then, at the end, and on Ctrl-C.

        Where it is spent already there is no step, and the state's file stays as it is."""
        if self.fraction() == 1.0:
            return
        last_save = started = time.monotonic()
        with SignalGuard() as guard:
            while self.fraction() < 1.0 and not guard.received:
                self.step += 1
                yield self.step
                now = time.monotonic()
                self.spent, started = self.spent + now - started, now
                if now - last_save > self.save_every:
                    self.checkpoint(parts)
                    last_save = now
            self.checkpoint(parts)
            guard.check()


def fast() -> AbstractContextManager:
    """bfloat16 matrix products where the CPU has them in hardware: about three times as fast there, else far slower."""
    cpu = torch.device("cpu")
    return autocast(cpu, fast_dtype(cpu))


def compiled(*modules: torch.nn.Module) -> None:
    """Let modules run as fused kernels, a quarter less time, where there is a C++ compiler; their first steps take a
    minute or two. Their inputs should keep one shape."""
    if shutil.which("c++"):
        for module in modules:
            module.compile(dynamic=False)


def running_mean(model: torch.nn.Module) -> torch.optim.swa_utils.AveragedModel:
    """Exponential running mean of the weights; it is what ships."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)


def learning_rate(peak: float, progress: Progress, warmup_steps: int = 100, floor: float = 0.05) -> float:
    """Linear warm-up by steps, then a cosine over the time budget down to `floor * peak`."""
    warm = min(1.0, progress.step / warmup_steps)
    cosine = 0.5 * (1 + np.cos(np.pi * progress.fraction()))
    return peak * warm * (floor + (1 - floor) * float(cosine))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """One learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = value
