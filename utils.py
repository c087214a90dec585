"""What several scripts share: finding files, devices, atomic writes, plain words for sizes and times."""

import argparse
import errno
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from config import JointConfig, UserError, load
from cosyvoice.utils.common import InputError

PROJECT = Path(__file__).resolve().parent
DEFAULT_MODEL = "pretrained_models/CosyVoice-300M"
DEFAULT_INPUT_DIR, DEFAULT_DATA_DIR, DEFAULT_OUTPUT_DIR = "raw_audio", "data", "output"
GIB = 2**30
REPLACE_TRIES, REPLACE_SEC = 20, 0.1  # about 2 s
MAX_NAME = 255  # of a file, in `name_length`: what Linux, Windows and macOS take


# ---- command line ----------------------------------------------------------------------------------------------------


def run_main(work: Callable[[], int | None], saves_memory: str = "") -> int:
    """Exit code of a script: 0, 2 after one clear line for what the user can mend, 130 after Ctrl-C.

    saves_memory: what to do in this script where a GPU's memory ran out. Bugs keep their traceback. What the terminal
    or file cannot show is printed escaped (Windows code pages).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return work() or 0
    except UserError as error:
        return tell(error)
    except torch.OutOfMemoryError:
        remedies = f"{saves_memory}, " if saves_memory else ""
        return tell(f"the GPU is out of memory; close other programs that use it, {remedies}or use --device cpu")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        return 130


def tell(mistake: object) -> int:
    """Print what the user can mend, in one line; the exit code for it."""
    print(f"error: {mistake}", file=sys.stderr, flush=True)
    return 2


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Around calls that read the user's files: what is wrong with them is for him to mend; other errors are ours."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        remedy = "; check its permissions" if isinstance(error, PermissionError) else ""
        raise UserError(f"{where}{error.strerror or error}{remedy}") from error
    except InputError as error:
        raise UserError(str(error)) from error


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """--model-dir and --output-dir, alike in every script after preparation."""
    parser.add_argument("--model-dir", type=Path, help=f"CosyVoice-300M folder [{DEFAULT_MODEL}] | 预训练模型目录")
    parser.add_argument("--output-dir", type=Path, help=f"results [{DEFAULT_OUTPUT_DIR}] | 输出目录")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device, alike in every script that computes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, mps | 设备")


SAMPLE_TEXT = "Hello, this is my new voice."  # in commands to be copied


def command_line(script: str, **options: object) -> str:
    """A command to type: options in order, those that are None or their own default left out, quoted for the shell.

    output_dir=Path("my voice") becomes --output-dir 'my voice'.
    """
    words = [interpreter(), script]
    for name, value in options.items():
        if value is not None and Path(str(value)) != default_folder(script, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    quoted = [f'"{word}"' if " " in word else word for word in words] if os.name == "nt" else map(shlex.quote, words)
    return " ".join(quoted)


def interpreter() -> str:
    """What to type for the Python that runs this: `python` where that is the one, else its path, short if it can be."""
    running, found = Path(sys.executable), shutil.which("python")
    # the same file in another folder is another environment
    if found and Path(found).absolute().parent == running.parent and os.path.samefile(found, running):
        return "python"
    shown = running.with_suffix("") if os.name == "nt" else running
    return str(shown.relative_to(Path.cwd()) if shown.is_relative_to(Path.cwd()) else shown)


def default_folder(script: str, option: str) -> Path | None:
    """Where a script reads or writes without this option; None for an option that has no such folder."""
    defaults = {"data_dir": DEFAULT_DATA_DIR, "output_dir": DEFAULT_OUTPUT_DIR, "model_dir": DEFAULT_MODEL}
    if script == "prepare_joint_data.py":
        defaults |= {"input_dir": DEFAULT_INPUT_DIR, "output_dir": DEFAULT_DATA_DIR}
    return Path(defaults[option]) if option in defaults else None


DOWNLOAD = "download the model as README.md shows, or give its folder with --model-dir"


def find_folder(given: Path | None, default: str, remedy: str = DOWNLOAD) -> Path:
    """The folder given, else `default` in the working folder, in the project folder, or one folder above it.

    UserError where there is none; it names the places that were looked at and ends with the remedy.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(
                f"{given} {'is not a folder' if given.exists() else 'does not exist'}; give the path of a folder"
            )
        return given
    places = [Path(default), PROJECT / default, PROJECT.parent / default]
    for place in places:
        if place.is_dir():
            return place
    raise UserError(f"{default} was not found (looked for {', '.join(map(str, places))}); {remedy}")


def select_device(name: str) -> torch.device:
    """Device for "auto" (CUDA where there is one, else CPU) or a device name; UserError where it cannot be used.

    An NVIDIA GPU that "auto" cannot use is warned of."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            warn_of_unused_gpu()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:0 or mps") from error
    usable = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in usable or not usable[device.type]():
        raise UserError(f"--device {name} is not available on this machine; use --device auto or --device cpu")
    if device.type == "cuda" and device.index is None:  # some of torch's functions want to know which
        return torch.device("cuda", torch.cuda.current_device())
    return device


@cache
def warn_of_unused_gpu() -> None:
    """Once, where an NVIDIA driver is installed and PyTorch sees no GPU: a day on the CPU must not come unannounced."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or shutil.which("nvidia-smi") is None:
        return
    built_for = torch.version.cuda
    cause = (
        f"a driver that is too old for CUDA {built_for}" if built_for else "a PyTorch that is built for the CPU only"
    )
    print(
        f"WARNING: this computer has an NVIDIA driver, but PyTorch {torch.__version__} sees no GPU; most likely it has "
        f"{cause}. Everything runs on the CPU, many times as slowly. The command nvidia-smi shows driver and GPU; "
        "README.md says under 'Real use' what they must be",
        flush=True,
    )


