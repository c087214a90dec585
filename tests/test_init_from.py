"""train_joint.py --init-from: a new run that starts from a checkpoint's adapters, and keeps what it does not train."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from random_data import write_random_data

import train_joint
from checkpoint import PARTS, base_warning, checkpoint_config, epoch_words, load_checkpoint, merged_part, strength_words
from common.signals import Interrupted
from cosyvoice.utils.weights import load_state_dict_file
from dataset import read_rows, split_by
from train_joint import main
from training.audition import Audition
from training.selection import Choice

FEW = ("--epochs", "2", "--lr", "1e-2", "--set", "accumulate_grad_batches=4")
DEAF = ("--set", "eval_every_epochs=0")
pytestmark = pytest.mark.scripts


def trainer(model_dir: Path, data_dir: Path):
    """Runs train_joint.main in a folder; returns the exit code."""

    def run(output: Path, *arguments: object, data: Path = data_dir) -> int:
        paths = ["--data-dir", data, "--model-dir", model_dir, "--output-dir", output, "--device", "cpu"]
        return main([*map(str, paths), *FEW, *map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(tiny_model_dir, data_dir):
    return trainer(tiny_model_dir, data_dir)


@pytest.fixture(scope="module")
def first(tiny_model_dir, data_dir, tmp_path_factory) -> Path:
    """`_best.ckpt` of a joint run whose parts were merged at strengths of their own, with another rank."""
    output = tmp_path_factory.mktemp("first")
    settings = ("llm_lora.merge_scale=0.7", "flow_lora.merge_scale=0.9", "llm_lora.lora_r=4", "keep_every_epochs=1")
    given = [word for setting in settings for word in ("--set", setting)]
    assert trainer(tiny_model_dir, data_dir)(output, *DEAF, *given) == 0
    path = output / "joint_joint_best.ckpt"
    data = load_checkpoint(output / "joint_joint_epoch0002.ckpt")
    torch.save(data, path)  # random data may have chosen the base
    return path


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("mode", ["flow_only", "llm_only"])
def test_a_run_starts_where_the_checkpoint_was_and_keeps_the_other_part(
    mode, first, train, tiny_model_dir, tmp_path, capsys
):
    trained, other = PARTS[:: -1 if mode == "flow_only" else 1]
    output = tmp_path / "output"
    assert train(output, "--mode", mode, "--init-from", first, *DEAF) == 0
    printed = capsys.readouterr().out
    last, best = (load_checkpoint(output / f"joint_{mode}_{kind}.ckpt") for kind in ("last", "best"))
    history = load_checkpoint(first.with_name("joint_joint_last.ckpt"))["training"]["history"]
    part = last["training"]["parts"][trained]
    assert part["base_held_out"] == history[-1][f"{trained}_held_out"]
    assert f"start {trained}: loss " in printed and "base model" not in printed
    assert last["run_id"] != load_checkpoint(first)["run_id"] and last["epoch"] == 2
    for checkpoint in (last, best):
        assert equal(checkpoint["adapters"][other], load_checkpoint(first)["adapters"][other])
        kept = merged_part(load_checkpoint(first), first, tiny_model_dir, other)
        assert equal(merged_part(checkpoint, output, tiny_model_dir, other), kept)
    assert equal(load_state_dict_file(output / f"{other}_merged_{mode}.pt"), kept)
    assert not equal(last["adapters"][trained], load_checkpoint(first)["adapters"][trained])
    config = checkpoint_config(last, output)
    assert (config.llm_lora.lora_r, config.llm_lora.merge_scale, config.flow_lora.merge_scale) == (4, 0.7, 0.9)
    assert f"{other} epoch 2 of joint_joint_best.ckpt" in epoch_words(best, PARTS)
    assert f"{trained} epoch 2" in epoch_words(last, [trained]) and "of" not in epoch_words(last, [trained])
    assert strength_words(last, output, 1.0) == " at strength llm 0.7, flow 0.9"


def test_both_parts_of_a_joint_run_start_there_in_the_same_folder(first, train, tmp_path, capsys):
    output = tmp_path / "output"
    shutil.copytree(first.parent, output)
    assert train(output, "--init-from", output / first.name, *DEAF, "--lr", "1e-9", "--epochs", "1") == 0
    printed = capsys.readouterr().out
    moved = re.search(r"now in (\S+)", printed)[1]
    assert (Path(moved) / first.name).is_file()
    last = load_checkpoint(output / "joint_joint_last.ckpt")
    for name, adapter in load_checkpoint(first)["adapters"].items():
        assert all(torch.allclose(last["adapters"][name][key], value, atol=1e-6) for key, value in adapter.items())
    assert last["start"] == {name: {"file": first.name, "epoch": 2} for name in PARTS}


@pytest.mark.parametrize("mode", ["flow_only", pytest.param("joint", marks=pytest.mark.slow)])
def test_what_no_epoch_beats_is_the_start_and_not_the_base(
    mode, first, train, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "output"
    monkeypatch.setattr(Choice, "takes_by_loss", lambda *_: False)
    assert train(output, "--mode", mode, "--init-from", first, *DEAF) == 0
    printed = capsys.readouterr().out
    assert re.search("no epoch( at hand)? beat the start on held-out clips", printed)
    assert "merged as at the start" in printed
    assert "speak as at the start" in printed and "base model" not in printed and "as in the base" not in printed
    best, path = load_checkpoint(output / f"joint_{mode}_best.ckpt"), output / f"joint_{mode}_best.ckpt"
    assert all(equal(best["adapters"][name], adapter) for name, adapter in load_checkpoint(first)["adapters"].items())
    assert "so it speaks as the start: llm epoch 2 of joint_joint_best.ckpt" in base_warning(best, path)
    for name in PARTS:
        kept = merged_part(load_checkpoint(first), first, tiny_model_dir, name)
        assert equal(load_state_dict_file(output / f"{name}_merged_{mode}.pt"), kept)


@pytest.mark.parametrize("mode", ["flow_only", pytest.param("joint", marks=pytest.mark.slow)])
def test_a_run_that_started_elsewhere_resumes_exactly_and_without_that_file(mode, first, train, tmp_path, monkeypatch):
    """Within an epoch, and what it is left with at the end is heard against the start."""
    heard: list[tuple] = []
    original_hear = Audition.hear

    def hear(audition, numbers=None, trained=PARTS, between=lambda: None):
        spoken = original_hear(audition, numbers, trained, between)
        heard.append((tuple(trained), [sentence.figures for sentence in spoken]))
        return spoken

    monkeypatch.setattr(Audition, "hear", hear)
    brief = ("--set", "inference.max_token_text_ratio=4", "--set", "eval_sentences=2", "--set", "eval_every_epochs=2")
    copy = tmp_path / "copy.ckpt"
    shutil.copy(first, copy)
    given = ("--mode", mode, "--init-from", copy, *brief)
    assert train(tmp_path / "unbroken", *given) == 0
    unbroken, heard[:] = [*heard], []
    original = train_joint.check_finite

    def check(run, results):
        original(run, results)
        if run.step == 1:
            raise Interrupted(15)

    monkeypatch.setattr(train_joint, "check_finite", check)
    assert train(tmp_path / "output", *given) == 143
    monkeypatch.setattr(train_joint, "check_finite", original)
    copy.unlink()
    last = tmp_path / "output" / f"joint_{mode}_last.ckpt"
    assert train(tmp_path / "output", "--resume", last) == 0
    for kind in ("last", "best"):
        one, other = (
            load_checkpoint(tmp_path / folder / f"joint_{mode}_{kind}.ckpt") for folder in ("output", "unbroken")
        )
        assert all(equal(one["adapters"][name], other["adapters"][name]) for name in PARTS)
        assert one["start"] == other["start"]
    assert heard == unbroken


def test_what_is_heard_first_is_the_start(first, train, tiny_model_dir, tmp_path, capsys):
    """And not the base: its merged files speak alike."""
    spoken = []
    original = Audition.hear

    def hear(audition, numbers=None, trained=PARTS, between=lambda: None):
        spoken.append((tuple(trained), audition.said([0], trained)[0][0].tokens))
        return original(audition, numbers, trained, between)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Audition, "hear", hear)
        brief = ("--set", "inference.max_token_text_ratio=4", "--set", "eval_sentences=2", "--epochs", "1")
        assert train(tmp_path / "output", "--mode", "flow_only", "--init-from", first, *brief) == 0
    printed = capsys.readouterr().out
    assert (
        "heard the start: " in printed and "start -> merged, 2 sentences" in printed and "heard the base" not in printed
    )
    assert (tmp_path / "output" / "samples" / "start_1.wav").exists()
    assert spoken[0][0] == () and all(tokens == spoken[0][1] for _, tokens in spoken), "the LLM stays as it is"


def test_a_part_that_is_as_in_the_base_starts_there_and_can_learn(first, train, tmp_path, capsys):
    """A flow that was left out is all zeros, of which nothing would ever be learned."""
    data = load_checkpoint(first)
    zeros = {key: torch.zeros_like(value) for key, value in data["adapters"]["flow"].items()}
    data |= {"adapters": data["adapters"] | {"flow": zeros}, "best_epochs": {"llm": 2, "flow": 0}}
    torch.save(data, tmp_path / "left_out.ckpt")
    output = tmp_path / "output"
    assert train(output, "--mode", "flow_only", "--init-from", tmp_path / "left_out.ckpt", *DEAF) == 0
    last = load_checkpoint(output / "joint_flow_only_last.ckpt")
    assert any(value.any() for key, value in last["adapters"]["flow"].items() if "lora_B" in key)
    assert list(last["start"]) == ["llm"]
    assert "start: " in capsys.readouterr().out


def test_a_run_that_started_elsewhere_can_be_started_from(first, train, tmp_path):
    """Each part keeps where it came from; the newest state of a run will do as well."""
    assert train(tmp_path / "second", "--mode", "flow_only", "--init-from", first, *DEAF) == 0
    last = tmp_path / "second" / "joint_flow_only_last.ckpt"
    assert train(tmp_path / "third", "--mode", "flow_only", "--init-from", last, *DEAF, "--epochs", "1") == 0
    words = epoch_words(load_checkpoint(tmp_path / "third" / last.name), PARTS)
    assert words == "llm epoch 2 of joint_joint_best.ckpt, flow epoch 1"
    assert load_checkpoint(tmp_path / "third" / last.name)["start"]["flow"] == {"file": last.name, "epoch": 2}


def test_mistakes_with_the_checkpoint_to_start_from(first, train, tmp_path, capsys):
    damaged, other_base, elsewhere = (tmp_path / f"{name}.ckpt" for name in ("damaged", "base", "fit"))
    damaged.write_bytes(first.read_bytes()[:-1000])
    data = load_checkpoint(first)
    torch.save({**data, "base": {"llm.pt": "0", "flow.pt": "0"}}, other_base)
    adapters = data["adapters"] | {"flow": {f"other.{key}": value for key, value in data["adapters"]["flow"].items()}}
    torch.save({**data, "adapters": adapters}, elsewhere)
    wrong = [
        ((tmp_path / "missing.ckpt",), "missing.ckpt"),
        ((damaged,), "is not a readable checkpoint"),
        ((other_base,), "was trained on another llm.pt and flow.pt"),
        ((elsewhere,), "fit.ckpt does not fit the flow: "),
        ((first, "--set", "flow_lora.lora_r=4"), "flow_lora.lora_r = 16"),
        ((first, "--set", "llm_lora.merge_scale=1.0"), "llm_lora.merge_scale = 0.7"),
    ]
    for arguments, message in wrong:
        assert train(tmp_path / "output", *DEAF, "--mode", "flow_only", "--init-from", *arguments) == 2
        told = capsys.readouterr().err
        (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
        assert message in line
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "output", "--resume", first, "--init-from", first)
    assert stopped.value.code == 2
    assert not (tmp_path / "output" / "joint_flow_only_last.ckpt").exists()


@pytest.mark.parametrize(("seed", "told"), [("1234", False), ("5", True)])
def test_clips_that_the_start_was_trained_on_are_warned_of_where_they_are_held_out(
    seed, told, first, train, tmp_path, capsys
):
    given = ("--mode", "flow_only", "--init-from", first, *DEAF, "--epochs", "1", "--seed", seed)
    assert train(tmp_path / "output", *given) == 0
    assert ("clips that are held out now" in capsys.readouterr().out) == told


def test_a_known_clip_that_is_held_out_is_told_also_after_clips_were_added(first, train, tmp_path, capsys):
    data = write_random_data(tmp_path / "data", n_clips=14)
    given = ("--mode", "flow_only", *DEAF, "--epochs", "1", "--init-from")
    assert train(tmp_path / "output", *given, first, data=data) == 0
    config = checkpoint_config(load_checkpoint(tmp_path / "output" / "joint_flow_only_last.ckpt"), tmp_path)
    held_out = {clip.fingerprint for clip in split_by(config, read_rows(data))[1]}
    known = held_out & {*load_checkpoint(first)["trained_on"]}
    assert known, "the test needs another seed"
    assert f"was trained on {len(known)} of the {len(held_out)} clips" in capsys.readouterr().out


def test_clips_that_an_earlier_start_was_trained_on_stay_known(first, train, tmp_path):
    second = ("--mode", "flow_only", *DEAF, "--epochs", "1", "--seed", "5", "--init-from", first)
    assert train(tmp_path / "second", *second) == 0
    last = tmp_path / "second" / "joint_flow_only_last.ckpt"
    assert {*load_checkpoint(first)["trained_on"]} <= {*load_checkpoint(last)["trained_on"]}
    assert train(tmp_path / "second", "--resume", last, "--epochs", "2") == 0
    assert {*load_checkpoint(first)["trained_on"]} <= {*load_checkpoint(last)["trained_on"]}


def test_another_voice_and_another_name_are_warned_of(first, train, tmp_path, capsys):
    data = write_random_data(tmp_path / "data", seed=9)
    given = ("--mode", "flow_only", "--init-from", first, *DEAF, "--epochs", "1", "--set", "speaker_name=anna")
    assert train(tmp_path / "output", *given, data=data) == 0
    printed = capsys.readouterr().out
    assert "is of another voice than these clips" in printed and "called 'finetuned', this one 'anna'" in printed
    assert load_checkpoint(tmp_path / "output" / "joint_flow_only_best.ckpt")["speaker"]["name"] == "anna"
