"""See the package's docstring."""

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from .attempt import NOTHING, Attempt, Reader, Verdict  # noqa: E402
from .place import make_place, warm_up  # noqa: E402
from .readers import READERS  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Try what scripts do with spoiled input.")
    parser.add_argument("--seconds", type=float, default=600, help="how long to try [600]")
    parser.add_argument("--seed", type=int, default=0, help="the first try's; each reader counts on from it [0]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="tries side by side [one a core]")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="only these")
    parser.add_argument("--repeat", metavar="READER:SEED", help="one try again, with all that it prints")
    parser.add_argument(
        "--log", type=Path, default=Path("output/fuzz.jsonl"), help="all tries and how they ended [output/fuzz.jsonl]"
    )
    return parser.parse_args(argv)


def schedule(readers: Sequence[Reader], seed: int) -> Iterator[tuple[Reader, int]]:
    """Readers in turn, each as often as its weight says, with its next seed."""
    seeds = {reader.name: itertools.count(seed) for reader in readers}
    rounds = max(reader.weight for reader in readers)
    while True:
        for number in range(rounds):
            for reader in readers:
                # as evenly as whole numbers allow
                if (number + 1) * reader.weight // rounds > number * reader.weight // rounds:
                    yield reader, next(seeds[reader.name])


def run_tries(tries: Iterable[tuple[Reader, int]], good: Path, workers: int, seconds: float) -> Iterator[Verdict]:
    """Verdicts as they come; no try begins after so many seconds."""
    waiting, end, boxes = iter(tries), time.monotonic() + seconds, itertools.count()
    running: list[Attempt] = []
    while True:
        while len(running) < workers and time.monotonic() < end and (following := next(waiting, None)):
            running.append(Attempt(*following, good, good.parent / f"try_{next(boxes)}"))
        if not running:
            return
        for attempt in list(running):
            if verdict := attempt.poll():
                attempt.clean()
                running.remove(attempt)
                if verdict.kind != NOTHING:
                    yield verdict
        time.sleep(0.005)


def make_good_place(folder: Path) -> Path:
    """The good folder. It is made in another process, so that this one has no threads when it forks."""
    good, log = folder / "good", folder / "making"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            output = os.open(log, os.O_CREAT | os.O_WRONLY)
            os.dup2(output, 1), os.dup2(output, 2)
            make_place(good)
            (folder / "modules").write_text(json.dumps(list(sys.modules)))
            code = 0
        except BaseException:
            import traceback

            log.write_text(log.read_text() + traceback.format_exc())
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"the good folder was not made:\n{log.read_text()[-3000:]}")
    warm_up(good, json.loads((folder / "modules").read_text()))
    return good


def report(verdicts: Sequence[Verdict]) -> str:
    """Tries and failures by reader, then each kind of failure with a command that repeats one."""
    tried, failed = Counter(v.reader for v in verdicts), Counter(v.reader for v in verdicts if v.kind)
    lines = [f"{'reader':20} {'tries':>7} {'fine':>7} {'failed':>7}"]
    for name in [*READERS, ""]:
        tries, bad = (tried[name], failed[name]) if name else (tried.total(), failed.total())
        lines += [f"{name or 'all':20} {tries:7} {tries - bad:7} {bad:7}"] if tries else []
    kinds = defaultdict(list)
    for verdict in verdicts:
        if verdict.kind:
            kinds[group(verdict)].append(verdict)
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        readers = ", ".join(f"{name} {count}" for name, count in Counter(v.reader for v in members).items())
        shortest = min(members, key=lambda v: len(v.what))
        lines += [
            "",
            f"{len(members)} x {kind}  ({readers})",
            f"    {shortest.what}",
            f"    {shortest.detail}".rstrip(),
        ]
        lines.append(f"    python -m tests.fuzz --repeat {shortest.reader}:{shortest.seed}")
    return "\n".join(lines)


def group(verdict: Verdict) -> str:
    """Failures of one kind are one finding; what is not told by a frame of the program is told apart by its reader."""
    return verdict.kind if " at " in verdict.kind else f"{verdict.reader}: {verdict.kind}"


def repeat(reader: Reader, seed: int, good: Path) -> int:
    """One try again, with what it printed."""
    attempt = Attempt(reader, seed, good, good.parent / "try")
    while not (verdict := attempt.poll()):
        time.sleep(0.05)
    for name in ("out", "err", "stacks"):
        if text := (attempt.box / name).read_text(errors="replace"):
            print(f"---- {name}\n{text.encode('ascii', 'backslashreplace').decode()[-8000:]}")
    attempt.clean()
    print(f"----\n{verdict.what}\n{verdict.command}\n{verdict.kind or 'fine'}  {verdict.detail}")
    return int(bool(verdict.kind))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    folder.chmod(0o755)
    try:
        good = make_good_place(folder)
        if args.repeat:
            name, _, seed = args.repeat.partition(":")
            return repeat(READERS[name], int(seed), good)
        verdicts = []
        bar = tqdm(
            total=int(args.seconds), unit="s", disable=False, bar_format="{l_bar}{bar}| {n:.0f}/{total} s{postfix}"
        )
        started = time.monotonic()
        tries = schedule([READERS[name] for name in args.readers], args.seed)
        args.log.parent.mkdir(parents=True, exist_ok=True)
        with bar, args.log.open("w", encoding="utf-8") as log:
            for verdict in run_tries(tries, good, args.workers, args.seconds):
                verdicts.append(verdict)
                log.write(json.dumps(vars(verdict)) + "\n")
                log.flush()
                bar.n = min(time.monotonic() - started, args.seconds)
                bar.set_postfix(tries=len(verdicts), failed=sum(bool(v.kind) for v in verdicts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(report(verdicts))
    return int(any(verdict.kind for verdict in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