# ---- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to `path` when the block ends well, else removed.

    A full disk or missing permission becomes a UserError that names the file.
    """
    if too_long(path):
        raise UserError(f"{path}: a name in it is too long for the disk; give a shorter one")
    if not path.name or path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"'{path}' is not a file that can be written; give another name")
    part = path.with_name(part_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        rename_over(part, path)
    except OSError as error:
        _remove(part)
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    except BaseException:
        _remove(part)
        raise


def rename_over(part: Path, path: Path) -> None:
    """os.replace, tried again for about 2 s: on Windows a virus scanner may have either file open for a moment."""
    for _ in range(REPLACE_TRIES):
        try:
            return os.replace(part, path)
        except PermissionError:
            time.sleep(REPLACE_SEC)
    os.replace(part, path)


@contextmanager
def dispensable(otherwise: str) -> Iterator[None]:
    """Around writing what a run can do without: a full disk, or a program that has the file open, must not end it."""
    try:
        yield
    except UserError as error:
        print(f"warning: {error}; {otherwise}", flush=True)


def part_name(name: str) -> str:
    """The name of a file while it is being written; never too long where the file's own is not."""
    if name_length(name + ".part") <= MAX_NAME:
        return name + ".part"
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + ".part"


def name_length(name: str) -> int:
    """Length of a file name as disks count it: bytes, on Windows UTF-16 units."""
    return len(name.encode("utf-16-le", "surrogatepass")) // 2 if os.name == "nt" else len(os.fsencode(name))


def too_long(path: Path) -> bool:
    """Whether the path, or a name in it, is longer than the disk takes."""
    if any(name_length(name) > MAX_NAME for name in path.parts):
        return True
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _remove(part: Path) -> None:
    """Delete a half-written file or folder, where there is one."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    elif part.exists():
        part.unlink()


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file as editors number them; "-" is standard input."""
    name = "standard input" if path == Path("-") else path
    try:
        data = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        return split_lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error


def split_lines(text: str) -> list[str]:
    r"""Lines that end at \n or \r\n, in a text without any \n at \r (old Macs); str.splitlines knows more ends."""
    lines = re.split(r"\r?\n" if "\n" in text else r"\r", text)
    return lines if lines[-1] else lines[:-1]


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file with "\\n" line ends that appears only when complete."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def save_torch(data: Any, path: Path) -> None:
    """torch.save that leaves either the whole new file or the old one."""
    with atomic_path(path) as part:
        try:
            torch.save(data, part)
        except RuntimeError as error:  # PyTorch's zip writer reports a full disk this way
            free = shutil.disk_usage(path.parent).free
            raise OSError(f"the file could not be written ({size_words(free)} free on that disk)") from error


def check_output_dir(output_dir: Path, model_dir: Path) -> None:
    """UserError where results would land in the base model's own folder, which stays untouched."""
    if output_dir.resolve() == model_dir.resolve():
        raise UserError(f"--output-dir {output_dir} is the base model's folder; choose another one")


@contextmanager
def only_run(folder: Path, script: str) -> Iterator[None]:
    """A lock on `folder` that a dying process gives up by itself; UserError where another run holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a")  # noqa: SIM115 (closed below, which unlocks)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose a folder with --output-dir") from error
    with file:
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another {script} is writing to {folder}; wait for it, or choose another --output-dir"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_disk(folder: Path, needed_bytes: int) -> None:
    """UserError before the work where the disk of `folder` has too little room for its results."""
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{folder} needs about {size_words(needed_bytes)} and its disk has {size_words(free)} free; "
            "make room or choose another --output-dir"
        )


def read_finetune_yaml(model_dir: Path) -> dict[str, Any]:
    """The model directory's own training defaults as plain data; {} where it has none."""
    path = model_dir / "finetune.yaml"
    if not path.exists():
        return {}
    from ruamel.yaml import YAML  # YAML 1.2: 1e-4 is a number
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, OSError, ValueError) as error:
        raise UserError(f"{path} is not plain YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, (dict, type(None))):
        raise UserError(f"{path} must hold settings as `key: value`")
    return data or {}


def read_settings(overrides: Iterable[str], model_dir: Path) -> tuple[JointConfig, dict[str, str]]:
    """What `config.load` makes of the settings in these "key=value" and in the model directory's finetune.yaml."""
    return load(overrides, read_finetune_yaml(model_dir), model_source=str(model_dir / "finetune.yaml"))


# ---- words -----------------------------------------------------------------------------------------------------------


def size_words(size: float) -> str:
    """ "850 MiB", "1.7 GiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def duration_words(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


# ---- signals --------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the message is the signal's name."""


class SignalGuard:
    """Turns the first Ctrl-C or SIGTERM into a flag that training looks at; a second one acts at once."""

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "SignalGuard":
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.received = number
        signal.signal(number, self.previous[number])

    def check(self) -> None:
        if self.received:
            raise Interrupted(signal.Signals(self.received).name)
