"""One try: a process of its own, limits of time and memory, and the verdict."""

import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .mutations import ABSOLUTE

PROJECT = Path(__file__).resolve().parents[2]
CPU_SEC, IDLE_SEC, LONGEST_SEC = 20, 20, 300  # of computing, without any, in all (the machine may be busy)
MOST_RSS, MOST_VIRTUAL, MOST_FILE = 2 << 30, 6 << 30, 1 << 30  # bytes; the first two beyond what the process began with
NOTHING = "nothing to spoil"  # is counted nowhere
NOBODY = 65534  # permissions mean nothing to root
DEEP = "1/2/3/4/place"  # paths that climb out of it are seen to do so
MAY_CHANGE = re.compile(r"(^|/)(\.lock|report\.(txt|html|json)|cache/.*|joint_logs/.*|.*_last\.ckpt)$")


@dataclass
class Try:
    """What was spoiled, and what is called. All paths are relative to the folder of the try.

    writes: folder that results go to, None where the command line names it. names: words of which the error must
    hold one. damage: only the same result as without it is right, or an error. must_pass: an error is wrong, too.
    check: what is wrong with the results after exit code 0, "" for nothing. result: digest of them.
    """

    what: str
    call: Callable[[], int]
    command: str = ""
    writes: str | None = "output"
    names: Sequence[str] = ()
    damage: bool = False
    must_pass: bool = False
    as_nobody: bool = False
    check: Callable[[], str] = field(default=lambda: "")
    result: Callable[[], str] = field(default=lambda: "")


@dataclass(frozen=True)
class Reader:
    """Something that reads: `spoil` spoils the working folder; None: there is nothing of the kind to spoil."""

    name: str
    weight: int  # how often it is tried
    spoil: Callable[[random.Random], Try | None]


@dataclass(frozen=True)
class Verdict:
    """How a try ended; `kind` is "" where it was fine, and tries of one kind have one cause, as far as one can tell.

    detail: the error line or more of what went wrong."""

    reader: str
    seed: int
    what: str
    command: str
    kind: str
    detail: str = ""


