"""Ctrl-C and SIGTERM: cleaned up after, or answered by training where it can save."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common.startup import leave_at_once
from common.terminal import Printed

SIGPIPE = 13  # the signal of an output that nobody reads; Windows has none


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived, or standard output was lost; the message is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__("SIGPIPE" if number == SIGPIPE else signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt after `start_script`, too, so that what is half done is cleaned up."""
    before = signal.getsignal(signal.SIGINT)
    if before is not leave_at_once:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM raise Interrupted wherever they arrive: nothing is to be saved first."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class SignalGuard:
    """Turns the first Ctrl-C or SIGTERM into a flag that training looks at; a second one acts at once.

    So does standard output where it breaks: what is printed after that is lost, until the guard ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "SignalGuard":
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        self.output = sys.stdout
        if isinstance(self.output, Printed):
            self.output.on_loss = self._note_loss
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if isinstance(self.output, Printed):
            self.output.on_loss = None

    def _note(self, number: int, frame: object) -> None:
        self.received = number
        signal.signal(number, self.previous[number])

    def _note_loss(self) -> None:
        self.received = self.received or SIGPIPE

    def check(self) -> None:
        if self.received:
            raise Interrupted(self.received)
