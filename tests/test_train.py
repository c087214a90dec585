"""train_joint.py on the tiny model: what is trained, when it stops, and that a resumed run equals the unbroken one."""

import csv
import json
import math
import re
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from random_data import write_random_data
from torch._subclasses.fake_tensor import FakeTensorMode

import dataset
import train_joint
import training.state
from checkpoint import checkpoint_config, load_checkpoint, merged_part
from clips import mel_store
from common.files import only_run
from common.signals import SignalGuard
from config import JointConfig, UserError, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.flow import flow_matching
from cosyvoice.flow.flow_matching import FLOW_TIMES
from dataset import collate_llm, read_rows, spread_out, write_shard
from llm_flow_model import JointModel
from lora import adapter_parameters, adapter_state_dict
from train_joint import main
from training import run_files
from training.decisions import hearing_due, hearing_left_sec
from training.memory import prepare_memory
from training.run_files import move_previous_run
from training.selection import Heard
from training.state import Part, epoch_groups, lr_at
from training.step import optimizer_step

CPU = torch.device("cpu")
ONE_BY_ONE = {"llm": 1, "flow": 1}  # positions or frames in a forward pass
FEW = ("--epochs", "3", "--lr", "1e-2", "--set", "accumulate_grad_batches=4")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(tiny_model_dir, data_dir, tmp_path):
    """Runs train_joint.main in tmp_path/output; returns the exit code."""

    def run(*arguments: str, data: Path = data_dir, model: Path = tiny_model_dir, output: str = "output") -> int:
        paths = ["--data-dir", data, "--model-dir", model, "--output-dir", tmp_path / output, "--device", "cpu"]
        return main([*map(str, paths), "--set", "eval_every_epochs=0", *arguments])

    return run


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    parts = {name: load_part(tiny_model_dir, name) for name in ("llm", "flow")}
    torch.manual_seed(0)
    return JointModel(parts["llm"], parts["flow"], JointConfig())


@pytest.fixture
def adapters_only(model):
    """`model` with random adapters for one test."""
    for name in ("llm", "flow"):
        for parameter in adapter_parameters(model.part(name)):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def adapters(path: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(path)["adapters"]
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_measuring_is_deterministic_and_leaves_the_random_state(model, data_dir):
    clips = read_rows(data_dir)[:3]
    state = torch.get_rng_state()
    for part in ("llm", "flow"):
        assert model.measure(part, clips, CPU) == model.measure(part, clips, CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_untrained_adapters_measure_as_the_base(tiny_model_dir, data_dir):
    fresh = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), JointConfig())
    clips = read_rows(data_dir)[:2]
    for part in ("llm", "flow"):
        assert fresh.measure(part, clips, CPU) == fresh.measure(part, clips, CPU, adapters=False)


def test_the_base_can_be_measured_under_trained_adapters(adapters_only, tiny_model_dir, data_dir):
    fresh = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), JointConfig())
    clips = read_rows(data_dir)[:2]
    for part in ("llm", "flow"):
        base = adapters_only.measure(part, clips, CPU, adapters=False)
        assert base == pytest.approx(fresh.measure(part, clips, CPU), rel=1e-6)
        assert adapters_only.measure(part, clips, CPU) != pytest.approx(base, rel=1e-4)


@pytest.mark.parametrize("flow_time", FLOW_TIMES)
def test_the_flow_is_measured_at_times_spread_as_those_of_training(flow_time, tiny_model_dir, data_dir, monkeypatch):
    times, original = [], flow_matching.flow_target

    def flow_target(x1, noise, t, sigma_min):
        times.append(t.flatten())
        return original(x1, noise, t, sigma_min)

    monkeypatch.setattr(flow_matching, "flow_target", flow_target)
    config = load(["training_mode=flow_only", f"flow_time={flow_time}"])[0]
    JointModel(None, load_part(tiny_model_dir, "flow"), config).measure("flow", read_rows(data_dir)[:1], CPU)
    midpoints = torch.tensor([0.125, 0.375, 0.625, 0.875])
    warped = 1 - torch.cos(midpoints * math.pi / 2)
    torch.testing.assert_close(times, [warped if flow_time == "cosine" else midpoints])


