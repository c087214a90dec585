"""training/step.py: the gradient of a step is the same however its clips are packed."""

import math
from pathlib import Path

import pytest
import torch
from random_data import write_random_data

import training.step
from common.signals import SignalGuard
from config import UserError, load
from cosyvoice.cli.cosyvoice import load_part
from dataset import Clip, llm_positions, read_rows
from llm_flow_model import JointModel, batch_units
from lora import adapter_parameters, adapter_state_dict
from training.state import Run, epoch_groups, make_run

CPU = torch.device("cpu")
NO_DROPOUT = ["llm_lora.lora_dropout=0", "flow_lora.lora_dropout=0"]
BUDGETS = [200, 500, 100_000]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return read_rows(write_random_data(tmp_path_factory.mktemp("data")))


@pytest.fixture
def new_run(tiny_model_dir, clips, tmp_path):
    """A run over the tiny model whose adapters are random, as they are after some steps."""

    def make(*overrides: str, dtype: torch.dtype = torch.float32) -> Run:
        config = load(["validation_clips=0", "max_feat_len=100", *(overrides or NO_DROPOUT)])[0]
        torch.manual_seed(0)
        model = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
        for name in ("llm", "flow"):
            for parameter in adapter_parameters(model.part(name)):
                torch.nn.init.normal_(parameter, std=0.05)
        frames = {"llm": 1, "flow": 1}
        return make_run(config, CPU, model, dtype, frames, clips, Path(tmp_path), 50, {})

    return make


def gradient(run: Run, part: str, budget: int) -> tuple[torch.Tensor, float, int]:
    """(all gradients of a step over every clip as one vector, its loss, number of micro-batches)."""
    run.batch_frames[part] = budget
    run.model.zero_grad()
    loss = training.step.accumulate_gradient(run, run.parts[part], run.train_clips, 1234, SignalGuard())
    vector = torch.cat([parameter.grad.flatten() for parameter in adapter_parameters(run.model.part(part))])
    return vector, float(loss), len(training.step.micro_batches(run, run.parts[part], run.train_clips))


@pytest.mark.parametrize("part", ["llm", "flow"])
def test_the_gradient_of_a_step_does_not_depend_on_how_its_clips_are_packed(part, new_run):
    run = new_run()
    alone, loss, count = gradient(run, part, 1)
    assert count == len(run.train_clips) and alone.norm() > 0
    counts = {count}
    for budget in BUDGETS:
        packed, packed_loss, count = gradient(run, part, budget)
        assert packed_loss == pytest.approx(loss, rel=1e-6)
        assert (packed - alone).norm() < 1e-6 * alone.norm()
        counts.add(count)
    assert len(counts) > 2, "the budgets were to pack differently"


def test_the_gradient_does_not_depend_on_the_order_of_the_clips(new_run):
    run = new_run()
    one = gradient(run, "flow", 1)[0]
    run.train_clips.reverse()
    other = gradient(run, "flow", 1)[0]
    assert (one - other).norm() < 1e-6 * one.norm()


def test_a_clip_weighs_what_its_batch_says_that_it_holds(new_run):
    run = new_run()
    for part, own_part in run.parts.items():
        for clip in run.train_clips:
            [batch] = training.step.micro_batches(run, own_part, [clip])
            assert training.step.clip_units(run, own_part, clip) == batch_units(part, batch)


def test_the_loss_of_a_step_is_the_mean_over_its_clips(new_run):
    run = new_run("llm_lora.lora_dropout=0", "flow_lora.lora_dropout=0", "learning_rate=1e-9")
    results = training.step.optimizer_step(run, [2, 5], SignalGuard())
    for name, part in run.parts.items():
        batches = [training.step.micro_batches(run, part, [run.train_clips[number]])[0] for number in (2, 5)]
        losses = [run.model.loss(name, batch, CPU) for batch in batches]
        mean = sum(loss.mean.item() * loss.count for loss in losses) / sum(loss.count for loss in losses)
        assert results[name][0] == pytest.approx(mean, rel=1e-6)


