"""The program's own source files, for tests that read them."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL_PACKAGES = ("cosyvoice", "matcha")
PACKAGES = ("text", "common", "pages", "clips", "voice", "training")
SCRIPTS = {
    "prepare_joint_data",
    "train_joint",
    "merge_joint_weights",
    "inference_joint",
    "evaluate_joint",
    "plot_joint",
}


def python_files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


ROOT_FILES = sorted(ROOT.glob("*.py"))
OWN_FILES = [*ROOT_FILES, *python_files(*PACKAGES)]
MODEL_FILES = python_files(*MODEL_PACKAGES)