def test_padding_does_not_change_the_llm_loss(adapters_only, data_dir):
    clips = read_rows(data_dir)[:4]
    for layer in adapters_only.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.eval()
    together = adapters_only.loss("llm", collate_llm(clips), CPU)
    alone = [adapters_only.loss("llm", collate_llm([clip]), CPU) for clip in clips]
    expected = sum(float(loss.mean.detach()) * loss.count for loss in alone) / sum(loss.count for loss in alone)
    assert together.count == sum(loss.count for loss in alone) == sum(len(clip.speech_token) + 1 for clip in clips)
    assert float(together.mean.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_llm_loss_keeps_its_digits_where_the_network_is_in_half_precision(adapters_only, data_dir):
    """Stopping and choosing compare losses, and one of 2 to 4 nats would come in steps of 1/64 in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = [adapters_only.loss("llm", collate_llm([clip]), CPU).mean for clip in read_rows(data_dir)[:3]]
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert any(loss != loss.bfloat16().float() for loss in losses)


# ---- schedule --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_over_a_share_of_the_run_and_never_starts_at_zero():
    config = load(["warmup_ratio=0.1", "learning_rate=1.0", "final_lr_ratio=0.2"])[0]
    rates = [lr_at(step, 40, config) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(earlier >= later for earlier, later in zip(rates[4:], rates[5:], strict=False))
    assert rates[-1] == pytest.approx(0.2, abs=0.01)
    assert lr_at(0, 2, config) == 1.0


def test_every_clip_comes_once_an_epoch_in_another_order():
    config = load(["batch_size=2", "accumulate_grad_batches=3"])[0]
    first, second = epoch_groups(11, 0, config), epoch_groups(11, 1, config)
    assert [len(group) for group in first] == [6, 5]
    assert sorted(clip for group in first for clip in group) == list(range(11))
    assert first != second
    assert first == epoch_groups(11, 0, config)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Part("llm", base_loss=1.4), "already below stop.llm_loss = 1.5"),
        (Part("flow", base_loss=0.9, last_loss=0.3), "reached stop.flow_loss = 0.3"),
        (Part("llm", 4.0, base_held_out=4.1, last_loss=2.0, stale_epochs=10), "no improvement for 10 epochs"),
        (Part("llm", base_loss=4.0, last_loss=2.0, stale_epochs=10), "^$"),  # nothing is held out
        (Part("llm", base_loss=4.0, last_loss=1.51, stale_epochs=9), "^$"),
    ],
)
def test_a_part_stops_for_a_stated_reason(part, reason):
    assert re.search(reason, part.why_stop(JointConfig()))


def test_zero_switches_a_stopping_rule_off():
    config = load(["stop.llm_loss=0", "stop.patience=0"])[0]
    assert Part("llm", base_loss=0.0, last_loss=0.0, stale_epochs=99).why_stop(config) == ""


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.scripts
def test_a_run_leaves_small_checkpoints_merged_files_and_logs(train, tmp_path, capsys):
    assert train(*FEW) == 0
    printed = capsys.readouterr().out
    output = tmp_path / "output"
    names = {path.name for path in output.iterdir()}
    assert names == {
        "joint_joint_last.ckpt",
        "joint_joint_best.ckpt",
        *(f"joint_joint_epoch000{epoch}.ckpt" for epoch in (1, 2, 3)),
        "llm_merged_joint.pt",
        "flow_merged_joint.pt",
        "spk2info.pt",
        "merged.json",
        "joint_logs",
        ".lock",
        ".merged.lock",
    }
    assert "another scale" in printed  # its random flow knows no speech
    assert "base model llm: loss 4." in printed and "python inference_joint.py" in printed.splitlines()[-1]
    logs = output / "joint_logs" / "joint"
    with (logs / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(math.isfinite(float(row["flow_held_out"])) for row in rows)
    assert list(logs.glob("events.out.tfevents.*"))
    assert all("lora_" in key for key in adapters(output / "joint_joint_last.ckpt"))


@pytest.mark.scripts
def test_the_llm_learns_its_training_clips(train, tmp_path):
    learn = ("--epochs", "40", "--lr", "2e-2", "--set", "llm_lora.lora_dropout=0", "--set", "stop.patience=0")
    assert train("--mode", "llm_only", *learn) == 0
    history = load_checkpoint(tmp_path / "output" / "joint_llm_only_last.ckpt")["training"]["history"]
    assert history[-1]["llm_train"] < history[0]["llm_train"] - 0.5


@pytest.mark.scripts
@pytest.mark.parametrize("stop_at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_stopped_by_sigterm_and_resumed_equals_the_unbroken_run(stop_at, train, tmp_path, monkeypatch, capsys):
    assert train(*FEW, output="unbroken") == 0
    original = train_joint.step_line

    def signalling(run, results):
        if run.step == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return original(run, results)

    monkeypatch.setattr(train_joint, "step_line", signalling)
    assert train(*FEW, "--device", "cpu") == 128 + signal.SIGTERM
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    (again,) = [line for line in capsys.readouterr().out.splitlines() if "go on with: " in line]
    assert f"go on with: python train_joint.py --resume {last} --data-dir " in again and again.endswith("--device cpu")
    monkeypatch.undo()
    assert load_checkpoint(last)["step"] == stop_at
    assert train("--resume", str(last)) == 0
    for kind in ("last", "best"):
        resumed, unbroken = (tmp_path / folder / f"joint_joint_{kind}.ckpt" for folder in ("output", "unbroken"))
        assert_equal(adapters(resumed), adapters(unbroken))
    one, other = (load_checkpoint(tmp_path / folder / last.name)["training"] for folder in ("output", "unbroken"))
    assert one["history"] == other["history"]


@pytest.mark.scripts
@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(
            UserError("the loss was no number; take a lower learning_rate"),
            "the loss was no number; take a lower",
            marks=pytest.mark.slow,
        ),
        (torch.OutOfMemoryError(), "the GPU is out of memory while the voice is heard; close other programs that use"),
    ],
)
def test_a_run_that_ends_by_an_error_is_gone_on_with_and_not_begun_again(
    error, told, train, tmp_path, monkeypatch, capsys
):
    def fail(run, results):
        raise error

    monkeypatch.setattr(train_joint, "check_finite", fail)
    assert train(*FEW) == 2
    message = capsys.readouterr().err.rpartition("error: ")[2]
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert message.startswith(told) and f"; then go on with: python train_joint.py --resume {last} " in message
    monkeypatch.undo()
    assert train("--resume", str(last)) == 0


def test_a_run_of_several_processes_is_gone_on_with_by_several(monkeypatch):
    monkeypatch.setattr(train_joint, "world_size", lambda: 2)
    args = train_joint.parse_args(["--data-dir", "my data"])
    last = Path("output/joint_joint_last.ckpt")
    expected = f"torchrun --nproc_per_node=2 train_joint.py --resume {last} --data-dir 'my data'"
    assert train_joint.resuming_command(args, last) == expected


@pytest.mark.slow
@pytest.mark.scripts
def test_the_room_that_is_asked_for_covers_kept_epochs_and_large_ranks(train, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train_joint, "check_disk", lambda folder, needed, elsewhere: asked.append(needed))
    monkeypatch.setattr(run_files, "SAMPLES_BYTES", 0)
    large = ("--set", "flow_lora.lora_r=48", "--set", "flow_lora.lora_alpha=48", "--set", "keep_every_epochs=1")
    assert train(*FEW, *large, "--set", "keep_epochs=0") == 0
    (needed,) = asked
    left = sum(path.stat().st_size for path in (tmp_path / "output").glob("*.*") if path.suffix in (".ckpt", ".pt"))
    assert left < needed < 2 * left


@pytest.mark.scripts
def test_a_finished_run_says_so_and_can_be_prolonged(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "llm_only") == 0
    last = tmp_path / "output" / "joint_llm_only_last.ckpt"
    before = last.read_bytes()
    assert train("--resume", str(last)) == 0
    assert "this run is finished (max_epochs = 3)" in capsys.readouterr().out
    assert last.read_bytes() == before
    assert train("--resume", str(last), "--epochs", "4", "--set", "weight_decay=0.5") == 0
    assert "setting max_epochs = 4   (from command line)" in capsys.readouterr().out
    checkpoint = load_checkpoint(last)
    assert checkpoint["epoch"] == 4
    assert checkpoint["training"]["optimizers"]["llm"]["param_groups"][0]["weight_decay"] == 0.5


@pytest.mark.slow
@pytest.mark.scripts
def test_the_schedule_goes_on_where_it_was_with_larger_steps(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "flow_only") == 0
    capsys.readouterr()
    last = tmp_path / "output" / "joint_flow_only_last.ckpt"
    assert train("--resume", str(last), "--epochs", "4", "--set", "accumulate_grad_batches=100") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "s/step" in line]
    config = checkpoint_config(load_checkpoint(last), last)
    assert "epoch   4/4  step    4/4 " in line and line.endswith("at most 0 s left")
    assert f"lr {lr_at(3, 4, config):.2e}" in line


@pytest.mark.scripts
def test_a_finished_run_without_its_merged_files_merges_on_resume(train, tmp_path):
    assert train(*FEW, "--mode", "flow_only") == 0
    merged = tmp_path / "output" / "flow_merged_flow_only.pt"
    content = torch.load(merged, weights_only=True)
    merged.unlink()
    last = tmp_path / "output" / "joint_flow_only_last.ckpt"
    checkpoint = load_checkpoint(last)
    for name in ("epoch", "step"):  # earlier versions wrote them once, beside the adapters
        del checkpoint["training"][name]
    torch.save(checkpoint, last)
    assert train("--resume", str(last)) == 0
    assert_equal(torch.load(merged, weights_only=True), content)
    assert load_checkpoint(last)["step"] == checkpoint["step"]


@pytest.mark.slow
@pytest.mark.scripts
def test_a_prolonged_run_that_was_stopped_before_it_merged_merges_on_resume(
    train, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    """The merged files are there, but of the shorter run."""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    assert train(*FEW, "--mode", "flow_only") == 0
    merged = tmp_path / "output" / "flow_merged_flow_only.pt"
    short, last = merged.read_bytes(), tmp_path / "output" / "joint_flow_only_last.ckpt"
    monkeypatch.setattr(train_joint, "write_merged", stopped)
    assert train("--resume", str(last), "--epochs", "5") == 130
    assert merged.read_bytes() == short, "the old voice stays until the new one is there"
    monkeypatch.undo()
    assert train("--resume", str(last)) == 0
    assert "merged joint_flow_only_best.ckpt" in capsys.readouterr().out
    best = load_checkpoint(last.with_name("joint_flow_only_best.ckpt"))
    expected = merged_part(best, last, tiny_model_dir, "flow")
    assert_equal(torch.load(merged, weights_only=True), expected)
    before = merged.stat().st_mtime_ns
    assert train("--resume", str(last)) == 0
    assert "this run is finished (max_epochs = 5)" in capsys.readouterr().out
    assert merged.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.scripts
def test_a_run_resumed_without_its_best_checkpoint_looks_for_the_best_again(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "flow_only") == 0
    last = tmp_path / "output" / "joint_flow_only_last.ckpt"
    best = last.with_name("joint_flow_only_best.ckpt")
    best.unlink()
    assert train("--resume", str(last), "--epochs", "4") == 0
    assert "the best epoch is looked for again" in capsys.readouterr().out
    assert load_checkpoint(best)["best_epochs"]["flow"] in (3, 4)


@pytest.mark.slow
@pytest.mark.scripts
def test_a_run_whose_data_went_away_ends_with_one_line_and_goes_on_as_if_nothing_had_been(
    train, tmp_path, monkeypatch, capsys
):
    assert train(*FEW, "--mode", "flow_only", output="unbroken") == 0
    data, last = write_random_data(tmp_path / "data"), tmp_path / "output" / "joint_flow_only_last.ckpt"
    aside, original = tmp_path / "aside", mel_store.read_group

    def read_group(path: Path, group: int) -> list:
        if last.exists() and load_checkpoint(last)["step"] and data.exists():
            data.rename(aside)
        return original(path, group)

    monkeypatch.setattr(mel_store, "read_group", read_group)
    monkeypatch.setattr(dataset, "MelStore", lambda: mel_store.MelStore(budget_bytes=1))  # else all are kept by then
    assert train(*FEW, "--mode", "flow_only", data=data) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "put it back" in errors[0]
    monkeypatch.undo()
    aside.rename(data)
    assert train("--resume", str(last), data=data) == 0
    assert_equal(adapters(last), adapters(tmp_path / "unbroken" / last.name))


@pytest.mark.scripts
def test_a_run_saved_without_a_gradient_scaler_resumes_with_one(train, tiny_model_dir, data_dir, tmp_path):
    """A run begun on the CPU or in bf16 goes on in fp16 on an older card."""
    assert train(*FEW, "--mode", "flow_only") == 0
    last = tmp_path / "output" / "joint_flow_only_last.ckpt"
    checkpoint = load_checkpoint(last)
    config = load(["training_mode=flow_only"])[0]
    joint = JointModel(None, load_part(tiny_model_dir, "flow"), config)
    run = training.state.make_run(
        config, CPU, joint, torch.float16, ONE_BY_ONE, read_rows(data_dir), tmp_path / "output", 50, {}
    )
    run.identity = {key: checkpoint[key] for key in ("run_id", "base", "data", "speaker")}
    assert run.scaler.is_enabled() and checkpoint["training"]["scaler"] == {}
    run_files.restore(run, checkpoint, last)
    assert run.step == checkpoint["step"] and run.scaler.get_scale() == 65536


def stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer after one step."""
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def adamw(device: str, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(3, device=device))], fused=fused)