def test_a_clip_is_drawn_anew_in_every_epoch_and_alike_within_one(new_run):
    run = new_run()
    clip = run.train_clips[-1]
    first, again = (training.step.flow_draw(run, clip) for _ in range(2))
    run.epoch += 1
    later = training.step.flow_draw(run, clip)
    assert torch.equal(first.noise, again.noise) and first.t == again.t
    assert first.t != later.t and not torch.equal(first.noise, later.noise)


def test_no_batch_is_larger_than_the_budget_unless_it_is_one_clip(new_run):
    run = new_run()
    run.batch_frames = {"llm": 250, "flow": 250}
    for part, key in (("llm", "speech_token"), ("flow", "speech_feat")):
        batches = training.step.micro_batches(run, run.parts[part], run.train_clips)
        assert sum(len(batch[key]) for batch in batches) == len(run.train_clips)
        lengths = [batch[key].shape[1] for batch in batches]
        assert lengths == sorted(lengths, reverse=True) and max(len(batch[key]) for batch in batches) > 1
        assert all(len(batch[key]) == 1 or batch[key].shape[0] * batch[key].shape[1] <= 250 for batch in batches)
    assert max(map(llm_positions, run.train_clips)) < 250


def test_only_the_product_of_batch_size_and_accumulation_counts(new_run):
    one, other = (
        new_run(*NO_DROPOUT, *grouping)
        for grouping in (["batch_size=4", "accumulate_grad_batches=2"], ["accumulate_grad_batches=8"])
    )
    results = [training.step.optimizer_step(run, [3, 1, 4, 5], SignalGuard()) for run in (one, other)]
    assert results[0] == results[1]
    assert epoch_groups(20, 0, one.config) == epoch_groups(20, 0, other.config)
    assert [len(group) for group in epoch_groups(20, 0, one.config)] == [8, 8, 4]


@pytest.mark.parametrize("part", ["llm", "flow"])
def test_no_number_is_read_from_the_device_while_gradients_add_up(part, new_run):
    """Tensors on the meta device have no values: reading one, as by float() or a boolean index, raises."""
    run = new_run()
    run.batch_frames[part] = 500
    run.model.to("meta")
    run.device = torch.device("meta")
    loss = training.step.accumulate_gradient(run, run.parts[part], run.train_clips, 1234, SignalGuard())
    assert loss.device.type == "meta"
    assert all(parameter.grad.device.type == "meta" for parameter in adapter_parameters(run.model.part(part)))


# ---- fp16, as on cards that have no bf16 -----------------------------------------------------------------------------


def weights(run: Run) -> dict[str, torch.Tensor]:
    """{part: its adapter as one vector}."""
    names = ("llm", "flow")
    return {name: torch.cat([p.detach().flatten() for p in adapter_parameters(run.model.part(name))]) for name in names}


def step(run: Run) -> dict[str, tuple[float, float]]:
    """One optimizer step on the shortest clip."""
    results = training.step.optimizer_step(run, [0], SignalGuard())
    run.step += 1
    return results


def test_steps_in_fp16_are_those_in_float32(new_run):
    """A number of fp16 is rounded to one part in 2048, which mostly cancels in the mean over a clip.

    Adam divides each gradient by its own size: where one is near zero its direction may turn, in 2 % of the way here.
    """
    runs = new_run(*NO_DROPOUT, "learning_rate=0.01"), new_run(*NO_DROPOUT, "learning_rate=0.01", dtype=torch.float16)
    before = weights(runs[0])
    for _ in range(3):
        full, half = map(step, runs)
        for name, (loss, norm) in full.items():
            assert half[name][0] == pytest.approx(loss, rel=1e-4) and half[name][0] != loss
            assert half[name][1] == pytest.approx(norm, rel=5e-3), "the norm is that without the scale"
    full, half = map(weights, runs)
    for name, start in before.items():
        assert (half[name] - full[name]).norm() < 0.05 * (full[name] - start).norm()


