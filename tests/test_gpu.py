"""On a GPU: what CPU tests say of loss, gradient, memory, sound and the scripts holds there as well."""

from pathlib import Path

import golden
import pytest
import torch
from acoustic import tiny_flow, tiny_hift
from random_data import write_random_data
from test_audition import make_audition
from test_static_velocity import mel_of

import inference_joint
import merge_joint_weights
import train_joint
import training.step
from checkpoint import load_checkpoint
from common.signals import SignalGuard
from config import load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.transformer.attention import attend, rel_shift
from dataset import Clip, read_rows
from llm_flow_model import JointModel
from lora import adapter_parameters, adapter_state_dict
from training.memory import free_bytes, prepare_memory
from training.state import Run, make_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MIB = 2**20


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_random_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def clips(data_dir) -> list[Clip]:
    return read_rows(data_dir)


@pytest.fixture
def new_run(tiny_model_dir, clips, tmp_path):
    """A run over the tiny model on a device, with random adapters, the same on every device."""

    def make(device: torch.device, dtype: torch.dtype = torch.float32, **frames: int) -> Run:
        plain = ["validation_clips=0", "max_feat_len=100", "llm_lora.lora_dropout=0", "flow_lora.lora_dropout=0"]
        config = load([*plain, "learning_rate=0.01"])[0]
        torch.manual_seed(0)
        model = JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)
        for name in ("llm", "flow"):
            for parameter in adapter_parameters(model.part(name)):
                torch.nn.init.normal_(parameter, std=0.05)
        frames = {"llm": 1, "flow": 1, **frames}
        return make_run(config, device, model.to(device), dtype, frames, clips, tmp_path, 50, {})

    return make


def gradient(run: Run, part: str) -> torch.Tensor:
    """All gradients of a step over every clip as one vector, on the CPU."""
    training.step.accumulate_gradient(run, run.parts[part], run.train_clips, 1234, SignalGuard())
    return torch.cat([parameter.grad.flatten() for parameter in adapter_parameters(run.model.part(part))]).cpu()


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("part", ["llm", "flow"])
def test_gradients_are_those_of_the_cpu_however_clips_are_packed(part, new_run):
    expected = gradient(new_run(CPU), part)
    for frames in (1, 500, 100_000):
        assert distance(gradient(new_run(CUDA, **{part: frames}), part), expected) < 1e-4
    half = new_run(CUDA, torch.bfloat16, **{part: 500})
    assert distance(gradient(half, part), expected) < 0.05


@pytest.mark.parametrize("part", ["llm", "flow"])
def test_nothing_waits_for_the_device_before_all_micro_batches_are_under_way(part, new_run):
    run = new_run(CUDA, **{part: 500})
    gradient(run, part)  # what is set up at a first call may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        training.step.accumulate_gradient(run, run.parts[part], run.train_clips, 1234, SignalGuard())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float32_convolutions_are_not_rounded_to_tf32(tiny_model_dir):
    torch.backends.cudnn.allow_tf32 = True
    load_part(tiny_model_dir, "hift", device=CUDA)
    torch.manual_seed(0)
    conv, x = torch.nn.Conv1d(512, 512, 7), torch.randn(2, 512, 400)
    with torch.no_grad():
        exact = conv.double()(x.double())
        assert distance(conv.float().to(CUDA)(x.to(CUDA)).cpu(), exact) < 1e-5


@pytest.mark.parametrize("folded", [False, True])
def test_the_vocoder_agrees_with_its_golden_vector(folded):
    stored = golden.load("flow/g13_hift")
    hift = tiny_hift().to(CUDA)
    if folded:
        hift.prepare_inference("full")
    with torch.inference_mode():
        speech = hift.decode(stored["in.mel"].to(CUDA), stored["in.source"].to(CUDA))
    atol = 10 * golden.tolerance("flow/g13_hift", "decode")  # as stated for another backend
    golden.check("gpu speech", speech, stored["out.decode"], atol)


def test_half_precision_attends_for_a_single_query_at_any_length():
    torch.manual_seed(0)
    for keys in range(1, 70):
        q, k, v = (torch.randn(1, 16, size, 64, device=CUDA) for size in (1, keys, keys))
        scores = torch.randn(1, 16, 1, keys + 1, device=CUDA)
        expected = attend(q, k, v, rel_shift(scores, keys), 0.0)
        half = attend(*(x.bfloat16() for x in (q, k, v)), rel_shift(scores.bfloat16(), keys), 0.0)
        assert distance(half.float().cpu(), expected.cpu()) < 0.02


