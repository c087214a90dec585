"""Kill a training run (SIGKILL) at random moments, resume it each time, and compare it with the unbroken run.

python tests/kill_and_resume.py --model-dir pretrained_models/CosyVoice-mini --data-dir data --kills 10
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from checkpoint import load_checkpoint  # noqa: E402

LAST, BEST = "joint_joint_last.ckpt", "joint_joint_best.ckpt"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
RESULTS = (LAST, BEST, "llm_merged_joint.pt", "flow_merged_joint.pt")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def command(args: argparse.Namespace, output: Path) -> list[str]:
    """A new run, or the resumed one where `output` has a checkpoint."""
    last = output / LAST
    paths = ["--model-dir", args.model_dir, "--data-dir", args.data_dir, "--device", "cpu"]
    if last.exists():
        paths += ["--resume", last]
    else:
        paths += ["--output-dir", output, "--epochs", args.epochs, "--set", "eval_every_epochs=2"]
    return [sys.executable, str(ROOT / "train_joint.py"), *map(str, paths)]


def readable(output: Path) -> list[str]:
    """Names of the result files that exist; raises where one of them cannot be read."""
    found = [name for name in RESULTS if (output / name).exists()]
    for name in found:
        torch.load(output / name, map_location="cpu", weights_only=True)
    return found


def run_unbroken(args: argparse.Namespace, output: Path) -> tuple[float, float]:
    """(seconds until the first checkpoint, seconds of training after it)."""
    started = time.monotonic()
    process = subprocess.Popen(command(args, output), **QUIET)
    while not (output / LAST).exists() and process.poll() is None:
        time.sleep(0.02)
    ready = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"the unbroken run failed with exit code {process.returncode}")
    return ready - started, time.monotonic() - ready


def run_with_kills(args: argparse.Namespace, scratch: Path, startup_sec: float, training_sec: float) -> list[Path]:
    """Folders of runs that were killed `args.kills` times in all and ended well in the end, each at least once."""
    rng, folders, kills = random.Random(args.seed), [scratch / "broken_1"], 0
    while kills < args.kills:
        output = folders[-1]
        delay = rng.uniform(0.6, 1.0) * startup_sec + rng.uniform(0, 1.4) * training_sec / args.kills
        process = subprocess.Popen(command(args, output), **QUIET)
        try:
            code = process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            code, kills = process.wait(), kills + 1
        found = readable(output)
        step = load_checkpoint(output / LAST)["step"] if LAST in found else 0
        print(
            f"{kills}: after {delay:5.1f} s, exit {code}, saved step {step}, {len(found)} files, all readable",
            flush=True,
        )
        if code == 0:
            folders.append(scratch / f"broken_{len(folders) + 1}")  # it was done: the next kills hit another run
    subprocess.run(command(args, folders[-1]), check=True, **QUIET)
    return folders


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tensors that are not equal bit for bit in the checkpoints and merged files of two runs."""
    differing = []
    for name in RESULTS:
        pair = [torch.load(folder / name, map_location="cpu", weights_only=True) for folder in (one, other)]
        if name.endswith(".ckpt"):
            pair = [
                {f"{part}.{key}": v for part, a in data["adapters"].items() for key, v in a.items()} for data in pair
            ]
        assert pair[0].keys() == pair[1].keys()
        differing += [f"{name}: {key}" for key in pair[0] if not torch.equal(pair[0][key], pair[1][key])]
    return differing


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        unbroken = Path(scratch) / "unbroken"
        startup_sec, training_sec = run_unbroken(args, unbroken)
        steps = load_checkpoint(unbroken / LAST)["step"]
        print(f"unbroken: {steps} steps; start {startup_sec:.1f} s, training {training_sec:.1f} s", flush=True)
        failed = False
        for broken in run_with_kills(args, Path(scratch), startup_sec, training_sec):
            differing, reached = differences(unbroken, broken), load_checkpoint(broken / LAST)["step"]
            print(f"{broken.name}: {reached} steps; tensors that differ: {len(differing)} {differing[:3]}")
            failed |= bool(differing) or reached != steps
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