class Attempt:
    """A running try."""

    def __init__(self, reader: Reader, seed: int, good: Path, box: Path) -> None:
        self.reader, self.seed, self.box = reader, seed, box
        self.started = self.computed = time.monotonic()
        self.cpu = 0.0  # seconds until `computed`
        box.mkdir()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _child(reader, seed, good, box)
            finally:
                os._exit(0)

    def poll(self) -> Verdict | None:
        """The verdict once it has ended; one that takes too long is ended here."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        reason = ""
        if not pid:
            reason = self._too_long()
            if not reason:
                return None
            os.kill(self.pid, signal.SIGUSR1)  # writes where it is
            time.sleep(0.2)
            os.killpg(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
        notes = _read_notes(self.box)
        kind, detail = notes.get("kind"), notes.get("detail", "")
        if os.WIFSIGNALED(status) and not notes:
            kind = f"fuzzer: killed by {signal.Signals(os.WTERMSIG(status)).name} while it spoiled"
        elif reason or os.WIFSIGNALED(status):
            kind = reason or f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
            kind += f" at {_own_frame((self.box / 'stacks').read_text(errors='replace'))}"
        elif kind is None:
            kind, detail = "fuzzer: no verdict", (self.box / "err").read_text(errors="replace")[-2000:]
        grown = 1024 * usage.ru_maxrss - notes.get("rss", 0)
        if not kind and grown > MOST_RSS:
            kind, detail = f"{grown / 2**30:.0f} GiB of memory", ""
        return Verdict(self.reader.name, self.seed, notes.get("what", ""), notes.get("command", ""), kind, detail)

    def _too_long(self) -> str:
        now, cpu = time.monotonic(), _cpu_sec(self.pid)
        if cpu > self.cpu + 0.01:
            self.cpu, self.computed = cpu, now
        if cpu > CPU_SEC or now - self.started > LONGEST_SEC:
            return f"over {CPU_SEC} s of computing"
        return "waits for ever" if now - self.computed > IDLE_SEC else ""

    def clean(self) -> None:
        for folder, _, _ in os.walk(self.box):
            os.chmod(folder, 0o700)
        shutil.rmtree(self.box, ignore_errors=True)


def _cpu_sec(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _read_notes(box: Path) -> dict[str, Any]:
    try:
        return json.loads((box / "notes").read_text())
    except (OSError, ValueError):
        return {}


# ---- in the process of the try ---------------------------------------------------------------------------------------


def _child(reader: Reader, seed: int, good: Path, box: Path) -> None:
    os.setpgid(0, 0)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(box / name, os.O_CREAT | os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    stacks = open(box / "stacks", "w")  # noqa: SIM115 (faulthandler writes to it until the end)
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    place = box / "tree" / DEEP
    shutil.copytree(good, place, symlinks=True)
    os.chdir(place)
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        planned = reader.spoil(random.Random(f"{reader.name}:{seed}"))
    except Exception:
        _note(box, kind="fuzzer: cannot spoil", detail=traceback.format_exc()[-2000:])
        return
    if planned is None:
        _note(box, kind=NOTHING)
        return
    rss = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"what": _plain(planned.what), "command": _plain(planned.command), "rss": rss}
    (box / "notes").write_text(json.dumps(facts))
    if planned.as_nobody and os.geteuid() == 0:
        for path in (box, *box.rglob("*")):
            os.lchown(path, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    kind, detail = _judge(planned, box, good)
    _note(box, **facts, kind=kind, detail=_plain(detail))


def _note(box: Path, **facts: Any) -> None:
    (box / "notes").write_text(json.dumps(facts))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)[
        :600
    ]


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_VIRTUAL,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _judge(planned: Try, box: Path, good: Path) -> tuple[str, str]:
    """(kind, detail); kind is "" where all was as it should be."""
    tree = box / "tree"
    before = snapshot(tree)
    _limit()
    try:
        code = planned.call()
    except SystemExit as error:  # of argparse
        code = error.code
    except BaseException as error:
        trace = traceback.format_exc()
        return f"{type(error).__name__} at {_own_frame(trace)}", f"{error}"
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = ((box / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    if code not in (0, 2):
        return f"exit code {code}", err[-500:]
    return (
        _wrongly_written(planned, before, snapshot(tree), failed=code == 2)
        or _wrongly_said(planned, out, err, failed=code == 2)
        or (None if code else _wrong_result(planned, good, box))
        or ("", err.rstrip("\n").rpartition("\n")[2] if code else "")
    )


def snapshot(tree: Path) -> dict[str, str]:
    """{path: what lies there}; files by their content."""
    found = {}
    for folder, folders, files in os.walk(tree):
        for path in (Path(folder) / name for name in (*folders, *files)):
            name = os.path.relpath(path, tree / DEEP)
            try:
                mode = path.lstat().st_mode
                is_file = stat.S_ISREG(mode)
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else str(stat.S_IFMT(mode))
            except PermissionError:
                found[name] = "may not be looked at"
    return found


def _wrongly_written(planned: Try, before: dict, after: dict, failed: bool) -> tuple[str, str] | None:
    changed = [name for name in before if after.get(name) != before[name] and not MAY_CHANGE.search(name)]
    new = [name for name in after if name not in before]
    new += map(str, Path(ABSOLUTE).parent.glob(f"{Path(ABSOLUTE).name}*"))
    if planned.writes is not None:
        outside = [name for name in (*changed, *new) if not name.startswith((f"{planned.writes}/", "tmp"))]
        if outside := [name for name in outside if name != planned.writes]:
            return "wrote outside its folder", ", ".join(outside[:4])
    if parts := [name for name in new if ".part" in name]:
        return "left a part file", ", ".join(parts[:4])
    if failed and (lost := [name for name in changed if before[name] not in after.values()]):
        return "lost a file and failed", ", ".join(lost[:4])
    return None


def _wrongly_said(planned: Try, out: str, err: str, failed: bool) -> tuple[str, str] | None:
    last = err.rstrip("\n").rpartition("\n")[2] if " error: " in err else ""  # argparse: usage, then the error
    errors = [line for line in err.split("\n") if line.startswith("error:")] or [last] * bool(last)
    if odd := {c for c in out + "\n".join(errors) if unicodedata.category(c) == "Cc" and c not in "\n\t"}:
        line = next(line for line in (out + err).split("\n") if odd & set(line))
        return "control characters printed", line
    if not failed:
        return ("error line, but exit code 0", errors[0]) if errors else None
    if len(errors) != 1 or err.rstrip("\n").rpartition("\n")[2] != errors[0]:
        return "not one error line at the end", err[-400:]
    if "Traceback" in err:
        return "traceback and error line", err[-400:]
    if planned.must_pass:
        return "ended by what should cost one clip, or nothing", errors[0]
    if planned.names and not any(name in errors[0] for name in planned.names):
        return "error does not name the thing", f"{' or '.join(planned.names)}: {errors[0]}"
    return None


def _wrong_result(planned: Try, good: Path, box: Path) -> tuple[str, str] | None:
    if wrong := planned.check():
        return f"wrong result: {wrong}", ""
    if not planned.damage:
        return None
    found = planned.result()
    shutil.copytree(good, box / "again", symlinks=True)
    os.chdir(box / "again")
    if code := planned.call():
        return "fuzzer: the good folder fails", f"exit code {code}"
    return ("damage goes unseen into the result", "") if planned.result() != found else None


def _own_frame(trace: str) -> str:
    """file:function where the product was, in a traceback or in what faulthandler writes (inner end first)."""
    dumped = "Current thread" in trace
    found = re.findall(r'File "([^"]+)", line \d+,? in (\S+)', trace.rpartition("Current thread")[2])
    own = [
        f"{Path(file).relative_to(PROJECT)}:{function}"
        for file, function in found
        if file.startswith(str(PROJECT)) and ".venv" not in file and "tests" not in Path(file).parts
    ]
    return own[0 if dumped else -1] if own else "no frame of ours"