def test_a_graph_of_the_flow_agrees_with_evaluations_without_it():
    flow = tiny_flow().to(CUDA)
    flow.prepare_inference("full")
    estimator = flow.decoder.estimator
    for seed, tokens in enumerate((9, 14, 9, 30, 14)):
        graph = mel_of(flow, tokens, seed, "multistep", 5)
        kept, estimator.static_velocities = estimator.static_velocities, None
        torch.testing.assert_close(graph, mel_of(flow, tokens, seed, "multistep", 5), rtol=1e-4, atol=1e-4)
        estimator.static_velocities = kept
    assert len(kept.kept) == 3
    assert all(isinstance(velocity.graph, torch.cuda.CUDAGraph) for velocity in kept.kept.values())


def test_a_hearing_by_graphs_is_the_one_without(monkeypatch):
    ears = make_audition(CUDA)
    by_graphs = ears.hear([1])
    assert ears.networks.llm.static_steps is None, "what is kept would be of weights that change"
    for network in (ears.networks.llm, ears.networks.flow.decoder.estimator):
        monkeypatch.setattr(network, "use_graphs", lambda *_: None)
    [one], [other] = by_graphs, ears.hear([1])
    assert one.wave.shape == other.wave.shape
    for name, (above, below) in other.figures.items():
        assert one.figures[name] == pytest.approx((above, below), rel=0.01, abs=0.01), name


def test_a_step_that_does_not_fit_is_done_again_with_the_least_memory(new_run, capsys):
    """The device really runs out: what is left is more than one clip needs, and less than all clips at once do."""
    frugal = new_run(CUDA)
    training.step.use_least_memory(frugal)
    training.step.optimizer_step(frugal, range(10), SignalGuard())
    greedy = new_run(CUDA, llm=10**6, flow=10**6)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 12 * MIB) / total)
    try:
        training.step.optimizer_step(greedy, range(10), SignalGuard())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert capsys.readouterr().out.strip() == training.step.TRYING_AGAIN
    assert greedy.batch_frames == {"llm": 1, "flow": 1}
    for part in ("llm", "flow"):
        expected = adapter_state_dict(frugal.model.part(part))
        found = adapter_state_dict(greedy.model.part(part))
        assert all(torch.allclose(found[key], expected[key], rtol=1e-3, atol=1e-5) for key in expected)


def test_memory_is_planned_within_what_the_process_may_use(tiny_model_dir, clips):
    config = load(["validation_clips=0"])[0]
    total = torch.cuda.get_device_properties(CUDA).total_memory
    parts = [load_part(tiny_model_dir, part, device=CUDA) for part in ("llm", "flow")]
    model = JointModel(*parts, config).to(CUDA)
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 512 * MIB) / total)
        assert free_bytes(CUDA) <= 512 * MIB
        small = prepare_memory(model, clips, config, torch.bfloat16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    large = prepare_memory(model, clips, config, torch.bfloat16)
    assert small.activations < 512 * MIB
    assert all(small.batch_frames[part] <= large.batch_frames[part] for part in small.batch_frames)


@pytest.mark.filterwarnings("error:CUDA graphs failed")
@pytest.mark.parametrize("trained_in", ["auto", "fp16"])
def test_the_scripts_train_resume_merge_and_speak(trained_in, tiny_model_dir, data_dir, tmp_path, capsys):
    folders = ["--model-dir", str(tiny_model_dir), "--output-dir", str(tmp_path / "output")]
    train = ["--data-dir", str(data_dir), *folders, "--device", "cuda", "--set", "accumulate_grad_batches=4"]
    train += ["--set", f"precision={trained_in}"]
    assert train_joint.main([*train, "--epochs", "2"]) == 0
    last = tmp_path / "output" / "joint_joint_last.ckpt"
    assert load_checkpoint(last)["epoch"] == 2
    assert train_joint.main([*train, "--epochs", "3", "--resume", str(last)]) == 0
    assert load_checkpoint(last)["epoch"] == 3
    learned = [value for adapter in load_checkpoint(last)["adapters"].values() for value in adapter.values()]
    assert all(value.isfinite().all() for value in learned)
    assert merge_joint_weights.main(["--ckpt", str(last), *folders]) == 0
    spoken = tmp_path / "a.wav"
    say = ["--text", "the quick brown fox", "--output", str(spoken), "--device", "cuda"]
    for precision in ("full", "fast"):
        assert inference_joint.main([*folders, *say, "--precision", precision]) == 0
        assert spoken.stat().st_size > 1000
