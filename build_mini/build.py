"""Rebuild pretrained_models/CosyVoice-mini stage by stage; every stage resumes where it stopped.

python -m build_mini.build --stage corpus
python -m build_mini.build --stage all --work-dir build_mini/work
"""

from __future__ import annotations

import argparse
import inspect
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.startup import start_script

if __name__ == "__main__":  # before the imports, which take seconds
    start_script()

STAGES = {
    "corpus": "build_mini.corpus",
    "natural": "build_mini.kokoro",
    "features": "build_mini.features",
    "tokens": "build_mini.speech_tokenizer",
    "speaker": "build_mini.speaker",
    "acoustics": "build_mini.acoustics",
    "extract": "build_mini.extract",
    "readings": "build_mini.readings",
    "vocoder": "build_mini.vocoder",
    "f0": "build_mini.f0",
    "flow": "build_mini.flow",
    "llm": "build_mini.llm",
    "export": "build_mini.export",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(__file__).resolve().parent / "work", help="scratch folder"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the training stages")
    parser.add_argument("--minutes", type=float, help="training time budget of this stage (default: the stage's own)")
    parser.add_argument(
        "--warm-start",
        action="store_true",
        help="stages without a state of their own begin as shipped, or keep what ships (tokens, speaker)",
    )
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> int:
    """Run one stage, or all of them in order; the exit code."""
    import torch

    from build_mini.common import SEED
    from common.signals import Interrupted, interrupted_at_once

    args.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    try:
        with interrupted_at_once():
            for name in STAGES if args.stage == "all" else [args.stage]:
                torch.manual_seed(SEED)
                run_stage(name, args)
    except Interrupted as signal:
        print(f"stopped by {signal}; the same command goes on from what is saved", file=sys.stderr)
        return signal.exit_code
    return 0


def run_stage(name: str, args: argparse.Namespace) -> None:
    """One stage, with those of the options that it has. UserError where a package that it needs is not installed."""
    from config import UserError

    options = {"minutes": args.minutes, "warm_start": args.warm_start}
    try:
        stage = import_module(STAGES[name])
        wanted = inspect.signature(stage.build).parameters
        stage.build(args.work_dir, **{k: v for k, v in options.items() if k in wanted and v is not None})
    except ModuleNotFoundError as error:
        raise UserError(
            f"stage {name}: {error.name} is not installed; run: python -m pip install -r requirements-dev.txt and "
            "python -m pip install --no-deps -r requirements-mini.txt"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, 2 where something is missing, 130 after Ctrl-C, 143 after SIGTERM (what was saved is kept)."""
    args = parse_args(argv)
    from utils import run_main  # takes PyTorch along, which --help need not wait for

    return run_main(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
