"""Epochs that are kept: which ones stay, that a run which was killed keeps the same, and how one of them is merged."""

import csv
import errno
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_data import write_random_data
from tensorboard.summary.writer.record_writer import RecordWriter

import merge_joint_weights
import train_joint
from checkpoint import load_checkpoint
from common.files import save_torch
from config import JointConfig, UserError
from training.board import Board
from training.kept import spread
from training.selection import Choice
from training.state import Run

STEPS = ("--epochs", "6", "--lr", "1e-2", "--set", "accumulate_grad_batches=4")
UNHEARD, EVERY_SECOND = ("--set", "eval_every_epochs=0"), ("--set", "keep_every_epochs=2")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def train(tiny_model_dir, data_dir):
    def run(output: Path | None, *arguments: object) -> int:
        paths = ["--data-dir", data_dir, "--model-dir", tiny_model_dir, "--device", "cpu"]
        return train_joint.main([*map(str, [*paths, *(["--output-dir", output] if output else []), *arguments])])

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory) -> Path:
    """Folder of a joint run of six epochs that nobody listened to; all are kept."""
    output = tmp_path_factory.mktemp("run")
    assert train(output, *STEPS, *UNHEARD) == 0
    return output


@pytest.fixture
def merge(tiny_model_dir, trained, tmp_path, capsys):
    """Runs merge_joint_weights.main on that run; returns (exit code, what was printed, what stood on stderr)."""

    def run(*arguments: object, last: Path = trained / "joint_joint_last.ckpt") -> tuple[int, str, str]:
        paths = ["--model-dir", tiny_model_dir, "--output-dir", tmp_path, "--ckpt", last]
        code = merge_joint_weights.main([*map(str, [*paths, *arguments])])
        return code, *capsys.readouterr()

    return run


def kept_in(output: Path) -> dict[int, dict]:
    return {data["epoch"]: data for data in map(load_checkpoint, sorted(output.glob("*_epoch*.ckpt")))}


def kept_tensors(output: Path) -> dict[str, torch.Tensor]:
    return {
        f"{epoch}.{part}.{key}": value
        for epoch, data in kept_in(output).items()
        for part, adapter in data["adapters"].items()
        for key, value in adapter.items()
    }


# ---- which stay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_kept_epochs_are_spread_over_the_losses_however_many_come(seed):
    """One comes at a time and one goes at a time. The first, the best and the newest are always there."""
    rng = random.Random(seed)
    losses, kept, best = {}, [], 0
    for epoch in range(1, 121):
        losses[epoch] = (1 + 3 * math.exp(-epoch / 25) + rng.gauss(0, 0.02), 1 / epoch)
        best = epoch if epoch % 37 == 0 else best
        candidates = {one: losses[one] for one in (*kept, epoch)}
        kept = spread(candidates, [epoch, *([best] if best in candidates else []), 1], 10)
        assert len(kept) == min(epoch, 10) and {1, epoch, best or 1} <= {*kept}
    values = sorted(losses[epoch][0] for epoch in kept)
    gaps = [b - a for a, b in zip(values, values[1:], strict=False)]
    assert max(gaps) < 2.5 * (max(losses.values())[0] - min(losses.values())[0]) / 9


def test_where_the_llm_has_stopped_epochs_are_spread_over_the_loss_of_the_flow():
    losses = {epoch: (2.0, 1.0 - epoch / 100) for epoch in range(1, 12)} | {12: (2.5, 1.0)}
    first, middle, *others = spread(losses, [12], 4)
    assert (first, others) == (1, [11, 12]) and 5 <= middle <= 7


