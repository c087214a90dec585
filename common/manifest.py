"""Files of a folder that are replaced together, and how a reader tells them from a mixture: `merged.json`.

It is replaced first, and says what the files are going to be and what they have been: where that is cut short, they
are all as before, or a mixture that differs from both. A file that it does not name, and a folder without it, are taken
as they are.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from common.files import PART_SUFFIX, atomic_path, lock, remove_dead_parts, rename_over
from config import UserError
from cosyvoice.utils.files import require_file
from cosyvoice.utils.weights import file_fingerprint

MANIFEST = "merged.json"

Stamp = tuple[int, int, int]  # bytes, time of the last change in ns, number of the file on its disk


@dataclass(frozen=True)
class Record:
    """A file as it was written, and what it was made from. earlier: the one that it replaces."""

    bytes: int
    mtime_ns: int
    inode: int
    sha256: str
    made_from: Mapping[str, Any]
    earlier: "Record | None" = None

    @classmethod
    def of(cls, path: Path, made_from: Mapping[str, Any]) -> "Record":
        """Of a file that is complete; it is on the disk then, and not only on its way there."""
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        return cls(*stamp(path), file_fingerprint(path), made_from)

    def fits(self, path: Path) -> bool:
        """Whether this file is there, as it was written; one that was copied or touched is read."""
        size, changed, number = found = stamp(path)
        if found == (self.bytes, self.mtime_ns, self.inode):
            return True
        return size == self.bytes and _fingerprint(path, found) == self.sha256


def stamp(path: Path) -> Stamp:
    """What tells a file from every other that had its name, without reading it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """{file: stamp} of those that exist."""
    return {path: stamp(path) for path in paths if path.exists()}


@lru_cache
def _fingerprint(path: Path, _: Stamp) -> str:
    return file_fingerprint(path)


@contextmanager
def replacing(folders: Iterable[Path]) -> Iterator[None]:
    """Nobody else replaces files together in these folders meanwhile; says so where somebody has to be waited for."""
    by_number = {}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        by_number[folder.stat().st_dev, folder.stat().st_ino] = folder
    with ExitStack() as held:
        for _, folder in sorted(by_number.items()):  # everybody in the same order: nobody waits for ever
            say = partial(print, f"{folder}: another merge is writing there; waiting for it", flush=True)
            held.enter_context(lock(folder, ".merged.lock", say))
            remove_dead_parts(folder.glob(f"*{PART_SUFFIX}"))
        yield


def replace_together(parts: Mapping[Path, Path], made_from: Mapping[str, Any]) -> None:
    """Give finished files their names, {file: where it is written so far}, within `replacing`; in this order.

    Raises OSError and UserError; where no file has got its name by then, readers take those of before."""
    with ThreadPoolExecutor() as threads:
        made = dict(zip(parts, threads.map(lambda part: Record.of(part, made_from), parts.values()), strict=True))
    for folder in dict.fromkeys(file.parent for file in parts):
        before = _of_existing(folder)
        earlier = {name: replace(record, earlier=None) for name, record in before.items()}
        written = {
            file.name: replace(record, earlier=earlier.get(file.name))
            for file, record in made.items()
            if file.parent == folder
        }
        _write_manifest(folder, {**earlier, **written})
    for file, part in parts.items():
        rename_over(part, file)


def odd_one(paths: Iterable[Path]) -> tuple[Path, Mapping[str, Any]] | None:
    """A file that is not the one that was last written with the others, and what that was made from; None if all are.

    Where they are being replaced at this moment, that is waited for."""
    paths = list(paths)
    if (found := _differing(paths)) is None:
        return None
    with suppress(UserError, OSError), replacing(path.parent for path in paths):  # in a folder that nobody may write to
        return _differing(paths)
    return found


def _differing(paths: Iterable[Path]) -> tuple[Path, Mapping[str, Any]] | None:
    records = {path: _read_manifest(path.parent).get(path.name) for path in paths if path.is_file()}
    noted = {path: record for path, record in records.items() if record is not None}
    if odd := next((path for path, record in noted.items() if not record.fits(path)), None):
        replaced = [path for path, record in noted.items() if record.earlier is not None]
        if odd not in replaced or not all((noted[path].earlier or noted[path]).fits(path) for path in noted):
            return odd, noted[odd].made_from
    return None


def forget_missing(folder: Path) -> None:
    """Take files that are no longer there out of the manifest, where there is one."""
    if (folder / MANIFEST).exists():
        _write_manifest(folder, _of_existing(folder))


def _of_existing(folder: Path) -> dict[str, Record]:
    """What the manifest says of files that are there; {} where it cannot be read."""
    with suppress(UserError):
        return {name: record for name, record in _read_manifest(folder).items() if (folder / name).exists()}
    return {}


def _write_manifest(folder: Path, records: Mapping[str, Record]) -> None:
    with atomic_path(folder / MANIFEST) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        json.dump({name: asdict(record) for name, record in records.items()}, file, indent=1)  # ASCII: any name fits
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(folder: Path) -> dict[str, Record]:
    """{file: record}; {} in a folder without a manifest. UserError where it is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        require_file(path)
        return {name: _record(entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not as merging wrote it; delete it, or merge again") from error


def _record(entry: Mapping[str, Any]) -> Record:
    """Raises TypeError for anything but what was written."""
    record = Record(**entry)
    if record.earlier is not None:
        record = replace(record, earlier=_record(record.earlier))
    kinds = {"bytes": int, "mtime_ns": int, "inode": int, "sha256": str, "made_from": dict}
    if not all(isinstance(getattr(record, name), kind) for name, kind in kinds.items()):
        raise TypeError("a value of another type")
    return record
