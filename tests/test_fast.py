"""What makes inference fast must not change what is said: layouts, 8-bit layers, precision, the multistep solver."""

from pathlib import Path

import pytest
import torch
from test_mini import MINI, SENTENCE, frontend
from torch import Tensor, nn

from cosyvoice.cli.cosyvoice import CosyVoice, load_part
from cosyvoice.llm import llm as llm_module
from cosyvoice.transformer import attention as attention_module
from cosyvoice.utils.int8 import Int8Linear, use_int8
from matcha.models.components import channels_last
from matcha.models.components.flow_matching import euler_steps, multistep, multistep_times, time_grid

CONVOLUTIONS = [
    nn.Conv1d(6, 8, 3, padding=1),
    nn.Conv1d(6, 8, 7, stride=3, padding=2, dilation=2, bias=False),
    nn.Conv1d(6, 8, 1, groups=2),
    nn.ConvTranspose1d(6, 8, 4, stride=2, padding=1),
    nn.ConvTranspose1d(6, 4, 5, stride=3, padding=2, output_padding=1, dilation=2, groups=2, bias=False),
    nn.GroupNorm(2, 6),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=repr)
@pytest.mark.parametrize("items", [1, 3])
def test_the_layout_changes_strides_and_not_values(layer: nn.Module, items: int) -> None:
    x = torch.randn(items, 6, 41)
    model = nn.Sequential(layer)
    expected = model(x)
    channels_last.use_channels_last(model)
    channels_last.use_channels_last(model)
    assert type(model[0]) in channels_last.REPLACEMENTS.values()
    for given in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):
        torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-6)


# ---- 8-bit layers ----------------------------------------------------------------------------------------------------


def error(layer: nn.Linear, x: Tensor) -> Tensor:
    """Root mean square error of each row of the 8-bit layer's output, as a share of that row's own."""
    exact, rounded = layer(x), Int8Linear(layer)(x)
    return (exact - rounded).square().mean(-1).sqrt() / exact.square().mean(-1).sqrt()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 256), (1, 1, 256), (2, 5, 256)])
@torch.inference_mode()
def test_int8_is_close_row_by_row(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 96, bias=bias), torch.randn(shape)
    assert Int8Linear(layer)(x).shape == (*shape[:-1], 96)
    assert error(layer, x).max() < 0.02


def test_weights_are_rounded_as_torch_rounds_them() -> None:
    torch.manual_seed(0)
    weight = torch.randn(600, 64) * torch.logspace(-12, 4, 600)[:, None]
    weight[7] = 0
    layer = nn.Linear(64, 600)
    layer.weight.data = weight
    found = torch.ops.quantized.linear_unpack(Int8Linear(layer).packed)[0]
    scales = found.q_per_channel_scales()
    expected = torch.quantize_per_channel(weight, scales, torch.zeros(600, dtype=torch.long), 0, torch.qint8)
    assert torch.equal(found.int_repr(), expected.int_repr()) and found.int_repr().abs().amax() == 127


@torch.inference_mode()
def test_a_loud_row_does_not_drown_a_quiet_one() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(128, 64, bias=False)
    x = torch.randn(3, 128) * torch.tensor([[1.0], [1e4], [1e-3]])
    assert error(layer, x).max() < 0.02
    nothing = torch.zeros(2, 128)
    assert not Int8Linear(layer)(nothing).any()


@torch.inference_mode()
def test_int8_weights_of_zero_and_of_very_different_rows() -> None:
    layer = nn.Linear(64, 3)
    layer.weight.copy_(torch.randn(3, 64) * torch.tensor([[0.0], [1.0], [1e-4]]))
    x = torch.randn(1, 64)
    exact, rounded = layer(x)[0] - layer.bias, Int8Linear(layer)(x)[0] - layer.bias
    assert rounded[0].abs() < 1e-6
    assert abs(rounded[2] / exact[2] - 1) < 0.1  # its own scale: not lost beside a row that is 10 000 times as large


def test_use_int8_replaces_linear_layers_only_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    use_int8(model, keep=("1",))
    layers = [model[0], model[2][0]]
    use_int8(model)
    assert [type(layer) for layer in layers] == [Int8Linear, Int8Linear]
    assert layers[0] is model[0] and layers[1] is model[2][0]
    kept = nn.Sequential(nn.Linear(4, 4))
    use_int8(kept, keep=("0",))
    assert type(kept[0]) is nn.Linear


# ---- networks --------------------------------------------------------------------------------------------------------


def speech_tokens(count: int = 60) -> Tensor:
    return torch.randint(1024, (1, count), generator=torch.Generator().manual_seed(5), dtype=torch.int32)


def mini_mel(precision: str, **options: object) -> Tensor:
    """Mel (1, 80, T) of random speech tokens by the mini model's flow, always from the same noise."""
    flow, none = load_part(MINI, "flow", inference=True, precision=precision), torch.zeros(1, 0, dtype=torch.int32)
    torch.manual_seed(3)
    length, nothing = torch.tensor([60]), torch.tensor([0])
    return flow.inference(
        speech_tokens(), length, none, nothing, torch.zeros(1, 0, 80), nothing, torch.ones(1, 192), **options
    )[0]


