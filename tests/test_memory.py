"""training/memory.py: the estimate equals what is counted, and what is chosen fits."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_standin_model import Sizes, model_yaml
from random_data import write_random_data
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from common.files import GIB
from config import JointConfig, UserError, load
from cosyvoice.cli.cosyvoice import load_part
from cosyvoice.transformer import attention
from cosyvoice.utils.common import token_to_mel_length
from cosyvoice.utils.yaml_loader import YAML_NAME, read_model_config
from dataset import Clip, collate_llm, llm_positions, read_rows
from llm_flow_model import JointModel, autocast
from matcha.models.components import transformer
from training import memory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return read_rows(write_random_data(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True)
def attends_as_a_gpu_does(monkeypatch):
    """In bfloat16 too by the fused kernel, which keeps no scores."""
    monkeypatch.setattr(transformer, "SHORT", 0)


@pytest.fixture
def joint(tiny_model_dir):
    def make(config: JointConfig) -> JointModel:
        return JointModel(load_part(tiny_model_dir, "llm"), load_part(tiny_model_dir, "flow"), config)

    return make


def long_clip(clip: Clip, times: int) -> Clip:
    """The clip `times` times in a row."""
    return replace(
        clip,
        text_token=clip.text_token.repeat(times),
        speech_token=clip.speech_token.repeat(times),
        speech_feat=clip.speech_feat[:].repeat(times, 1),
    )


@pytest.mark.parametrize("precision", [[], ["precision=bf16", "frozen_weights=half"]])
def test_what_is_kept_for_a_long_clip_is_foretold_from_short_ones(precision, joint, clips):
    config = load(precision)[0]
    dtype = torch.bfloat16 if precision else torch.float32
    model, clip = joint(config), long_clip(clips[5], 6)
    memory.store_frozen(model, config, dtype)
    counted = memory.saved_bytes(model, "llm", collate_llm([clip]), dtype)
    assert memory.kept_bytes(model, "llm", clip, llm_positions(clip), dtype) == pytest.approx(counted, rel=0.02)
    frames = 640
    counted = memory.saved_bytes(model, "flow", memory.probe_flow(clip, frames, 370), dtype)
    assert memory.kept_bytes(model, "flow", clip, frames, dtype) == pytest.approx(counted, rel=0.02)


def test_scores_that_a_causal_model_never_computes_are_not_foretold(joint, clips, monkeypatch):
    model, clip = joint(JointConfig()), long_clip(clips[5], 9)
    whole = memory.kept_bytes(model, "llm", clip, llm_positions(clip), torch.float32)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 128)
    counted = memory.saved_bytes(model, "llm", collate_llm([clip]), torch.float32)
    foretold = memory.kept_bytes(model, "llm", clip, llm_positions(clip), torch.float32)
    assert llm_positions(clip) > 2 * 128
    assert foretold == pytest.approx(counted, rel=0.02) and foretold < 0.95 * whole


def test_counting_leaves_no_gradient(joint, clips):
    model = joint(JointConfig())
    memory.prepare_memory(model, clips, JointConfig(), torch.float32)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_half_the_frozen_weights_are_half_the_bytes(joint, clips):
    config = load(["precision=bf16", "frozen_weights=half"])[0]
    full = memory.prepare_memory(joint(JointConfig()), clips, JointConfig(), torch.float32)
    half = memory.prepare_memory(joint(config), clips, config, torch.bfloat16)
    assert half.weights < 0.7 * full.weights and half.activations < full.activations
    assert half.optimizer == full.optimizer


@pytest.mark.parametrize(
    ("overrides", "frames"), [((), memory.CPU_BATCH_FRAMES), (("batch_frames=77",), 77), (("batch_frames=1",), 1)]
)
def test_the_batch_size_is_the_setting_or_what_suits_a_cpu(overrides, frames, joint, clips):
    config = load(overrides)[0]
    plan = memory.prepare_memory(joint(config), clips, config, torch.float32)
    assert plan.batch_frames == {"llm": frames, "flow": frames} and not plan.checkpointing
    assert f"batch_frames llm {frames}, flow {frames}" in str(plan)


@pytest.mark.parametrize(("capability", "dtype"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_a_gpu_computes_in_the_half_precision_that_it_has(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert memory.choose_precision(JointConfig(), torch.device("cuda")) == dtype
    assert memory.choose_precision(JointConfig(), CPU) == torch.float32


@pytest.mark.parametrize(
    ("device", "fast", "warned"),
    [
        ("cpu", torch.float32, True),
        ("cpu", torch.bfloat16, False),
        ("cuda", torch.float16, True),
        ("cuda", torch.bfloat16, False),
    ],
)
def test_bf16_that_would_only_be_emulated_is_warned_of(device, fast, warned, monkeypatch, capsys):
    monkeypatch.setattr(memory, "fast_dtype", lambda _: fast)
    assert memory.choose_precision(load(["precision=bf16"])[0], torch.device(device)) == torch.bfloat16
    assert (f"this {device.upper()} device only emulates bf16" in capsys.readouterr().out) == warned


def test_half_precision_weights_need_a_half_precision_pass(joint, clips):
    config = load(["frozen_weights=half"])[0]
    with pytest.raises(UserError, match="needs precision=bf16 or fp16"):
        memory.prepare_memory(joint(config), clips, config, torch.float32)


@pytest.mark.parametrize(
    ("free", "checkpointing", "at_once"),
    [
        (200.0, False, 8),
        (5.0, False, 5 * memory.BATCH_SHARE),
        (1.2, False, 1),
        (0.9, True, 0.9 * memory.BATCH_SHARE / memory.CHECKPOINTED_SHARE),
        (0.1, True, 1),
    ],
)
def test_batches_and_checkpointing_follow_the_free_memory(free, checkpointing, at_once):
    """free: in units of what the longest clip needs without checkpointing."""
    found = memory.choose_batches(JointConfig(), {"llm": 1000.0}, {"llm": 300}, 8, usable=free * 1000)
    assert found == (checkpointing, {"llm": pytest.approx(300 * at_once, abs=1)})


def test_a_batch_size_that_was_asked_for_counts_when_checkpointing_is_chosen():
    peaks, lengths = {"llm": 1000.0, "flow": 100.0}, {"llm": 300, "flow": 250}
    for frames, checkpointing in ((300, False), (900, False), (1000, True)):
        config = load([f"batch_frames={frames}"])[0]
        found = memory.choose_batches(config, peaks, lengths, 8, usable=3001)
        assert found == (checkpointing, {"llm": frames, "flow": frames})


@pytest.mark.parametrize("wanted", [True, False])
def test_checkpointing_that_was_asked_for_is_kept(wanted):
    config = load([f"gradient_checkpointing={wanted}"])[0]
    for usable in (1.0, 1e9):
        assert memory.choose_batches(config, {"llm": 1000.0}, {"llm": 300}, 8, usable)[0] is wanted


# ---- at full size ----------------------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """The most bytes of new memory blocks that were held at once within it."""

    def __init__(self) -> None:
        super().__init__()
        self.live: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for tensor in tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given | self.live:
                self.live.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return result

    def freed(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def counted_peak(model: JointModel, name: str, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """Bytes at the peak of a forward and a backward pass."""
    with LiveBytes() as counter:
        with autocast(CPU, dtype):
            loss = model.loss(name, batch, CPU).mean
        loss.backward()
    model.zero_grad()
    return counter.peak


def full_size_model(folder: Path, config: JointConfig) -> JointModel:
    """Called within FakeTensorMode: shapes, dtypes and blocks of the real size, and no numbers in them."""
    (folder / YAML_NAME).write_text(model_yaml(Sizes()), encoding="utf-8")
    parts = [read_model_config(folder).build(name, device="cpu").eval() for name in ("llm", "flow")]
    return JointModel(*parts, config)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [[], ["precision=bf16", "frozen_weights=half"]], ids=["fp32", "bf16 half"])
def test_the_estimate_at_full_size_is_what_is_counted(precision, clips, tmp_path):
    """`make test-slow` prints the table of bench/benchmarks.md. Nothing is computed, so bf16 takes no longer."""
    config, dtype = load(precision)[0], torch.bfloat16 if precision else torch.float32
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = full_size_model(tmp_path, config)
        memory.store_frozen(model, config, dtype)
        check_estimates(model, clips[0], dtype)


def check_estimates(model: JointModel, like: Clip, dtype: torch.dtype) -> None:
    """The estimate for 3, 10 and 30 s of speech is what is counted or a little more; prints both."""
    foretold: dict[tuple[int, str], float] = {}
    for checkpointing in (False, True):
        if checkpointing:
            memory.checkpoint_activations(model)
        for seconds in (3, 10, 30):
            frames = token_to_mel_length(50 * seconds, 50)
            clip = made_up_clip(like, text=5 * seconds, speech=50 * seconds)
            batches = {"llm": collate_llm([clip]), "flow": memory.probe_flow(clip, frames, 50 * seconds)}
            lengths = {"llm": llm_positions(clip), "flow": frames}
            for name, batch in batches.items():
                if not checkpointing:
                    kept = memory.kept_bytes(model, name, clip, lengths[name], dtype)
                    foretold[seconds, name] = memory.WORK_FACTOR * kept / GIB
                share = memory.CHECKPOINTED_SHARE if checkpointing else 1
                estimate, counted = share * foretold[seconds, name], counted_peak(model, name, batch, dtype) / GIB
                print(f"{seconds:2d} s {name:4s} {checkpointing!s:5s} {estimate:.3f} for {counted:.3f} GiB")
                assert counted <= estimate < counted * (1.75 if checkpointing else 1.12)


def made_up_clip(clip: Clip, text: int, speech: int) -> Clip:
    """`clip` with so many tokens, all 0."""
    return replace(
        clip, text_token=torch.zeros(text, dtype=torch.long), speech_token=torch.zeros(speech, dtype=torch.long)
    )