def test_an_overflow_in_fp16_skips_the_step_of_its_part_alone_and_the_scale_comes_down(new_run):
    run = new_run(*NO_DROPOUT, "learning_rate=0.01", dtype=torch.float16)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19)  # too high for the flow's gradient, not for the LLM's
    moved = []
    while not moved or not all(moved[-1].values()):
        before, scale = weights(run), run.scaler.get_scale()
        results = step(run)
        moved.append({name: not torch.equal(value, before[name]) for name, value in weights(run).items()})
        assert moved[-1] == {name: math.isfinite(norm) for name, (_, norm) in results.items()}
        assert run.scaler.get_scale() == (scale if all(moved[-1].values()) else scale / 2)
        assert len(moved) < 8, "it never comes down far enough"
    assert {"llm": True, "flow": False} in moved
    assert all(value.isfinite().all() for value in weights(run).values())


def test_a_process_without_a_clip_takes_part_in_a_step_in_fp16(new_run):
    run = new_run(*NO_DROPOUT, dtype=torch.float16)
    run.scaler = torch.amp.GradScaler("cpu")
    training.step.gradients(run, [], {"llm": 1, "flow": 1}, SignalGuard())
    for part in run.active:
        assert not any(gradient.any() for gradient in training.step.fill_gradients(run, part))
        assert training.step.clip_gradient(run, part) == 0
        training.step.update(run, part, 0.0)
    run.scaler.update()


# ---- out of memory ---------------------------------------------------------------------------------------------------


def out_of_memory(run: Run, monkeypatch, largest_batch: int) -> list[int]:
    """Make the model run out of memory with more clips at once than `largest_batch`; list of the batches tried."""
    original, tried = run.model.loss, []

    def loss(name, batch, device):
        tried.append(len(batch["speech_token"]))
        result = original(name, batch, device)  # draws the adapters' dropout, as the try that fails would
        if tried[-1] > largest_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(run.model, "loss", loss)
    return tried


def weights_after_a_step(run: Run) -> dict[str, torch.Tensor]:
    training.step.optimizer_step(run, [6, 7, 8, 9], SignalGuard())
    states = {part: adapter_state_dict(run.model.part(part)) for part in ("llm", "flow")}
    return {f"{part}.{key}": value for part, state in states.items() for key, value in state.items()}


def test_a_step_that_runs_out_of_memory_is_done_again_as_if_nothing_had_been(new_run, monkeypatch, capsys):
    """With dropout: the second try draws what a run that began with checkpointing and one clip at a time draws."""
    frugal, greedy = new_run("learning_rate=0.01"), new_run("learning_rate=0.01")
    training.step.use_least_memory(frugal)
    expected = weights_after_a_step(frugal)
    assert capsys.readouterr().out == ""
    greedy.batch_frames = {"llm": 1, "flow": 10_000}
    tried = out_of_memory(greedy, monkeypatch, largest_batch=1)
    found = weights_after_a_step(greedy)
    assert tried == [1] * 4 + [4] + [1] * 8, "the LLM's gradient, the flow that fails, then both anew"
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert greedy.batch_frames == {"llm": 1, "flow": 1}
    assert all(m.gradient_checkpointing for m in greedy.model.modules() if hasattr(m, "gradient_checkpointing"))
    assert capsys.readouterr().out.strip() == training.step.TRYING_AGAIN


def test_what_does_not_fit_at_all_is_explained_in_one_line(new_run, monkeypatch):
    run = new_run()
    before = adapter_state_dict(run.model.flow)
    out_of_memory(run, monkeypatch, largest_batch=0)
    with pytest.raises(UserError, match="frozen_weights=half and a smaller max_feat_len") as caught:
        training.step.optimizer_step(run, [0, 1], SignalGuard())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in adapter_state_dict(run.model.flow).items())