@pytest.mark.scripts
@pytest.mark.parametrize(
    ("settings", "kept", "heard"),
    [
        pytest.param((), [2, 3], [2, 3], marks=pytest.mark.slow),  # the last is heard besides
        pytest.param(("--set", "keep_every_epochs=1"), [1, 2, 3], [2, 3], marks=pytest.mark.slow),
        ((*UNHEARD, "--set", "keep_epochs=0"), [], []),
        pytest.param((*UNHEARD, "--set", "keep_epochs=1"), [3], [], marks=pytest.mark.slow),
        pytest.param((*UNHEARD, "--set", "keep_epochs=0", *EVERY_SECOND), [2], [], marks=pytest.mark.slow),
    ],
)
def test_evaluated_epochs_are_kept_and_those_that_the_user_asks_for(
    settings, kept, heard, train, tmp_path, monkeypatch
):
    monkeypatch.setattr(Choice, "takes", lambda *_: False)
    brief = ("--set", "eval_every_epochs=2", "--set", "inference.max_token_text_ratio=3", "--set", "eval_sentences=2")
    assert train(tmp_path, *STEPS, "--epochs", "3", "--mode", "flow_only", *brief, *settings) == 0
    found = kept_in(tmp_path)
    assert [*found] == kept
    assert [epoch for epoch, data in found.items() if "similarity" in data["row"]] == heard
    with (tmp_path / "joint_logs" / "flow_only" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows if row["kept"] == "1"] == kept
    assert [int(row["epoch"]) for row in rows if row["similarity"]] == heard


# ---- killed runs -----------------------------------------------------------------------------------------------------


@pytest.mark.scripts
def test_a_run_that_is_killed_and_resumed_keeps_what_the_unbroken_one_keeps(train, tmp_path, monkeypatch):
    """Killed before `_last.ckpt` names a new epoch, and before an old one is deleted. What is not its own stays."""
    few = (*STEPS, *UNHEARD, "--set", "keep_epochs=3", "--mode", "llm_only")
    last = tmp_path / "killed" / "joint_llm_only_last.ckpt"

    class Killed(BaseException):
        pass

    def kill_in(where: str, epoch: int) -> None:
        def killed(run: Run) -> None:
            if run.epoch == epoch:
                raise Killed
            original(run)

        original = getattr(train_joint, where)
        monkeypatch.setattr(train_joint, where, killed)

    assert train(tmp_path / "unbroken", *few) == 0
    unbroken = kept_in(tmp_path / "unbroken")
    assert {1, 6} < {*unbroken} and len(unbroken) == 3
    [stays, *others] = {2, 3, 4} - {*unbroken}

    kill_in("save_last", epoch=4)
    with pytest.raises(Killed):
        train(tmp_path / "killed", *few)
    monkeypatch.undo()
    kill_in("remove_thinned", epoch=5)
    with pytest.raises(Killed):
        train(None, "--resume", last)
    monkeypatch.undo()
    killed = last.parent
    assert len(kept_in(killed)) == 4
    foreign = {stays: {"run_id": "another"}, **{epoch: {"kept_always": None} for epoch in others}}
    for epoch, change in foreign.items():
        torch.save(unbroken[1] | {"epoch": epoch} | change, killed / f"joint_llm_only_epoch{epoch:04d}.ckpt")
    assert train(None, "--resume", last) == 0
    resumed = kept_in(killed)
    assert [*resumed] == sorted({*unbroken, *foreign})
    for epoch, data in unbroken.items():
        ours = resumed[epoch]["adapters"]["llm"]
        assert all(torch.equal(ours[key], value) for key, value in data["adapters"]["llm"].items())
        assert resumed[epoch]["row"] == data["row"]


# ---- merging one -----------------------------------------------------------------------------------------------------


def test_each_kept_epoch_holds_its_adapters_and_losses(trained):
    last = load_checkpoint(trained / "joint_joint_last.ckpt")
    kept = kept_in(trained)
    for part, adapter in last["adapters"].items():
        assert all(torch.equal(kept[6]["adapters"][part][key], value) for key, value in adapter.items())
    assert [data["row"] for data in kept.values()] == last["training"]["history"]


