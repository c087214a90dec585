"""Ctrl-C and SIGTERM that training answers where it can save."""

import signal


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the message is the signal's name."""


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
            raise Interrupted(signal.Signals(self.received).name)