def test_a_run_begun_on_a_cpu_counts_its_steps_on_the_gpu_where_it_goes_on():
    """The fused kernel of a GPU reads the count there; a fake GPU has devices and no values."""
    saved = stepped(adamw("cpu", fused=False)).state_dict()
    with FakeTensorMode(allow_non_fake_inputs=True):
        resumed = adamw("cuda", fused=True)
        run_files.load_moments(resumed, saved)
    [(parameter, state)] = resumed.state.items()
    assert {value.device for value in state.values()} == {parameter.device} and resumed.param_groups[0]["fused"]


def test_a_run_begun_on_a_gpu_goes_on_on_a_cpu():
    saved, resumed = stepped(adamw("cpu", fused=False)).state_dict(), adamw("cpu", fused=False)
    saved["param_groups"][0] |= {"fused": True, "lr": 9.0}
    run_files.load_moments(resumed, saved)
    assert not resumed.param_groups[0]["fused"] and resumed.param_groups[0]["lr"] == 1e-3
    assert stepped(resumed).state_dict()["state"][0]["step"] == 2


@pytest.mark.parametrize(("clips", "taken"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (9, [0, 2, 4, 6])])
def test_the_base_is_measured_on_at_most_so_many_clips(clips, taken):
    assert [*spread_out(range(clips), 4)] == taken


