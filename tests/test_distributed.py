"""torchrun with two processes gives the weights of one; both end together, however they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from damaged import damage_mel
from random_data import write_random_data

from checkpoint import load_checkpoint
from training import distributed

ROOT = Path(__file__).parent.parent
LAST = "joint_joint_last.ckpt"
SETTINGS = {
    "eval_every_epochs": 0,
    "eval_sentences": 2,
    "accumulate_grad_batches": 5,
    "llm_lora.lora_dropout": 0,
    "flow_lora.lora_dropout": 0,
    "max_feat_len": 100,
}
pytestmark = pytest.mark.scripts


def test_a_scheduler_s_variables_alone_make_no_group(monkeypatch):
    """A job script or container may set them for each of its tasks; nobody waits at the address then."""
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "3", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with distributed.joined(torch.device("cpu")):
        assert distributed.world_size() == 1 and distributed.is_writer()
    assert distributed.own_device(torch.device("cuda", 0)) == torch.device("cuda", 0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"), shards=3)


@pytest.fixture
def start(tiny_model_dir, data_dir, tmp_path):
    """Starts train_joint.py in so many processes; they write to tmp_path/output."""

    def run(processes: int, output: str, *arguments: object) -> subprocess.Popen:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        paths = ["--data-dir", data_dir, "--model-dir", tiny_model_dir, "--output-dir", tmp_path / output]
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        given = [*paths, "--device", "cpu", *([] if "--resume" in arguments else settings), *arguments]
        command = [sys.executable, *(torchrun if processes > 1 else []), "train_joint.py", *map(str, given)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)

    return run


def finished(process: subprocess.Popen, code: int = 0) -> str:
    """What the run printed; it must end by itself with that exit code."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    return printed


def adapters(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(folder / LAST)["adapters"]
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def test_two_processes_train_the_weights_of_one(start, tmp_path):
    runs = [start(count, f"by_{count}", "--epochs", 3) for count in (1, 2)]
    printed = [finished(run) for run in runs]
    one, two = adapters(tmp_path / "by_1"), adapters(tmp_path / "by_2")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert (value - two[key]).abs().max() < 1e-6, key
        assert value.any(), key
    for text in printed:
        assert text.count("epoch   3 done") == 1 and text.count("finished: max_epochs = 3") == 1, "one process prints"
    assert {path.name for path in (tmp_path / "by_1").iterdir()} == {
        path.name for path in (tmp_path / "by_2").iterdir()
    }


@pytest.mark.slow  # half a minute
def test_two_processes_are_interrupted_together_and_go_on(start, tmp_path):
    broken = start(2, "broken", "--epochs", 12)
    last = tmp_path / "broken" / LAST
    deadline = time.monotonic() + 180  # where other programs use the cores, two processes wait long for each other
    while not (last.exists() and load_checkpoint(last)["step"] > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    broken.send_signal(signal.SIGTERM)
    unbroken = start(2, "unbroken", "--epochs", 12)
    printed = broken.communicate(timeout=180)[0]
    assert broken.returncode != 0 and f"SIGTERM: saved {last}" in printed
    step = load_checkpoint(last)["step"]
    assert 0 < step < load_checkpoint(finished(unbroken) and tmp_path / "unbroken" / LAST)["step"]
    finished(start(2, "broken", "--resume", last))
    one, other = adapters(tmp_path / "unbroken"), adapters(tmp_path / "broken")
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow  # twenty seconds
def test_listening_changes_no_weight_with_two_processes_either(start, tmp_path):
    runs = [start(2, f"every_{n}", "--epochs", 2, "--set", f"eval_every_epochs={n}") for n in (0, 1)]
    printed = [finished(run) for run in runs]
    assert printed[1].count("heard the base") == 1 and printed[1].count("heard epoch") == 2
    one, other = adapters(tmp_path / "every_0"), adapters(tmp_path / "every_1")
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_shard_that_only_one_process_looks_into_is_told_once_and_ends_both(start, tmp_path):
    data = write_random_data(tmp_path / "data", shards=2)
    damaged = damage_mel(data / "clips_001.parquet")
    printed = finished(start(2, "output", "--data-dir", data), code=1)
    assert printed.count("error: ") == printed.count(f"error: {damaged} is not a readable parquet file") == 1
    assert "exitcode  : 2" in printed and printed.count("Traceback") == 1, "torchrun's own"
    assert not (tmp_path / "output" / LAST).exists()


@pytest.mark.slow  # as with the damaged shard, where the other process waits
def test_a_mistake_ends_all_processes(start):
    assert "lower stop.llm_loss, stop.flow_loss" in finished(
        start(2, "output", "--set", "stop.llm_loss=99", "--set", "stop.flow_loss=99"), code=1
    )


@pytest.mark.slow
def test_two_processes_start_from_a_checkpoint_as_one_does(start, tmp_path):
    finished(start(1, "first", "--epochs", 1))
    given = ("--epochs", 2, "--mode", "flow_only", "--init-from", tmp_path / "first" / LAST)
    for count in (1, 2):
        finished(start(count, f"by_{count}", *given))
    one, two = (load_checkpoint(tmp_path / f"by_{count}" / "joint_flow_only_last.ckpt") for count in (1, 2))
    for part, adapter in one["adapters"].items():
        assert all((value - two["adapters"][part][key]).abs().max() < 1e-6 for key, value in adapter.items())
    assert one["start"] == two["start"] and one["start_adapters"].keys() == {"flow"}
