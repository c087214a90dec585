"""Who may import whom, and that importing does nothing visible."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import MODEL_FILES, MODEL_PACKAGES, OWN_FILES, PACKAGES, ROOT, ROOT_FILES, SCRIPTS, python_files

# Root files and packages from the bottom up; an import goes to the same line or further down, and never in a circle.
LAYERS = (
    {"config"},
    {"text"},
    {"common", "pages"},
    {"utils"},
    {"clips"},
    {"checkpoint", "dataset", "llm_flow_model", "lora"},
    {"voice"},
    {"training"},
    SCRIPTS,
)
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}
# What these modules may use of ours, and no more.
OWN_IMPORTS = {
    "config": set(),
    "utils": {"common.signals", "common.terminal", "config", "cosyvoice", "text.normalizer"},
    "lora": {"config", "cosyvoice", "matcha"},
    "dataset": {"clips.mel_store", "common.files", "config", "cosyvoice", "text.normalizer", "utils"},
    "llm_flow_model": {"config", "cosyvoice", "dataset", "lora"},
    "clips.audio_doctor": {"clips.measuring", "clips.text_faults", "text.languages", "text.normalizer", "cosyvoice"},
    "clips.measuring": set(),
    "clips.report": {"clips.audio_doctor"},
    "clips.mel_store": {"config", "cosyvoice"},
    "clips.text_check": {"common.files", "cosyvoice"},
    "clips.text_faults": {"cosyvoice"},
    "clips.transcripts": {"common.files", "cosyvoice"},
    "common.files": {"common.terminal", "config", "cosyvoice"},
    "text.languages": {"cosyvoice"},
    "text.numbers": set(),
    "common.recogniser": {"text.languages", "config"},
    "common.signals": {"common.startup", "common.terminal"},
    "common.startup": set(),
    "common.terminal": set(),
    "text.chinese": {"text.rules", "text.signs", "text.units"},
    "text.english": {"cosyvoice", "text.rules", "text.signs", "text.units"},
    "text.rules": set(),
    "text.typography": {"text.rules"},
    "pages.render": set(),
    "training.distributed": {"common.signals", "config", "utils"},
    "voice.metrics": {"cosyvoice"},
    "voice.runaway": {"clips.measuring"},
    "voice.segments": {"cosyvoice"},
}
ONLY_FOR_SCRIPTS = {"load", "JOINT_TRAINING_CONFIG", "read_settings"}  # settings are handed down as arguments


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*OWN_FILES, *MODEL_FILES]}


def module_name(path: Path) -> str:
    """Dotted, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of every import in the file, those inside functions too."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            if node.module in PACKAGES:
                yield from ((f"{node.module}.{alias.name}", []) for alias in node.names)
            else:
                yield node.module, [alias.name for alias in node.names]


def own_imports(path: Path) -> set[str]:
    """What of ours the file imports: modules, and of the model's packages their names."""
    modules = {module for module, _ in imports(path)}
    model = {module.partition(".")[0] for module in modules} & set(MODEL_PACKAGES)
    return {module for module in modules if module.partition(".")[0] in LAYER} | model


def layer(module: str) -> int:
    return LAYER[module.partition(".")[0]]


def test_every_root_file_and_package_has_a_layer():
    assert {path.stem for path in ROOT_FILES} | set(PACKAGES) == set(LAYER), "name the layer of a new file in LAYERS"


def test_the_scripts_are_the_files_that_run():
    runs = {module_name(path) for path in OWN_FILES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")}
    assert runs == SCRIPTS


@pytest.mark.parametrize("path", OWN_FILES, ids=module_name)
def test_own_files_import_downwards(path: Path):
    used, module = own_imports(path), module_name(path)
    upwards = {other for other in used - set(MODEL_PACKAGES) if layer(other) > layer(module)}
    assert not upwards, f"{module} imports {upwards}, which stand above it"
    if module in SCRIPTS:
        assert not used & SCRIPTS, "scripts never import scripts"
    assert used <= OWN_IMPORTS.get(module, used)


def test_own_files_import_in_no_circle():
    graph = {module_name(path): own_imports(path) - set(MODEL_PACKAGES) for path in OWN_FILES}
    done: set[str] = set()
    while ready := [name for name, used in graph.items() if name not in done and used <= done]:
        done.update(ready)
    assert done == set(graph), f"in a circle: {sorted(set(graph) - done)}"


def test_config_needs_only_the_standard_library():
    used = {module.partition(".")[0] for module, _ in imports(ROOT / "config.py")}
    assert used and used <= sys.stdlib_module_names


@pytest.mark.parametrize("path", OWN_FILES, ids=module_name)
def test_only_scripts_read_the_settings(path: Path):
    taken = {taken for module, names in imports(path) if module in ("config", "utils") for taken in names}
    taken -= {"load"} if path.stem == "utils" else set()  # for read_settings
    assert module_name(path) in SCRIPTS or not taken & ONLY_FOR_SCRIPTS


@pytest.mark.parametrize("package", MODEL_PACKAGES)
def test_the_model_imports_nothing_of_the_tool(package: str):
    allowed = {"cosyvoice": set(MODEL_PACKAGES), "matcha": {"matcha"}}[package]
    wrong = {f"{module_name(path)}: {own}" for path in python_files(package) for own in own_imports(path) - allowed}
    assert not wrong


def test_the_model_never_prints():
    calls = [
        f"{module_name(path)}:{node.lineno}"
        for path in MODEL_FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def test_no_file_imports_everything_or_edits_the_path():
    wildcards = [module_name(path) for path in TREES for _, names in imports(path) if "*" in names]
    edits = [module_name(path) for path, tree in TREES.items() for node in ast.walk(tree) if is_sys_path(node)]
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
slow = {"jinja2", "matplotlib", "tensorboard", "librosa", "wetext", "inflect", "whisper"} & set(sys.modules)
assert not slow, f"imported although only some runs need it: {slow}"
"""


def test_importing_does_nothing_visible(tmp_path: Path):
    """One process for all files, as torch alone takes seconds."""
    modules = [module_name(path) for path in TREES]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