@pytest.mark.scripts
def test_of_very_many_clips_the_base_is_measured_on_some(train, tmp_path, monkeypatch):
    measured, measure = [], JointModel.measure

    def count(model, name, clips, *more, **options):
        clips = [*clips]
        measured.append(len(clips))
        return measure(model, name, clips, *more, **options)

    monkeypatch.setattr("training.start.BASE_CLIPS", 3)
    monkeypatch.setattr(JointModel, "measure", count)
    assert train(*FEW, "--set", "validation_clips=0") == 0
    assert measured[:2] == [3, 3]


@pytest.mark.scripts
def test_two_runs_do_not_write_to_one_folder(train, tmp_path, capsys):
    with only_run(tmp_path / "output", "train_joint.py"):
        assert train(*FEW) == 2
    assert "is writing to" in (told := capsys.readouterr().err) and "another folder with --output-dir" in told


@pytest.mark.scripts
def test_a_resumed_run_is_not_told_of_a_flag_that_it_refuses(train, tmp_path, capsys):
    assert train("--epochs", "1", "--set", "eval_every_epochs=0") == 0
    with only_run(tmp_path / "output", "train_joint.py"):
        assert train("--resume", str(tmp_path / "output" / "joint_joint_last.ckpt"), "--epochs", "2") == 2
    told = capsys.readouterr().err
    assert told.endswith("wait for it, or copy the run to another folder and resume it there\n")


