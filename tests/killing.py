"""Work that is killed (SIGKILL) at one of its file operations, as by a power cut, for every such moment."""

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

MOVES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def changes(event: str, arguments: tuple, folder: Path) -> bool:
    """Whether an event of `sys.addaudithook` is about to change something in the folder."""
    if event != "open" and event not in MOVES or not str(os.fsdecode(str(arguments[0]))).startswith(str(folder)):
        return False
    return event in MOVES or bool(arguments[2] & WRITING)


def killed_at(number: int, folder: Path, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies before its `number`-th change in the folder; False where it ends before."""
    process = os.fork()
    if process == 0:
        operation = itertools.count(1)

        def die(event: str, arguments: tuple) -> None:
            if (event == "open" or event in MOVES) and changes(event, arguments, folder) and next(operation) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        try:
            work()
        except BaseException:  # of the forked test: nothing may go on in it
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)
