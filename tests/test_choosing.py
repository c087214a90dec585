"""Whatever changes in how epochs are chosen while a run is going: what gets merged is the best of all at hand."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_data import write_random_data
from test_audition import hearing

import merge_joint_weights
import train_joint
from checkpoint import PARTS, load_checkpoint, merged_part
from common.signals import Interrupted
from config import UserError, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.utils.weights import load_state_dict_file
from dataset import read_rows, split_by
from llm_flow_model import JointModel, with_adapter
from lora import adapter_state_dict
from train_joint import main
from training.audition import Audition
from training.selection import Choice

CPU = torch.device("cpu")
FEW = ("--epochs", "4", "--lr", "2e-2", "--set", "accumulate_grad_batches=4", "--set", "eval_sentences=2")
pytestmark = pytest.mark.scripts


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(tiny_model_dir, data_dir, tmp_path, monkeypatch):
    """Runs train_joint.main in tmp_path/output, where voices are measured by `figures`; returns the exit code."""

    def hear(audition, numbers=None, trained=PARTS, between=lambda: None):
        count = 2 if numbers is None else len(numbers)
        between()
        found = {"similarity": 0.5}
        for name in trained:
            found |= figures(name, adapter_state_dict(audition.networks.part(name)))
        return [
            SimpleNamespace(text="Good morning.", wave=torch.zeros(1, 0), sample_rate=22050, figures=one)
            for one in hearing(**found)[:count]
        ]

    def make_audition(*given):
        audition = original(*given)
        if audition is not None:
            audition.real_similarity = math.nan  # as where no clip is held out: more similar is better, always
        return audition

    original = train_joint.make_audition
    monkeypatch.setattr(train_joint, "make_audition", make_audition)
    monkeypatch.setattr(Audition, "hear", hear)
    monkeypatch.setattr(Audition, "clips_clarity", lambda _: 50.0)
    monkeypatch.setattr(train_joint, "own_pitch", lambda *_: None)

    def run(*arguments: str) -> int:
        paths = ["--data-dir", data_dir, "--model-dir", tiny_model_dir, "--output-dir", tmp_path / "output"]
        return main([*map(str, paths), "--device", "cpu", *arguments])

    return run


def figures(name: str, adapter: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """What is heard of a part: any number that depends on its adapter, and the same of the base's each time."""
    number = sum(value.double().abs().sum() for key, value in adapter.items() if "lora_B" in key).item()
    draw = int(number * 1e6) % 7
    if name == "flow":
        return {"similarity": 0.5 + (0.06 * draw - 0.1 if number else 0)}
    return {"failed": (int(number > 0 and draw < 3), 0, 0, 0)}


# ---- what was at hand, told without the code under test --------------------------------------------------------------