@pytest.mark.scripts
def test_each_part_freezes_at_its_own_threshold(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "joint", output="free") == 0
    free = load_checkpoint(tmp_path / "free" / "joint_joint_last.ckpt")["training"]["history"]
    assert free[1]["flow_train"] < free[0]["flow_train"]
    threshold = free[1]["flow_train"] * 1.0001
    assert train(*FEW, "--set", f"stop.flow_loss={threshold}", "--set", "stop.llm_loss=0") == 0
    training = load_checkpoint(tmp_path / "output" / "joint_joint_last.ckpt")["training"]
    assert f"reached stop.flow_loss = {threshold:g}" in training["parts"]["flow"]["stopped"]
    assert "flow stops: loss" in capsys.readouterr().out
    assert ["flow_train" in row for row in training["history"]] == [True, True, False]
    assert all("llm_train" in row for row in training["history"])


@pytest.mark.scripts
def test_the_rule_any_ends_the_run_at_the_first_threshold(train, tmp_path):
    rule = ("--set", "stop.rule=any", "--set", "stop.llm_loss=4.3", "--set", "stop.flow_loss=0")
    assert train("--epochs", "30", "--lr", "2e-2", "--set", "llm_lora.lora_dropout=0", *rule) == 0
    checkpoint = load_checkpoint(tmp_path / "output" / "joint_joint_last.ckpt")
    assert checkpoint["finished"] and checkpoint["epoch"] < 30
    assert not checkpoint["training"]["parts"]["flow"]["stopped"]


@pytest.mark.scripts
def test_a_part_whose_base_is_below_its_threshold_is_not_trained(train, tmp_path, capsys):
    assert train(*FEW, "--set", "stop.llm_loss=99") == 0
    assert "llm is not trained: the base model's loss" in capsys.readouterr().out
    state = adapters(tmp_path / "output" / "joint_joint_last.ckpt")
    assert all(not value.any() for key, value in state.items() if key.startswith("llm") and key.endswith("lora_B"))
    assert any(value.any() for key, value in state.items() if key.startswith("flow") and key.endswith("lora_B"))


@pytest.mark.scripts
def test_a_run_with_nothing_to_train_is_refused_and_moves_nothing(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "flow_only") == 0
    before = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert train(*FEW, "--mode", "flow_only", "--set", "stop.flow_loss=99") == 2
    assert "nothing to train: the base model is already below every threshold; lower stop.flow_loss" in (
        capsys.readouterr().err
    )
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == before


@pytest.mark.scripts
@pytest.mark.parametrize(
    ("clips", "settings", "why"),
    [
        (5, (), "too few to judge by"),
        (10, ("--set", "validation_clips=0"), "none, by validation_clips = 0"),
    ],
)
def test_without_held_out_clips_the_last_epoch_is_merged_and_it_says_why(clips, settings, why, train, tmp_path, capsys):
    data = write_random_data(tmp_path / "few", n_clips=clips)
    assert train(*FEW, "--mode", "flow_only", *settings, data=data) == 0
    assert f"0 held out ({why}: the last epoch is what gets merged)" in capsys.readouterr().out
    assert not (tmp_path / "output" / "joint_flow_only_best.ckpt").exists()
    assert (tmp_path / "output" / "flow_merged_flow_only.pt").exists()


