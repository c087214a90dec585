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


def not_a_file(path: str | Path) -> str:
    """What is there in place of a regular file, in words; "" where one is. Raises OSError where nobody may look."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "not there"
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def require_file(path: str | Path) -> None:
    """Raises OSError for what is no regular file: to open a pipe or a device may wait for ever, or do something."""
    os.stat(path)
    if what := not_a_file(path):
        raise OSError(errno.EINVAL, what, str(path))
