"""Who may import whom, and that importing does nothing visible."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("cosyvoice", "matcha")
SCRIPTS = {
    "prepare_joint_data",
    "train_joint",
    "merge_joint_weights",
    "inference_joint",
    "evaluate_joint",
    "plot_joint",
}

# Root files from the bottom up; an import goes to the same line or further down, and never in a circle.
LAYERS = (
    {"config"},
    {"command", "files", "signals"},
    {
        "dataset",
        "distributed",
        "languages",
        "lora",
        "mel_picture",
        "mel_store",
        "recogniser",
        "text_check",
        "voice_metrics",
        "webpage",
    },
    {"audio_doctor", "llm_flow_model", "checkpoint"},
    {"audio_files", "memory", "report_page", "runaway", "segments"},
    {"clip_features", "mending", "speaking"},
    {"evaluation"},
    {"evaluation_page", "selection"},
    {"audition"},
    {"training_state"},
    {"decisions", "training_board", "training_step"},
    {"run_files"},
    {"listening"},
    SCRIPTS,
)
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}
# Own modules that these files may use, and no others.
OWN_IMPORTS = {
    "config": set(),
    "audio_doctor": {"languages"},
    "languages": {"cosyvoice"},
    "recogniser": {"config", "languages"},
    "runaway": set(),
    "segments": {"cosyvoice"},
    "text_check": {"files"},
    "voice_metrics": set(),
    "webpage": set(),
    "command": {"config", "cosyvoice"},
    "files": {"config"},
    "signals": set(),
    "distributed": {"command", "config", "signals"},
    "lora": {"config"},
    "dataset": {"command", "config", "cosyvoice", "files", "mel_store"},
    "mel_store": {"config", "cosyvoice"},
    "llm_flow_model": {"config", "dataset", "lora", "cosyvoice"},
}
ONLY_FOR_SCRIPTS = {"load", "JOINT_TRAINING_CONFIG", "read_settings"}  # settings are handed down as arguments

ROOT_FILES = sorted(ROOT.glob("*.py"))
PACKAGE_FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*ROOT_FILES, *PACKAGE_FILES]}


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of every import in the file, those inside functions too."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            yield node.module, [alias.name for alias in node.names]


def own_imports(path: Path) -> set[str]:
    """Root files and packages of ours that the file imports, by first name."""
    own = {*LAYER, *PACKAGES}
    return {module.partition(".")[0] for module, _ in imports(path)} & own


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_root_file_has_a_layer():
    assert {path.stem for path in ROOT_FILES} == set(LAYER), "name the layer of a new file in LAYERS"


def test_the_scripts_are_the_files_that_run():
    runs = {path.stem for path in ROOT_FILES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")}
    assert runs == SCRIPTS


@pytest.mark.parametrize("path", ROOT_FILES, ids=name)
def test_root_files_import_downwards(path: Path):
    used = own_imports(path) - set(PACKAGES)
    upwards = {other for other in used if LAYER[other] > LAYER[path.stem]}
    assert not upwards, f"{path.name} imports {upwards}, which stand above it"
    if path.stem in SCRIPTS:
        assert not used & SCRIPTS, "scripts never import scripts"
    if path.stem in OWN_IMPORTS:
        assert own_imports(path) <= OWN_IMPORTS[path.stem]


def test_root_files_import_in_no_circle():
    graph = {path.stem: own_imports(path) - set(PACKAGES) for path in ROOT_FILES}
    done: set[str] = set()
    while ready := [name for name, used in graph.items() if name not in done and used <= done]:
        done.update(ready)
    assert done == set(graph), f"in a circle: {sorted(set(graph) - done)}"


def test_config_needs_only_the_standard_library():
    used = {module.partition(".")[0] for module, _ in imports(ROOT / "config.py")}
    assert used and used <= sys.stdlib_module_names


@pytest.mark.parametrize("path", ROOT_FILES, ids=name)
def test_only_scripts_read_the_settings(path: Path):
    taken = {taken for module, names in imports(path) if module in ("config", "command") for taken in names}
    taken -= {"load"} if path.stem == "command" else set()  # for read_settings
    assert path.stem in SCRIPTS or not taken & ONLY_FOR_SCRIPTS


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_no_root_file(package: str):
    allowed = {"cosyvoice": set(PACKAGES), "matcha": {"matcha"}}[package]
    wrong = {
        f"{name(path)}: {own}"
        for path in PACKAGE_FILES
        if path.is_relative_to(ROOT / package)
        for own in own_imports(path) - allowed
    }
    assert not wrong


def test_packages_never_print():
    calls = [
        f"{name(path)}:{node.lineno}"
        for path in PACKAGE_FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def test_no_file_imports_everything_or_edits_the_path():
    wildcards = [name(path) for path in TREES for _, names in imports(path) if "*" in names]
    edits = [name(path) for path, tree in TREES.items() for node in ast.walk(tree) if is_sys_path(node)]
    assert not wildcards and not edits


def is_sys_path(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "path"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    )


IMPORT_ALL = """
import importlib, os, sys
before = list(sys.path)
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
assert sys.path == before, "an import edited sys.path"
assert not torch.cuda.is_initialized(), "an import woke the GPU"
assert not os.listdir(), f"an import wrote {os.listdir()}"
slow = {"matplotlib", "tensorboard", "librosa", "wetext", "inflect", "whisper"} & set(sys.modules)
assert not slow, f"imported although only some runs need it: {slow}"
"""


def test_importing_does_nothing_visible(tmp_path: Path):
    """One process for all files, as torch alone takes seconds; modules of the packages come with them."""
    modules = [path.stem for path in ROOT_FILES]
    modules += [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE_FILES if path.stem[0] != "_"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