@pytest.mark.scripts
def test_an_earlier_run_is_moved_aside_and_never_overwritten(train, tmp_path, capsys):
    assert train(*FEW, "--mode", "llm_only") == 0
    first = (tmp_path / "output" / "joint_llm_only_last.ckpt").read_bytes()
    assert train(*FEW, "--mode", "llm_only", "--seed", "5") == 0
    [moved] = (tmp_path / "output").glob("previous_*_1")
    assert f"it is now in {moved}" in capsys.readouterr().out
    assert (moved / "joint_llm_only_last.ckpt").read_bytes() == first
    assert (moved / "llm_merged_llm_only.pt").exists() and (moved / "spk2info.pt").exists()


def test_an_earlier_run_that_cannot_be_moved_stays_whole(tmp_path, monkeypatch):
    for name in ("joint_joint_last.ckpt", "joint_joint_best.ckpt"):
        (tmp_path / name).touch()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "base_1.wav").touch()
    before, original = sorted(tmp_path.rglob("*")), Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == "samples":  # as on Windows, where a player has a file in it open
            raise PermissionError(13, "in use", str(path))
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match="samples: in use; nothing was moved; close what has its files open"):
        move_previous_run(tmp_path, "joint")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".merged.lock"] == before


def test_what_was_measured_of_an_earlier_voice_goes_with_it(tmp_path):
    (tmp_path / "evaluation").mkdir()
    for name in ("joint_joint_last.ckpt", "evaluation/evaluation.html", "joint_joint.png", "notes.txt"):
        (tmp_path / name).touch()
    move_previous_run(tmp_path, "joint")
    [moved] = tmp_path.glob("previous_*")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", moved.name, ".merged.lock"}
    assert (moved / "evaluation" / "evaluation.html").is_file() and (moved / "joint_joint.png").is_file()


JOINT = [
    "joint_joint_last.ckpt",
    "joint_joint_best.ckpt",
    "joint_joint_epoch0002.ckpt",
    "llm_merged_joint.pt",
    "flow_merged_joint.pt",
    "joint_logs/joint/metrics.csv",
    "joint_joint.png",
    "evaluation/evaluation.html",
    "samples/sentences.txt",
]