class Witness:
    """Adapters of every epoch of a run, and what is best among some of them."""

    def __init__(self, model_dir: Path, data_dir: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        config = load([f"seed={seed}"])[0]
        self.model = JointModel(load_part(model_dir, "llm"), load_part(model_dir, "flow"), config)
        self.held_out = split_by(config, read_rows(data_dir))[1]
        self.trained: dict[int, dict] = {}
        original = train_joint.end_epoch

        def end_epoch(run, board):
            self.trained[run.epoch + 1] = {name: adapter_state_dict(run.model.part(name)) for name in run.parts}
            original(run, board)

        monkeypatch.setattr(train_joint, "end_epoch", end_epoch)

    def loss(self, name: str, adapter: Mapping[str, torch.Tensor]) -> float:
        with with_adapter(self.model.part(name), adapter):
            return self.model.measure(name, self.held_out, CPU)

    def zeros(self, name: str) -> dict[str, torch.Tensor]:
        return {key: torch.zeros_like(value) for key, value in adapter_state_dict(self.model.part(name)).items()}

    def best(self, name: str, adapters: Mapping[int, dict], criterion: str) -> int:
        """Epoch of the best; adapters: by epoch, without the base."""
        base, choice, lowest = hearing(), Choice(), (math.inf, 0)
        for epoch, adapter in sorted({0: self.zeros(name), **adapters}.items()):
            loss = self.loss(name, adapter)
            lowest = min(lowest, (loss, epoch))
            choice.takes(epoch, hearing(**figures(name, adapter))[:2], base[:2], name, loss, math.nan)
        return choice.epoch if criterion == "audio" else lowest[1]


def at_hand(output: Path) -> dict[str, dict[int, dict]]:
    """{part: {epoch: adapter}} in the files of a run that is going."""
    found: dict[str, dict[int, dict]] = {name: {} for name in PARTS}
    last = load_checkpoint(output / "joint_joint_last.ckpt")
    for path in [*output.glob("joint_joint_epoch*.ckpt"), *output.glob("joint_joint_best.ckpt")]:
        try:
            data = load_checkpoint(path)
        except UserError:  # damaged on purpose
            continue
        for name, epoch in data["best_epochs"].items() if data["run_id"] == last["run_id"] else ():
            found[name][epoch] = data["adapters"][name]
    for name, adapter in last["adapters"].items():
        if not last["training"]["group"]:
            found[name][last["epoch"]] = adapter
    for epochs in found.values():
        epochs.pop(0, None)
    return found


# ---- the ways --------------------------------------------------------------------------------------------------------


def interrupt(at: int, where: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Stop the run at this epoch as by Ctrl-C: "step" within it, "epoch" after it, before it is heard."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        if where == "step":
            original = train_joint.check_finite

            def check(run, results):
                original(run, results)
                if run.epoch == at - 1 and run.group == 1:
                    raise Interrupted(2)

            patch.setattr(train_joint, "check_finite", check)
            return
        original_end = train_joint.end_epoch

        def end(run, board):
            original_end(run, board)
            if run.epoch == at:
                raise Interrupted(2)

        patch.setattr(train_joint, "end_epoch", end)

    return apply


@dataclass(frozen=True)
class Way:
    """One way in which the choosing changes between start and end of a run."""

    first: tuple[str, ...]  # settings of the run that is interrupted
    then: tuple[str, ...]  # and when it goes on
    criterion: str  # in force at the end
    at: int = 3  # the epoch at which it is interrupted; 0: it comes to its end
    where: str = "epoch"
    spoil: Callable[[Path], None] = lambda output: None  # what happens to its files in between


def every(epochs: object) -> tuple[str, ...]:
    return "--set", f"eval_every_epochs={epochs}"


def kept(epochs: int) -> tuple[str, ...]:
    return "--set", f"keep_every_epochs={epochs}"


def gone(output: Path) -> None:
    (output / "joint_joint_best.ckpt").unlink()


def damaged(output: Path) -> None:
    path = output / "joint_joint_best.ckpt"
    path.write_bytes(path.read_bytes()[:-999])


def of_another_run(output: Path) -> None:
    path = output / "joint_joint_best.ckpt"
    torch.save({**load_checkpoint(path), "run_id": "another"}, path)


def of_an_earlier_version(output: Path) -> None:
    path = output / "joint_joint_best.ckpt"
    torch.save(
        {key: value for key, value in load_checkpoint(path).items() if key not in ("choices", "chosen_by")}, path
    )


WAYS = {
    "no longer heard": Way(every(4), every(0), "val_loss"),
    "no longer heard, within an epoch": Way((*every(1), *kept(1)), every(0), "val_loss", where="step"),
    "no longer heard, after one epoch": Way(every(4), every(0), "val_loss", at=1),
    "no longer heard, nor trained": Way(every(1), (*every(0), "--epochs", "3"), "val_loss"),
    "no longer heard, at the end": Way(every(1), every(0), "val_loss", at=0),
    "no longer heard, prolonged": Way(every(2), (*every(0), "--epochs", "6"), "val_loss", at=0),
    "no longer heard, with epochs kept": Way((*every(1), *kept(1)), every(0), "val_loss"),
    "no longer heard, with another batch": Way(
        every(4), (*every(0), "--set", "accumulate_grad_batches=2"), "val_loss", where="step"
    ),
    "no longer heard, stopped by its loss": Way(every(4), (*every(0), "--set", "stop.llm_loss=90"), "val_loss"),
    "no longer heard, stopped within an epoch": Way(
        every(4), (*every(0), "--set", "stop.llm_loss=90", "--epochs", "2"), "val_loss", where="step"
    ),
    "no longer heard, best gone": Way((*every(2), *kept(2)), every(0), "val_loss", spoil=gone),
    "no longer heard, best damaged": Way(every(2), every(0), "val_loss", spoil=damaged),
    "no longer heard, of an earlier version": Way(every(2), every(0), "val_loss", spoil=of_an_earlier_version),
    "heard from then on": Way(every(0), every(1), "audio"),
    "heard from then on, with epochs kept": Way((*every(0), *kept(1)), every(1), "audio"),
    "heard from then on, within an epoch": Way(every(0), every(1), "audio", where="step"),
    "heard from then on, with another batch": Way(
        every(0), (*every(1), "--set", "accumulate_grad_batches=2"), "audio", where="step"
    ),
    "heard from then on, at the end": Way((*every(0), *kept(2)), every(1), "audio", at=0),
    "heard from then on, prolonged": Way(every(0), (*every(1), "--epochs", "6"), "audio", at=0),
    "heard from then on, of an earlier version": Way(every(0), every(1), "audio", spoil=of_an_earlier_version),
    "heard more often": Way(every(4), every(1), "audio"),
    "heard as seldom as it takes": Way(every(1), every("auto"), "audio"),
    "heard, best gone": Way((*every(1), *kept(1)), every(1), "audio", spoil=gone),
    "heard, best of another run": Way(every(1), every(1), "audio", spoil=of_another_run),
    "heard, best damaged": Way(every(1), every(1), "audio", spoil=damaged),
    "heard, of an earlier version": Way(every(1), every(1), "audio", spoil=of_an_earlier_version),
    "by loss, best gone": Way((*every(0), *kept(1)), every(0), "val_loss", spoil=gone),
    "by loss, best damaged at the end": Way((*every(0), *kept(1)), every(0), "val_loss", at=0, spoil=damaged),
    "by loss, with another batch": Way(
        every(0), (*every(0), "--set", "accumulate_grad_batches=2", "--lr", "1e-3"), "val_loss", where="step"
    ),
    "by loss, heard all the same": Way(
        (*every(0), "--set", "select_by=val_loss"), (*every(1), "--epochs", "5"), "val_loss", at=2
    ),
}
FAST = ("no longer heard, nor trained", "heard from then on, with epochs kept")


@pytest.mark.parametrize(
    "way", [pytest.param(way, id=name, marks=() if name in FAST else pytest.mark.slow) for name, way in WAYS.items()]
)
def test_what_is_merged_is_the_best_of_all_epochs_at_hand(
    way, train, tiny_model_dir, data_dir, tmp_path, monkeypatch, capsys, seed=1234, lr="2e-2"
):
    output = tmp_path / "output"
    monkeypatch.setattr("training.listening.why_alone", lambda *_: "")
    monkeypatch.setattr("training.listening.why_further", lambda *_: "")
    with monkeypatch.context() as patch:
        if way.at:
            interrupt(way.at, way.where)(patch)
        assert train(*FEW, "--lr", lr, "--seed", str(seed), *way.first) == (130 if way.at else 0)
    way.spoil(output)
    found, witness = at_hand(output), Witness(tiny_model_dir, data_dir, seed, monkeypatch)
    capsys.readouterr()
    assert train("--resume", str(output / "joint_joint_last.ckpt"), *way.then) == 0
    printed = capsys.readouterr().out
    best = load_checkpoint(output / "joint_joint_best.ckpt")
    history = load_checkpoint(output / "joint_joint_last.ckpt")["training"]
    heard = {one["epoch"] for one in history["hearings"]}
    trained = {name: {int(row["epoch"]) for row in history["history"] if f"{name}_train" in row} for name in PARTS}
    for name in PARTS:
        judged = {
            epoch: adapters[name]
            for epoch, adapters in witness.trained.items()
            if epoch in trained[name] and (way.criterion == "val_loss" or epoch in heard)
        }
        epoch = witness.best(name, found[name] | judged, way.criterion)
        assert best["best_epochs"][name] == epoch, f"{name}: {sorted(found[name])} and {sorted(judged)} were at hand"
        words = f"merged epoch {epoch}" if epoch else "merged as in the base model"
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name}: ")]
        assert words in line, line
        if epoch:
            assert epoch in at_hand(output)[name], "the epoch that is merged is kept"
            chosen = (found[name] | judged)[epoch]
            assert all(torch.equal(best["adapters"][name][key], value) for key, value in chosen.items())
        merged = load_state_dict_file(output / f"{name}_merged_joint.pt")
        expected = merged_part(best, output / "joint_joint_best.ckpt", tiny_model_dir, name)
        assert all(torch.equal(merged[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_where_no_clip_is_held_out_and_nobody_listens_any_more_the_last_epoch_is_merged(
    train, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    """What was chosen by its sound is moved aside and not lost, nor merged later for the best."""
    output = tmp_path / "output"
    with monkeypatch.context() as patch:
        interrupt(3, "epoch")(patch)
        assert train(*FEW, *every(1), "--set", "validation_clips=0") == 130
    last = output / "joint_joint_last.ckpt"
    assert train("--resume", str(last), *every(0)) == 0
    assert "the last epoch is what gets merged" in capsys.readouterr().out
    assert len([*output.glob("previous_*/joint_joint_best.ckpt")]) == 1
    merge_joint_weights.main(["--output-dir", str(output), "--model-dir", str(tiny_model_dir)])
    assert capsys.readouterr().out.startswith(f"{last}: ")
    for name in PARTS:
        expected = merged_part(load_checkpoint(last), last, tiny_model_dir, name)
        merged = load_state_dict_file(output / f"{name}_merged_joint.pt")
        assert all(torch.equal(merged[key], value) for key, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("lr", ["2e-2", "1e-6"])
def test_a_run_killed_between_two_checkpoints_keeps_the_better_epoch(
    lr, train, tiny_model_dir, data_dir, tmp_path, monkeypatch
):
    """`_best` is then of an epoch that `_last` does not know, and that may come out otherwise the second time."""
    output = tmp_path / "output"
    original = train_joint.save_last

    def save_last(run):
        if run.epoch == 3:
            raise KeyboardInterrupt
        original(run)

    with monkeypatch.context() as patch:
        patch.setattr(train_joint, "save_last", save_last)
        assert train(*FEW, "--lr", "2e-2", *every(0)) == 130
    last = output / "joint_joint_last.ckpt"
    found, witness = at_hand(output), Witness(tiny_model_dir, data_dir, 1234, monkeypatch)
    assert load_checkpoint(last)["epoch"] == 2
    assert train("--resume", str(last), "--lr", lr) == 0
    best = load_checkpoint(output / "joint_joint_best.ckpt")
    for name in PARTS:
        adapters = [*found[name].values(), *(one[name] for one in witness.trained.values())]
        lowest = min(map(partial(witness.loss, name), [*adapters, witness.zeros(name)]))
        assert witness.loss(name, best["adapters"][name]) == lowest


@pytest.mark.parametrize("criterion", ["val_loss", pytest.param("", marks=pytest.mark.slow)])
def test_a_merge_that_is_stopped_after_the_choosing_changed_is_made_up_for(
    criterion, train, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    """Of a run that was finished, and judged by its sound until then; the setting need not be given again."""
    output, last = tmp_path / "output", tmp_path / "output" / "joint_joint_last.ckpt"
    none_held_out = () if criterion else ("--set", "validation_clips=0")
    assert train(*FEW, *every(1), *none_held_out) == 0

    def stop(*_: object) -> None:
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(train_joint, "merge", stop)
        assert train("--resume", str(last), *every(0)) == 130
    capsys.readouterr()
    assert train("--resume", str(last)) == 0
    assert "this run is finished" not in capsys.readouterr().out
    chosen = output / "joint_joint_best.ckpt" if criterion else last
    assert load_checkpoint(chosen).get("chosen_by", "") == criterion
    for name in PARTS:
        expected = merged_part(load_checkpoint(chosen), chosen, tiny_model_dir, name)
        merged = load_state_dict_file(output / f"{name}_merged_joint.pt")
        assert all(torch.equal(merged[key], value) for key, value in expected.items())
