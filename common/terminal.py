"""What scripts print: names and texts of files cannot steer the terminal, and output that is lost ends the script."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

# Control characters and those that change the direction of writing; tqdm begins what it writes with \r.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|(?!\\A)\r(?!\n)"
)
_IN_A_LINE = re.compile(f"[\t\n\r]|{_CONTROL.pattern}")


def printable(text: str) -> str:
    r"""Text whose control characters, but for line ends and tabs, are escaped: "\x1b[2J"."""
    return _CONTROL.sub(_escaped, text)


def shown(text: object) -> str:
    r"""A name or message in which line ends are escaped as well: "001\nerror: ..."."""
    return _IN_A_LINE.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class OutputLost(BaseException):
    """Standard output takes nothing more. No Exception: it is no fault of the file that is being read or written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror)
        self.nobody_reads = isinstance(cause, BrokenPipeError)


class Printed:
    """A standard stream that escapes control characters; where it breaks, the rest of what is written to it is lost."""

    def __init__(self, stream: TextIO, needed: bool) -> None:
        """needed: raise OutputLost where it breaks, or call `on_loss` where that is set."""
        self.stream, self.needed = stream, needed
        self.lost: OSError | None = None
        self.on_loss: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[..., object], *arguments: str) -> None:
        if self.lost is None:
            try:
                action(*arguments)
            except OSError as error:
                self.lost = error
                with suppress(OSError):  # the exit writes once more what is still in the buffer
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        if self.lost is not None and self.needed:
            if self.on_loss is None:
                raise OutputLost(self.lost)
            self.on_loss()


@contextmanager
def printing() -> Iterator[None]:
    """Within it both standard streams are `Printed`; what they cannot show is escaped (Windows code pages)."""
    if sys.stderr is None:  # closed
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    output, errors = Printed(sys.stdout, needed=True), Printed(sys.stderr, needed=False)
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:
            output.needed = False
            output.flush()  # a stream that breaks only now must not change the exit code
            errors.flush()