@pytest.mark.parametrize(
    ("there", "mode", "moved", "copied"),
    [
        (JOINT, "joint", JOINT, ["spk2info.pt"]),
        (JOINT, "flow_only", ["samples/sentences.txt"], []),  # the new run speaks its own into samples/
        (JOINT[:-1], "llm_only", [], []),
        (["joint_logs/joint/metrics.csv"], "joint", ["joint_logs/joint/metrics.csv"], ["spk2info.pt"]),
        (["joint_logs/joint/metrics.csv"], "flow_only", [], []),
        (["joint_logs/joint/metrics.csv", "joint_logs/flow_only/metrics.csv"], "flow_only", None, ["spk2info.pt"]),
        (["samples/my_own.wav", "evaluation/page.html"], "joint", [], []),
    ],
)
def test_only_what_a_run_of_the_same_mode_left_makes_room(there, mode, moved, copied, tmp_path):
    for name in [*there, "spk2info.pt", "notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    moved = ["joint_logs/flow_only/metrics.csv"] if moved is None else moved
    move_previous_run(tmp_path, mode)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - {".merged.lock"}
    aside = {name.partition("/")[2] for name in found if name.startswith("previous_")}
    assert aside == {*moved, *copied}
    left = {name for name in found if not name.startswith("previous_")}
    assert left == {*there, "spk2info.pt", "notes.txt"} - {*moved}


def test_only_adapters_change(train, tiny_model_dir, data_dir, tmp_path):
    config = load(["accumulate_grad_batches=2", "learning_rate=0.01"])[0]
    joint = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    run = training.state.make_run(config, CPU, joint, torch.float32, ONE_BY_ONE, read_rows(data_dir), tmp_path, 50, {})
    before = {name: value.clone() for name, value in joint.state_dict().items()}
    for _ in range(2):  # the first step moves B only: A has no gradient while B is zero
        optimizer_step(run, [0, 1], SignalGuard())
    changed = {name for name, value in joint.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_a_last_epoch_that_was_not_heard_is_heard_when_the_run_goes_on(tiny_model_dir, data_dir, tmp_path):
    """Epoch 5 is no second one: it is due because it is the last, which a resumed run must know as well."""
    config = load(["max_epochs=5", "eval_every_epochs=2"])[0]
    joint = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    run = training.state.make_run(config, CPU, joint, torch.float32, ONE_BY_ONE, read_rows(data_dir), tmp_path, 50, {})
    run.audition, run.hearings = object(), [Heard(0, []), Heard(4, [])]
    run.chosen_by = run.criterion
    run.epoch, run.history = 5, [{"epoch": 5.0, "llm_train": 4.0, "flow_train": 3.0}]
    assert hearing_due(run)
    run.hearings.append(Heard(5, []))
    assert not hearing_due(run)


def test_an_interruption_in_the_first_epoch_does_not_settle_that_the_voice_is_heard_less_often(
    tiny_model_dir, data_dir, tmp_path
):
    """A resumed run has timed the rest of the epoch only."""
    config = load(["max_epochs=100", "accumulate_grad_batches=1", "training_mode=flow_only"])[0]
    joint = JointModel(None, load_part(tiny_model_dir, "flow"), config)
    run = training.state.make_run(config, CPU, joint, torch.float32, ONE_BY_ONE, read_rows(data_dir), tmp_path, 50, {})
    run.audition, run.hearings = object(), [Heard(0, [{}] * 4)]
    run.history = [{"epoch": 1, "step": 8, "flow_train": 1.0}]
    run.spent_sec["hearing"], run.sentences_heard = 8.0, 4
    assert run.steps_per_epoch == 8

    def settled(*step_sec: float) -> int:
        run.hear_every = 0
        run.step_sec.clear()
        run.step_sec.extend(step_sec)
        train_joint.settle_hearing(run)
        return run.hear_every

    assert settled(1.0, 30.0, 1.0) == settled(*[1.0] * 8) == 4  # 15 % of 800 s: 60 sentences, ten surely, two an epoch
    assert settled() == 0, "no step was timed: it is left to the next epoch"
    run.hearings = []
    assert settled(1.0) == 0, "nobody has heard the base: a run that was begun without listening"


@pytest.mark.parametrize("mode", ["flow_only", "joint"])
def test_the_time_left_knows_of_the_hearings_to_come(mode, tiny_model_dir, data_dir, tmp_path):
    config = load(["max_epochs=10", f"training_mode={mode}", "eval_every_epochs=4"])[0]
    joint = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    run = training.state.make_run(config, CPU, joint, torch.float32, ONE_BY_ONE, read_rows(data_dir), tmp_path, 50, {})
    assert hearing_left_sec(run) == 0, "nobody listens"
    run.audition = object()
    assert hearing_left_sec(run) == 0, "the base is still to be heard"
    run.hearings, run.sentences_heard = [Heard(0, [{}] * 6)], 6
    run.spent_sec = {"training": 0.0, "hearing": 12.0, "pitch": 5.0}
    voices, judged = 2 if mode == "joint" else 1, len(run.judged)  # where both are trained the flow alone is heard too
    assert hearing_left_sec(run) == 2.0 * voices * (3 * judged + 6) + 5.0, "epochs 4, 8 and 10, and what is merged"
    run.epoch = 4
    assert hearing_left_sec(run) == 2.0 * voices * (3 * judged + 6) + 5.0, "epoch 4 is still to be heard"
    run.hearings.append(Heard(4, []))
    run.sentences_heard, run.spent_sec["hearing"] = 12, 18.0
    assert hearing_left_sec(run) == 1.5 * voices * (2 * judged + 6) + 5.0
    run.hearings, run.epoch = run.hearings[:1], 9
    assert hearing_left_sec(run) == 1.5 * voices * (judged + 6) + 5.0, "a base that was heard late"
    run.step_sec.append(1.0)
    assert "listening" not in train_joint.step_line(run, {})
    run.hear_every = 0  # as in the first epoch where the settings leave it open
    assert train_joint.step_line(run, {}).endswith(" and listening left")


def test_the_settings_are_printed_and_nothing_else_happens(train, tmp_path, capsys):
    assert train("--print-config", "--lr", "1e-9", "--set", "stop.patience=7") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["learning_rate"] == 1e-9 and printed["stop"]["patience"] == 7
    assert not (tmp_path / "output").exists()


def test_finetune_yaml_of_the_model_sets_defaults(train, tiny_model_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "finetune.yaml").write_text("learning_rate: 3e-4\nstop: {llm_loss: 2.25}\n", encoding="utf-8")
    assert train("--print-config", model=model) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["learning_rate"], printed["stop"]["llm_loss"]) == (3e-4, 2.25)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_missing_data_names_the_command_to_run(train, tmp_path, capsys):
    assert train(data=tmp_path / "nothing") == 2
    assert "python prepare_joint_data.py" in capsys.readouterr().err


def test_a_missing_model_folder_is_named(train, tmp_path, capsys):
    assert train(model=tmp_path / "nothing") == 2
    assert "nothing does not exist; give the path of a folder" in capsys.readouterr().err


def test_data_prepared_with_other_extractors_is_refused(train, tiny_model_dir, data_dir, tmp_path, capsys):
    rows = pq.read_table(data_dir / "clips_000.parquet").to_pylist()
    other = tmp_path / "other"
    other.mkdir()
    write_shard(other / "a.parquet", rows, {"extractors": {"campplus.onnx": "0"}})
    (other / "data.list").write_text("a.parquet\n", encoding="utf-8")
    assert train(data=other) == 2
    message = capsys.readouterr().err
    assert f"{other} was prepared with another campplus.onnx than {tiny_model_dir} holds; give the model" in message
    assert "by --model-dir, or prepare it again: python prepare_joint_data.py" in message
    assert f"--input-dir FOLDER --model-dir {tiny_model_dir} --output-dir {other} --force, with the folder" in message


def test_token_ids_beyond_the_model_are_refused(train, data_dir, tmp_path, capsys):
    rows = pq.read_table(data_dir / "clips_000.parquet").to_pylist()
    rows[1]["speech_token"][3] = 64
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other" / "a.parquet", rows)
    (tmp_path / "other" / "data.list").write_text("a.parquet\n", encoding="utf-8")
    assert train(data=tmp_path / "other") == 2
    assert "clip '001': speech_token 64 is outside 0..63" in capsys.readouterr().err


def test_the_base_models_folder_is_not_written_to(train, tiny_model_dir, capsys):
    assert train("--output-dir", str(tiny_model_dir)) == 2
    message = "is the base model's folder, where no results go; choose another folder with --output-dir"
    assert message in capsys.readouterr().err


def test_running_out_of_gpu_memory_is_explained(train, monkeypatch, capsys):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_joint, "begin", no_memory)
    assert train() == 2
    assert "gradient_checkpointing=True" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(train, capsys):
    assert train("--device", "cuda:97") == 2
    assert "--device cuda:97 is not available" in capsys.readouterr().err


