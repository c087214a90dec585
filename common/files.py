"""Files of the user: atomic writes, names and lines as disks and editors have them, locks, room."""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from config import UserError
from cosyvoice.utils.files import require_file

GIB = 2**30
PART_SUFFIX = ".part"  # of what is being written
REPLACE_TRIES, REPLACE_SEC = 20, 0.1  # about 2 s
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of a disk that no reading can have
ELSEWHERE = "choose another folder with --output-dir"  # what to do where a folder will not do for results
MAX_NAME = 255  # of a file, in `name_length`: what Linux, Windows and macOS take


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to `path` when the block ends well, else removed.

    A full disk or missing permission becomes a UserError that names the file, or the other that could not be read.
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
        if other := _other_file(error, part, path):
            raise UserError(f"{other}: {error.strerror}; {path} was not written") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    except BaseException:
        _remove(part)
        raise


def _other_file(error: OSError, part: Path, path: Path) -> Path | None:
    """The file that an error is about, where it has nothing to do with writing `path` by way of `part`."""
    if error.errno in NO_WRITING or not isinstance(error.filename, str | bytes):  # a copy that fails names its source
        return None
    about = Path(os.fsdecode(error.filename))
    return None if about.is_relative_to(part) or about in (path, *path.parents) else about


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
    except (UserError, OSError) as error:
        warn_once(f"{error}; {otherwise}")


@cache
def warn_once(text: str) -> None:
    """Say it, unless the same was said before."""
    print(f"warning: {text}", flush=True)


def part_name(name: str) -> str:
    """The name of a file while it is being written; never too long where the file's own is not."""
    if name_length(name + PART_SUFFIX) <= MAX_NAME:
        return name + PART_SUFFIX
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + PART_SUFFIX


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
        with suppress(OSError):  # a virus scanner may still hold it
            part.unlink()


def text_name(path: Path) -> str:
    """What to call a text file in messages."""
    return "standard input" if path == Path("-") else str(path)


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file as editors number them; "-" is standard input."""
    name = text_name(path)
    try:
        if path != Path("-"):
            require_file(path)
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


def move_aside(paths: Sequence[Path], folder: Path, title: str) -> None:
    """Move results, "run" or whatever `title` calls them, to previous_<date>_<n> in their folder, and say so.

    UserError where one cannot be moved; all of them then stay."""
    date, number = time.strftime("%Y-%m-%d"), 1
    while (target := folder / f"previous_{date}_{number}").exists():
        number += 1
    try:
        move_together(paths, target)
    except OSError as error:
        raise UserError(
            f"cannot move the earlier {title} to {target}: {error.filename}: {error.strerror}; nothing was moved; "
            "close what has its files open (TensorBoard, a player, a spreadsheet), or move them yourself"
        ) from error
    print(f"{folder} held an earlier {title}; it is now in {target}", flush=True)


def move_together(paths: Sequence[Path], target: Path) -> None:
    """Move files and folders into the new folder `target`, all or none; raises OSError naming one that refused."""
    target.mkdir()
    moved: list[Path] = []
    try:
        for path in paths:
            path.rename(target / path.name)  # not shutil.move, which copies a folder that is in use and deletes half
            moved.append(path)
    except OSError:
        for path in moved:
            (target / path.name).rename(path)
        target.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file with "\\n" line ends that appears only when complete."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def save_torch(data: Any, path: Path) -> None:
    """torch.save that leaves either the whole new file or the old one."""
    with atomic_path(path) as part:
        write_torch(data, part)


def write_torch(data: Any, path: Path) -> None:
    """torch.save that raises the disk's own OSError."""
    with suppress(RuntimeError):  # which does not say why a write failed; written from Python it is told
        torch.save(data, path)  # by PyTorch itself: two files at once take less time
        return
    with path.open("wb") as file:
        try:
            torch.save(data, file)
        except RuntimeError as error:
            if cause := _of_disk(error):
                raise cause from None
            raise


def _of_disk(error: BaseException | None) -> OSError | None:
    """The disk's own error that came before this one, which PyTorch's zip writer hides behind errors of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def check_output_dir(output_dir: Path, model_dir: Path, elsewhere: str = ELSEWHERE) -> None:
    """UserError where results would land in the base model's own folder, which stays untouched."""
    if output_dir.resolve() == model_dir.resolve():
        raise UserError(f"{output_dir} is the base model's folder, where no results go; {elsewhere}")


@contextmanager
def only_run(folder: Path, script: str, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """A lock on `folder` that a dying process gives up by itself; UserError where another run holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a")  # noqa: SIM115 (closed below, which unlocks)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {elsewhere}") from error
    with file:
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another {script} is writing to {folder}; wait for it, or {elsewhere}") from error
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


def check_disk(folder: Path, needed_bytes: int, elsewhere: str = ELSEWHERE) -> None:
    """UserError before the work where the disk of `folder` has too little room for its results."""
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{folder} needs about {size_words(needed_bytes)} and its disk has {size_words(free)} free; "
            f"make room or {elsewhere}"
        )


def size_words(size: float) -> str:
    """ "850 MiB", "1.7 GiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