@pytest.mark.scripts
@pytest.mark.parametrize("lost", [False, True], ids=["", "_last is lost"])
def test_a_kept_epoch_is_merged_by_its_number(lost, merge, tiny_model_dir, trained, tmp_path, capsys):
    (tmp_path / "o").mkdir()
    for path in trained.glob("joint_joint_*.ckpt"):
        if not (lost and path.stem.endswith("last")):
            (tmp_path / "o" / path.name).write_bytes(path.read_bytes())
    asked = ["--model-dir", tiny_model_dir, "--output-dir", tmp_path / "o", "--epoch", 2, "--llm-only"]
    assert merge_joint_weights.main([*map(str, asked)]) == 0
    assert "joint_joint_epoch0002.ckpt: mode joint, llm epoch 2\n" in capsys.readouterr().out
    by_number = torch.load(tmp_path / "o" / "llm_merged_joint.pt", weights_only=True)
    assert merge("--llm-only", last=trained / "joint_joint_epoch0002.ckpt")[0] == 0
    by_name = torch.load(tmp_path / "llm_merged_joint.pt", weights_only=True)
    assert all(torch.equal(by_name[key], value) for key, value in by_number.items())


@pytest.mark.scripts
@pytest.mark.parametrize("off", [0.0, 0.001, 5.0])
def test_the_epoch_with_the_nearest_llm_loss_is_merged_and_told(off, merge, trained):
    losses = {epoch: data["row"]["llm_train"] for epoch, data in kept_in(trained).items()}
    wanted = losses[4] if off < 1 else max(losses.values())
    nearest = min(losses, key=lambda epoch: abs(losses[epoch] - wanted - off))
    code, printed, _ = merge("--at-llm-loss", wanted + off, "--llm-only")
    assert code == 0 and f"epoch {nearest} with {losses[nearest]:.3f}, {off:.3f} off" in printed
    assert f"llm epoch {nearest}\n" in printed
    assert ("warning" in printed) == (off > 0.2)


@pytest.mark.scripts
def test_of_epochs_with_the_same_llm_the_latest_is_merged(merge, trained, tmp_path):
    """Its flow was trained longest."""
    for epoch, data in kept_in(trained).items():
        torch.save(data | {"row": data["row"] | {"llm_train": 2.0}}, tmp_path / f"joint_joint_epoch000{epoch}.ckpt")
    _, printed, _ = merge("--at-llm-loss", 2, "--llm-only", last=tmp_path / "joint_joint_epoch0001.ckpt")
    assert "epoch 6 with 2.000, 0.000 off" in printed


@pytest.mark.scripts
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--epoch", 7), "--epoch 7: nothing of that kind is kept; kept are epochs 1 (llm "),
        (("--epoch", 0), "epochs 1 (llm "),
        (("--epoch", -3), "6 (llm "),
        (("--at-llm-loss", "nan"), "--at-llm-loss nan: nothing of that kind is kept; kept are epochs 1 (llm "),
        (("--at-llm-loss", "inf"), "nothing of that kind"),
    ],
)
def test_an_epoch_that_is_not_kept_is_refused_with_those_that_are(asked, told, merge, tmp_path):
    code, _, error = merge(*asked)
    assert code == 2 and told in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.scripts
def test_where_nothing_fits_what_can_be_taken_is_named(train, merge, tmp_path):
    assert train(tmp_path / "flow", *STEPS[2:], "--epochs", "1", *UNHEARD, "--mode", "flow_only") == 0
    last = tmp_path / "flow" / "joint_flow_only_last.ckpt"
    code, _, error = merge("--at-llm-loss", 2, last=last)
    assert code == 2 and "--at-llm-loss 2: nothing of that kind is kept; kept are epochs 1 (flow " in error
    (tmp_path / "flow" / "joint_flow_only_epoch0001.ckpt").write_bytes(b"damaged")
    code, printed, error = merge("--epoch", 1, last=last)
    assert code == 2 and "holds no kept epoch" in error and "epoch0001.ckpt is not a readable checkpoint" in printed


