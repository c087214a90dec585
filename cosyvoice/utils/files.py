"""Files that the user names: only regular ones are opened."""

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}
MAX_BYTES = 100_000_000  # of a file that is read at once
_OF_SYSTEM = ("/proc/", "/sys/")  # regular files that may never end


def not_a_file(path: str | Path) -> str:
    """What is there in place of a regular file, in words; "" where one is. Raises OSError where nobody may look."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "not there"
    if not stat.S_ISREG(mode):
        return _KINDS.get(stat.S_IFMT(mode), "no regular file")
    return "a file of the system, not one of yours" if os.path.realpath(path).startswith(_OF_SYSTEM) else ""


def require_file(path: str | Path) -> None:
    """Raises OSError for what is no regular file: to open a pipe or a device may wait for ever, or do something."""
    os.stat(path)
    if what := not_a_file(path):
        raise OSError(errno.EINVAL, what, str(path))


def read_file(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError as `require_file`, and for a file of more than max_bytes."""
    require_file(path)
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EINVAL, f"larger than {max_bytes / 1e6:.0f} MB", str(path))
    return data
