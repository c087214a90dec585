"""What a script does first, before imports that take seconds: only the standard library is needed for it."""

import _signal  # of which `signal` is made, which takes ten times as long: until then Ctrl-C shows a traceback
import os


def start_script() -> None:
    """Until `run_main` takes over, Ctrl-C ends the script at once, without a traceback of what is being imported."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would get what libraries print
            os.open(os.devnull, os.O_RDWR)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # a job in the background may ignore it
        _signal.signal(_signal.SIGINT, leave_at_once)


def start_worker() -> None:
    """In a process that a script starts, Ctrl-C is left to the script."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)


def leave_at_once(number: int, frame: object) -> None:
    """End this process with the exit code of a signal."""
    try:
        os.write(2, b"stopped\n")  # print may be what was interrupted
    finally:
        os._exit(128 + number)