@pytest.mark.scripts
def test_what_a_resumed_run_cannot_change_is_refused(train, tmp_path, data_dir, capsys):
    assert train(*FEW, "--mode", "flow_only") == 0
    last = tmp_path / "output" / "joint_flow_only_last.ckpt"
    wrong = [
        (("--seed", "9"), "was trained with seed = 1234"),
        (("--set", "flow_lora.lora_r=4"), "was trained with flow_lora.lora_r = 16"),
        (("--mode", "joint"), "was trained with training_mode = flow_only"),
        (("--set", "flow_time=uniform"), "was trained with flow_time = cosine"),
        (("--set", "select_by=val_loss"), "was trained with select_by = audio"),
        (("--set", "speaker_name=bob"), "was trained with speaker_name = finetuned"),
        (("--set", "inference.flow_steps=4"), "was trained with inference.flow_steps = 8"),
        (("--output-dir", str(tmp_path / "elsewhere")), "leave out --output-dir"),
    ]
    for arguments, message in wrong:
        assert train("--resume", str(last), *arguments) == 2
        assert message in capsys.readouterr().err
    assert train("--resume", str(last), data=tmp_path / "nowhere") == 2
    assert f"nowhere does not exist; give --data-dir as where {last} was trained" in capsys.readouterr().err
    assert train("--resume", str(last), data=write_random_data(tmp_path / "other", seed=5)) == 2
    assert "is not the data that" in capsys.readouterr().err
    assert train("--resume", str(last.with_name("joint_flow_only_best.ckpt"))) == 2
    assert "resume from the _last.ckpt" in capsys.readouterr().err
    copy = shutil.copy(last, last.with_name("copy.ckpt"))
    assert train("--resume", str(copy)) == 2
    assert "name it joint_flow_only_last.ckpt" in capsys.readouterr().err
    last.write_bytes(last.read_bytes()[:-1000])
    assert train("--resume", str(last)) == 2
    assert "is not a readable checkpoint" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run(model):
    run = type("State", (), {"bad_steps": 0, "step": 7, "scaler": torch.amp.GradScaler("cpu", enabled=False)})()
    for _ in range(train_joint.MAX_BAD_STEPS - 1):
        train_joint.check_finite(run, {"llm": (math.nan, 1.0)})
    with pytest.raises(UserError, match="5 steps in a row"):
        train_joint.check_finite(run, {"llm": (1.0, math.inf)})
    run.bad_steps = 4
    train_joint.check_finite(run, {"llm": (1.0, 1.0)})
    assert run.bad_steps == 0


def test_half_precision_training_runs_on_the_cpu_too(tiny_model_dir, data_dir):
    """bf16 with frozen weights stored in half: the path of a GPU, at the CPU's speed."""
    config = load(["precision=bf16", "frozen_weights=half", "gradient_checkpointing=True"])[0]
    joint = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
    clips = read_rows(data_dir)[:3]
    full = {part: joint.measure(part, clips, CPU) for part in ("llm", "flow")}
    assert "gradient checkpointing on" in str(prepare_memory(joint, clips, config, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        loss = joint.loss("llm", collate_llm(clips), CPU)
        loss.mean.backward()
    assert all(parameter.grad is not None for name, parameter in joint.llm.named_parameters() if "lora_B" in name)
    for part, value in full.items():
        assert joint.measure(part, clips, CPU, torch.autocast("cpu", torch.bfloat16)) == pytest.approx(value, rel=0.02)
    assert adapter_state_dict(joint.llm)["llm.encoders.0.self_attn.linear_q.lora_A"].dtype == torch.float32