@pytest.mark.scripts
def test_epochs_of_an_earlier_version_have_the_losses_of_the_run(trained, merge, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    for path in old.glob("*_epoch*.ckpt"):
        torch.save({key: value for key, value in load_checkpoint(path).items() if key != "row"}, path)
    loss = load_checkpoint(old / "joint_joint_last.ckpt")["training"]["history"][1]["llm_train"]
    code, printed, _ = merge("--at-llm-loss", loss, last=old / "joint_joint_last.ckpt")
    assert code == 0 and f"epoch 2 with {loss:.3f}, 0.000 off" in printed


@pytest.mark.scripts
def test_a_loss_of_the_llm_is_looked_for_in_the_newest_run_that_trained_one(train, trained, tiny_model_dir, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained, output)
    assert train(output, *STEPS[2:], "--epochs", "1", *UNHEARD, "--mode", "flow_only") == 0
    asked = ["--model-dir", tiny_model_dir, "--output-dir", output, "--llm-only", "--at-llm-loss", "4"]
    assert merge_joint_weights.main([*map(str, asked)]) == 0
    nearest = load_checkpoint(output / "joint_joint_epoch0006.ckpt")["run_id"]
    assert f'"run_id": "{nearest}"' in (output / "merged.json").read_text(encoding="utf-8")


@pytest.mark.scripts
def test_where_the_loss_decides_every_epoch_is_kept_also_if_few_are_heard(train, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "by_sound", property(lambda run: False))  # as with select_by=val_loss
    assert train(tmp_path, *STEPS[2:], "--epochs", "3", *UNHEARD, "--set", "select_by=val_loss") == 0
    assert {*kept_in(tmp_path)} == {1, 2, 3}


# ---- a disk that refuses ---------------------------------------------------------------------------------------------


@pytest.mark.scripts
def test_a_disk_that_refuses_what_a_run_can_do_without_is_warned_of_once(train, trained, tmp_path, monkeypatch, capsys):
    events, save = [], save_torch

    def no_room(record_writer: RecordWriter, data: bytes) -> None:
        events.append(data)
        if len(events) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    def no_room_for_one(data: dict, path: Path) -> None:
        if path.name == "joint_joint_epoch0003.ckpt":
            raise UserError(f"cannot write {path}: No space left on device")
        save(data, path)

    monkeypatch.setattr(RecordWriter, "write", no_room)
    monkeypatch.setattr("training.kept.save_torch", no_room_for_one)
    begin = train_joint.begin

    def begin_with_a_folder_in_the_way(run: Run, init_from: Path | None = None) -> None:
        begin(run, init_from)
        (tmp_path / "joint_logs" / "joint" / "metrics.csv" / "in the way").mkdir(parents=True)

    monkeypatch.setattr(train_joint, "begin", begin_with_a_folder_in_the_way)
    assert train(tmp_path, *STEPS, *UNHEARD) == 0
    printed, errors = capsys.readouterr()
    warnings = [line.split(":")[1] for line in printed.splitlines() if line.startswith("warning: cannot ")]
    files = (tmp_path / "joint_joint_epoch0003.ckpt", tmp_path / "joint_logs" / "joint" / "metrics.csv")
    expected = [" cannot write TensorBoard's events", *(f" cannot write {path}" for path in files)]
    assert sorted(warnings) == sorted(expected)
    assert "Traceback" not in errors and len(events) == 21
    same, expected = kept_tensors(tmp_path), kept_tensors(trained)
    assert {*kept_in(tmp_path)} == {1, 2, 4, 5, 6}
    assert all(torch.equal(value, expected[key]) for key, value in same.items())


@pytest.mark.parametrize("refuses", ["folder", "write", "flush"])
def test_events_end_with_one_warning_wherever_the_disk_refuses_them(refuses, tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = SimpleNamespace(output_dir=tmp_path, config=JointConfig(), step=1, place=1, total_steps=9)
    if refuses == "folder":
        (tmp_path / "joint_logs").touch()
    elif refuses == "write":
        monkeypatch.setattr(RecordWriter, "write", refuse)
    board = Board(run)
    if refuses == "flush":
        board.events.file = SimpleNamespace(flush=refuse, close=refuse)
    for _ in range(3):
        board.step(run, {"llm": (2.0, 1.0)})
    board.close()
    [warning] = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: cannot write TensorBoard's events: ")