def test_the_mini_models_next_tokens_are_the_same_with_8_bit_weights() -> None:
    batch = {
        "text_token": torch.tensor([frontend().text_tokens(SENTENCE)]),
        "speech_token": speech_tokens(),
        "speech_token_len": torch.tensor([60]),
        "embedding": torch.ones(1, 192),
    }
    batch["text_token_len"] = torch.tensor([batch["text_token"].shape[1]])
    logits = {}
    for precision in ("full", "fast"):
        llm = load_part(MINI, "llm", inference=True, precision=precision)
        with torch.inference_mode():
            logits[precision] = llm.logits(batch, "cpu")[0].log_softmax(-1)
    divergence = (logits["full"].exp() * (logits["full"] - logits["fast"])).sum(-1)
    assert 0 < divergence.mean() < 0.02  # nats; the loss of a token is about 2.5


def test_fast_flow_and_vocoder_are_close_to_float32() -> None:
    exact, fast = mini_mel("full"), mini_mel("fast")
    assert (exact - fast).abs().mean() < 0.1  # natural logarithm; ten Euler steps are further from the solution
    sound = {}
    for precision in ("full", "fast"):
        hift = load_part(MINI, "hift", inference=True, precision=precision)
        torch.manual_seed(0)
        sound[precision] = hift.inference(exact)[0]
    noise = sound["full"] - sound["fast"]
    assert noise.square().mean() < 1e-3 * sound["full"].square().mean()  # 30 dB below the sound


@pytest.mark.parametrize("part", ["llm", "flow", "hift"])
def test_preparing_twice_is_preparing_once(part: str) -> None:
    network = load_part(MINI, part, inference=True, precision="fast")
    modules = list(network.modules())
    network.prepare_inference("fast")
    assert [*map(id, network.modules())] == [*map(id, modules)]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_unknown_precision_is_refused(tiny_model_dir: Path) -> None:
    for part in ("llm", "flow", "hift"):
        with pytest.raises(ValueError, match="precision: 'half' is unknown; use one of full, fast"):
            load_part(tiny_model_dir, part, inference=True, precision="half")


def test_a_cpu_without_such_instructions_keeps_float32(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(llm_module, "has_int8", lambda device: False)
    for part in ("llm", "flow", "hift"):
        network = load_part(tiny_model_dir, part, inference=True, precision="fast")
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert not any(isinstance(module, Int8Linear) for module in network.modules())


def test_prepared_positions_outlive_an_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "CACHE_CHUNK", 8)
    llm = load_part(MINI, "llm", inference=True).llm
    projected: list[int] = []
    llm.encoders[0].self_attn.linear_pos.register_forward_hook(lambda _, args, __: projected.append(args[0].size(1)))
    x = torch.randn(1, 12, llm.output_size())
    with torch.inference_mode():
        first = llm.decode(x, llm.new_cache())
        again = llm.decode(x, llm.new_cache())
    assert projected == [16] and torch.equal(first, again)


def test_whole_sentence_in_fast_precision_ends_and_sounds() -> None:
    torch.manual_seed(0)
    model = CosyVoice(MINI, precision="fast")
    wave = torch.cat([piece["tts_speech"] for piece in model.inference_sft(SENTENCE, "slt")], dim=1)
    assert model.model.llm.stopped_by_eos
    assert wave.abs().max() > 0.05 and 2 < wave.shape[1] / 22050 < 8


# ---- the solver ------------------------------------------------------------------------------------------------------


def gaussian_error(solver: str, steps: int) -> float:
    """Distance from the exact end of the path where the data are normal with mean 3 and deviation 0.5.

    There the velocity is known in closed form, and the end of the path from z is 3 + 0.5 z."""
    mean, deviation, z = 3.0, 0.5, torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    times = multistep_times(steps) if solver == "multistep" else euler_steps(time_grid(steps, "cosine"))[0].tolist()

    def velocity(x: Tensor, k: int) -> Tensor:
        t = times[k]
        variance = (1 - t) ** 2 + (t * deviation) ** 2
        data = mean + t * deviation**2 * (x - t * mean) / variance
        noise = (1 - t) * (x - t * mean) / variance
        return data - noise

    if solver == "multistep":
        x = multistep(z, velocity, times)
    else:
        x = z
        for k, width in enumerate(euler_steps(time_grid(steps, "cosine"))[1]):
            x = x + width * velocity(x, k)
    return float((x - (mean + deviation * z)).abs().max())


def test_multistep_converges_faster_than_euler() -> None:
    for steps in (24, 48, 96):
        assert gaussian_error("multistep", steps) < gaussian_error("euler", steps) / 3


def test_multistep_is_exact_where_the_data_are_one_point() -> None:
    target, times = torch.randn(5, dtype=torch.float64), multistep_times(3)
    x = torch.randn(5, dtype=torch.float64)
    states = iter(times)
    end = multistep(x, lambda state, k: (target - state) / (1 - next(states)), times)
    torch.testing.assert_close(end, target)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_multistep_times(steps: int) -> None:
    times = multistep_times(steps)
    assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1
    assert all(a < b for a, b in zip(times, times[1:], strict=False))
    assert torch.isfinite(mini_mel("full", n_timesteps=steps, solver="multistep")).all()


def test_both_solvers_come_to_the_same_sound() -> None:
    finest = mini_mel("full", n_timesteps=60, solver="euler")
    gap = {steps: (mini_mel("full", n_timesteps=steps, solver="multistep") - finest).abs().mean() for steps in (6, 40)}
    assert gap[40] < 0.05 < gap[6] < 0.6


def test_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="solver: 'rk4' is unknown; use one of euler, multistep"):
        mini_mel("full", solver="rk4")
