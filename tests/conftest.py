"""What every test file shares."""

import os
import sys
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from tiny_model import make_tiny_model

from cosyvoice.utils.precision import keep_float32_exact

keep_float32_exact()  # as every network that is loaded does
torch.set_num_threads(1)  # tiny models: a second thread only waits for the first
# as in an active environment: `python` in the commands that are printed is the one that runs the tests
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a test process, so a script that it runs gets one as well
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist hands over what it compared."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["goldens"] = golden.comparisons


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody calls it
def pytest_testnodedown(node: Any) -> None:
    golden.comparisons.extend(getattr(node, "workeroutput", {}).get("goldens", []))  # a crashed process has none


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: how near the closest comparison with a golden vector came to its tolerance."""
    if golden.comparisons:
        name, ratio = max(golden.comparisons, key=lambda comparison: comparison[1])
        terminalreporter.write_line(
            f"goldens: {len(golden.comparisons)} comparisons, largest error/tolerance {ratio:.3g} at {name}"
        )


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of tiny random networks with the released layout. Read only: copy it before changing a file."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
