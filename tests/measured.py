"""Running a command and measuring what it costs."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
POLL_SEC = 0.05


@dataclass(frozen=True)
class Outcome:
    """Exit code, wall seconds, largest resident memory (GiB, children included) and everything printed."""

    code: int
    seconds: float
    peak_gib: float
    printed: str


def run_script(arguments: Sequence[object], timeout_sec: float = 3600, echo: bool = False) -> Outcome:
    """Run a Python script of the project in its folder, as a user would."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak), daemon=True)
    watcher.start()
    try:
        printed, _ = process.communicate(timeout=timeout_sec)
    finally:
        process.kill()
    watcher.join()
    if echo:
        print(printed)
    return Outcome(process.returncode, time.monotonic() - started, peak[0] / 2**30, printed)


def _watch(process: psutil.Process, peak: list[float]) -> None:
    while True:
        try:
            family = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
        except psutil.Error:  # it has ended
            return
        time.sleep(POLL_SEC)
