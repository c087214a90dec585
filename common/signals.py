"""Ctrl-C and SIGTERM that training answers where it can save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the message is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


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
            raise Interrupted(self.received)
