"""Files of the user: atomic writes, names and lines as disks and editors have them, locks, room."""

import errno
import filecmp
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from common.terminal import shown
from config import UserError
from cosyvoice.utils.files import require_file

GIB = 2**30
PART_SUFFIX = ".part"  # of what is being written
PROCESS = secrets.token_hex(4)  # tells the part files of this process from those of an earlier one with its number
OWN_PART = re.compile(  # the end of a name
    rf"\.(?P<pid>\d+)-(?P<host>[0-9a-f]{{8}})-(?P<process>[0-9a-f]{{8}})[0-9a-f]{{8}}\{PART_SUFFIX}"
)
ABANDONED_SEC = 86400  # a part file that nobody has written to for so long is nobody's
UNFINISHED = "_unfinished"  # ends the name of a folder that an earlier run is being moved to
REPLACE_TRIES, REPLACE_SEC = 20, 0.1  # about 2 s
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of a disk that no reading can have
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}  # of a file system without locks
ELSEWHERE = "choose another folder with --output-dir"  # what to do where a folder will not do for results
MAX_NAME = 255  # of a file, in `name_length`: what Linux, Windows and macOS take


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to `path` when the block ends well, else removed.

    Raises as `unfinished`."""
    with unfinished(path) as part:
        yield part
        rename_over(part, path)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A path beside `path`, of this call alone, to write a file or folder to; what the block leaves there is removed.

    A full disk or missing permission becomes a UserError that names the file, or the other that could not be read.
    """
    if too_long(path):
        raise UserError(f"{path}: a name in it is too long for the disk; give a shorter one")
    if not path.name or path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"'{path}' is not a file that can be written; give another name")
    part = path.with_name(own_part_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except OSError as error:
        if other := _other_file(error, part, path):
            raise UserError(f"{other}: {error.strerror}; {path} was not written") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    finally:
        _remove(part)


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
    print(f"warning: {shown(text)}", flush=True)


def part_name(name: str, tag: str = "") -> str:
    """`name`, `tag` and ".part", with a hash for the name where that were too long for the disk."""
    if name_length(name + tag + PART_SUFFIX) <= MAX_NAME:
        return name + tag + PART_SUFFIX
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + tag + PART_SUFFIX


def own_part_name(name: str) -> str:
    """The name of a file while it is being written; no two calls, of whatever process, get the same."""
    return part_name(name, f".{os.getpid()}-{host()}-{PROCESS}{secrets.token_hex(4)}")


@cache
def host() -> str:
    """What tells process numbers of this computer, or of this container, from those of others that write to a disk."""
    with suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {os.stat('/proc/self/ns/pid').st_ino}".encode()).hexdigest()[:8]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def remove_dead_parts(paths: Iterable[Path]) -> None:
    """Delete those of the paths that killed processes left half-written."""
    for path in paths:
        found = OWN_PART.search(path.name)
        if found and _abandoned(path, found):
            _remove(path)


def _abandoned(part: Path, writer: re.Match[str]) -> bool:
    """Whether the process that wrote a part file is gone; where nobody can tell, whether the file is old."""
    if writer["host"] == host():
        if int(writer["pid"]) == os.getpid():
            return writer["process"] != PROCESS
        with suppress(PermissionError):  # it is another user's
            try:
                if os.name != "nt":  # where signal 0 is Ctrl-C
                    os.kill(int(writer["pid"]), 0)
            except (ProcessLookupError, OverflowError):
                return True
    with suppress(FileNotFoundError):
        return time.time() - part.lstat().st_mtime > ABANDONED_SEC
    return False


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
        elif sys.stdin is None:
            raise UserError("standard input is closed; give the name of a file")
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


def move_aside(paths: Sequence[Path], folder: Path, title: str, copied: Sequence[Path] = ()) -> None:
    """Move results, "run" or whatever `title` calls them, to previous_<date>_<n> in their folder, and say so.

    copied: what belongs to them and is needed where it is as well. UserError where one cannot be moved; all then stay.
    """
    taken = {path.name.removesuffix(UNFINISHED) for path in folder.glob("previous_*")}
    names = (f"previous_{time.strftime('%Y-%m-%d')}_{number}" for number in count(1))
    target = folder / next(name for name in names if name not in taken)
    try:
        move_together(paths, target, copied)
    except OSError as error:
        raise UserError(
            f"cannot move the earlier {title} to {target}: {error.filename}: {error.strerror}; nothing was moved; "
            "close what has its files open (TensorBoard, a player, a spreadsheet), or move them yourself"
        ) from error
    print(f"{folder} held an earlier {title}; it is now in {target}", flush=True)


def move_together(paths: Sequence[Path], target: Path, copied: Sequence[Path] = ()) -> None:
    """Move files and folders below the folder of `target` into that new folder, all or none.

    Until all are there it has another name, by which the next run knows after a kill that they must go back. Raises
    OSError naming one that refused.
    """
    staging = target.with_name(target.name + UNFINISHED)
    staging.mkdir()
    try:
        for path in copied:
            with atomic_path(staging / path.name) as part:
                shutil.copy2(path, part)
        for path in paths:
            place = staging / path.relative_to(target.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)  # not shutil.move, which copies a folder that is in use and deletes half
        staging.rename(target)
    except (OSError, UserError):
        move_back(staging)
        raise


def unfinished_moves(folder: Path) -> list[Path]:
    """Folders that an earlier run was being moved to when its successor was killed."""
    return sorted(folder.glob(f"previous_*{UNFINISHED}"))


def move_back(staging: Path) -> None:
    """Undo a move that was not finished; what has got a successor meanwhile stays aside, under the usual name."""
    _return_into(staging, staging.parent)
    if staging.exists():
        staging.rename(staging.with_name(staging.name.removesuffix(UNFINISHED)))


def _return_into(source: Path, folder: Path) -> None:
    """Move what lies in `source` to `folder` where nothing has its name; remove `source` once it is empty."""
    for path in source.iterdir():
        place = folder / path.name
        if OWN_PART.search(path.name) or same_file(path, place):
            _remove(path)
        elif not os.path.lexists(place):
            path.rename(place)
        elif path.is_dir() and place.is_dir() and not {*os.listdir(path)} & {*os.listdir(place)}:
            _return_into(path, place)
    if not any(source.iterdir()):
        source.rmdir()


def same_file(one: Path, other: Path) -> bool:
    """Whether both are files with the same bytes."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def moved_words(folder: Path, pattern: str) -> str:
    """ "; an earlier one was moved to ..." where a file of this name or pattern was moved aside in `folder`, or ""."""
    found = max(
        folder.glob(f"previous_*/{pattern}"), key=lambda path: (path.parent.stat().st_mtime, path), default=None
    )
    return f"; an earlier one was moved to {found}" if found else ""


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file with "\\n" line ends that appears only when complete."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def save_torch(data: Any, path: Path) -> None:
    """torch.save that leaves either the whole new file or the old one."""
    with atomic_path(path) as part:
        write_torch(data, part)


def write_torch(data: Any, path: Path) -> None:
    """torch.save that raises the disk's own OSError; equal data give equal bytes, whatever the name of the file."""
    with path.open("wb") as file:  # PyTorch itself would not say why a write failed, and would store the name
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
    """A lock on `folder` that a dying process gives up by itself; UserError where another run holds it.

    What killed processes left there is put in order first: half-written files, and an earlier run half moved away."""

    def refuse() -> None:
        raise UserError(f"another {script} is writing to {folder}; wait for it, or {elsewhere}")

    with lock(folder, ".lock", refuse, elsewhere):
        require_listable(folder)
        remove_dead_parts([*folder.glob(f"*{PART_SUFFIX}"), *folder.glob(f"*/*{PART_SUFFIX}")])
        for staging in unfinished_moves(folder):
            move_back(staging)
        yield


@contextmanager
def lock(folder: Path, name: str, when_busy: Callable[[], None], elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Hold the lock file of this name in `folder`; nothing is held on a file system without locks.

    when_busy: called where another process holds it; if it does not raise, that one is waited for. UserError where
    nobody may write to the folder."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = FileLock(folder / name, fallback_to_soft=False)
            try:
                held.enter_context(file.acquire(timeout=0))
            except Timeout:
                when_busy()
                held.enter_context(file.acquire())
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"cannot write to {folder}: {error.strerror}; {elsewhere}") from error
        yield


def check_disk(folder: Path, needed_bytes: int, elsewhere: str = ELSEWHERE) -> None:
    """UserError before the work where the disk of `folder` has too little room for its results."""
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{folder} needs about {size_words(needed_bytes)} and its disk has {size_words(free)} free; "
            f"make room or {elsewhere}"
        )


def require_listable(folder: Path) -> None:
    """OSError for a folder that is there and may not be listed, in which `Path.glob` finds nothing and says nothing."""
    if folder.exists():
        os.scandir(folder).close()


def size_words(size: float) -> str:
    """ "850 MiB", "1.7 GiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
