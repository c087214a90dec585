"""Golden vectors: reading them, and comparing with a record of how close each comparison came to its tolerance."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "goldens"

comparisons: list[tuple[str, float]] = []
"""(name, largest error / tolerance) of every comparison made by `check` in this test run."""


@cache
def load(name: str) -> dict[str, Tensor]:
    """Every tensor of tests/goldens/<name>.safetensors, name being such as "llm/relpos". Read only: it is shared."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


@cache
def config(name: str) -> dict[str, Any]:
    """Constructor arguments of a golden: the metadata key `config`, else the field `config` of <name>.json."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata() or {}
    return json.loads(metadata["config"]) if "config" in metadata else load_json(name)["config"]


@cache
def load_json(name: str) -> Any:
    """Content of tests/goldens/<name>.json. Read only: the result is shared."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def tolerance(name: str, tensor: str) -> float:
    """Absolute tolerance that a flow golden states for `tensor`, named without its prefix "out."."""
    return float(load_json(name)["tolerance"][tensor]["atol"])


def weights(name: str, prefix: str = "w.") -> dict[str, Tensor]:
    """State dict stored in a golden under `prefix`, which is cut from the names."""
    return {key.removeprefix(prefix): value for key, value in load(name).items() if key.startswith(prefix)}


def check(name: str, actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    """Assert equal shapes and |actual - expected| <= atol + rtol * |expected| everywhere, and note how near it came."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    expected = expected.double()
    error = (actual.detach().cpu().double() - expected).abs()
    assert bool(torch.isfinite(error).all()), f"{name}: not finite"
    ratio = float((error / (atol + rtol * expected.abs())).max()) if error.numel() else 0.0
    comparisons.append((name, ratio))
    assert ratio <= 1.0, f"{name}: {ratio:.3g} times the tolerance (largest error {float(error.max()):.3g})"
