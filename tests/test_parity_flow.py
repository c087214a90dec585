"""Our flow, vocoder and mel against golden vectors of the reference, forward and gradient, at the stated tolerances."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import golden
import pytest
import torch
import torch.nn.functional as F
from acoustic import TINY, tiny_flow, tiny_hift
from torch import Tensor, nn

from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.flow.decoder import ConditionalDecoder, key_bias
from cosyvoice.flow.flow import MaskedDiffWithXvec
from cosyvoice.hifigan.generator import HiFTGenerator, SineGen, Snake
from cosyvoice.utils.common import fade_in_out, token_to_mel_length
from matcha.models.components.decoder import ResnetBlock1D, SinusoidalPosEmb
from matcha.models.components.flow_matching import euler_steps, time_grid
from matcha.models.components.transformer import BasicTransformerBlock
from matcha.utils.audio import hann_window, mel_filters, mel_spectrogram

CPU = torch.device("cpu")


class Golden:
    """One golden file: `given` its inputs, `expect` compares a tensor with an output at the stated tolerance."""

    def __init__(self, name: str) -> None:
        self.name = f"flow/{name}"
        self.tensors = golden.load(self.name)

    def given(self, *names: str) -> list[Tensor]:
        return [self.tensors[f"in.{name}"] for name in names]

    def expect(self, name: str, actual: Tensor) -> None:
        atol = golden.tolerance(self.name, name)
        golden.check(f"{self.name} {name}", actual, self.tensors[f"out.{name}"], atol)

    def expect_gradients(self, model: nn.Module, prefix: str = "grad.") -> None:
        """Compare every gradient that the file holds."""
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        names = [key.removeprefix(f"out.{prefix}") for key in self.tensors if key.startswith(f"out.{prefix}")]
        assert names
        for name in names:
            self.expect(prefix + name, gradients[name])


@contextmanager
def recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Outputs of the modules while the block runs, in order of their calls."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def recorder(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs[name].append(output)

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def flow() -> MaskedDiffWithXvec:
    return tiny_flow()


@pytest.fixture
def estimator(flow: MaskedDiffWithXvec) -> ConditionalDecoder:
    return flow.decoder.estimator


@pytest.fixture
def hift() -> HiFTGenerator:
    return tiny_hift()


def test_random_streams_are_those_of_the_goldens() -> None:
    probe = golden.load_json("flow/rng_probe")
    torch.manual_seed(1234)
    drawn = {"rand3": torch.rand(3), "randn5": torch.randn(5), "randn20_first6": torch.randn(20)[:6]}
    drawn["rand22"] = torch.rand(2, 2).flatten()
    for name, values in drawn.items():
        torch.testing.assert_close(values, torch.tensor(probe[name]), rtol=0, atol=1e-6)
    random.seed(1234)
    assert [random.random(), random.random(), random.randint(0, 9), random.randint(0, 100)] == probe["python"]


@torch.no_grad()
def test_g01_time_embedding(estimator: ConditionalDecoder) -> None:
    g = Golden("g01_time_embedding")
    t, t_scalar = g.given("t", "t_scalar")
    g.expect("sin_emb_320", SinusoidalPosEmb(320)(t))
    g.expect("sin_emb_8", SinusoidalPosEmb(8)(t))
    g.expect("sin_emb_320_scalar", SinusoidalPosEmb(320)(t_scalar))
    g.expect("time_mlp", estimator.time_embedding(t))


@torch.no_grad()
def test_g02_resnet_block() -> None:
    g = Golden("g02_resnet_block")
    block = ResnetBlock1D(24, 16, 32)
    block.load_state_dict(golden.weights(g.name))
    x, mask, time_emb, x_small = g.given("x", "mask", "time_emb", "x_small")
    g.expect("block1", block.block1(x, mask))
    g.expect("block1_small", block.block1(x_small, mask))
    g.expect("y", block(x, mask, time_emb))


@torch.no_grad()
def test_g03_transformer_block() -> None:
    g = Golden("g03_transformer_block")
    block = BasicTransformerBlock(**golden.config(g.name)["BasicTransformerBlock"])
    block.load_state_dict(golden.weights(g.name))
    x, bias, x_small = g.given("x", "attn_bias", "x_small")
    parts = {"norm1": block.norm1, "attn": block.attn1, "ff": block.ff}
    with recorded(parts) as outputs:
        g.expect("y", block(x, bias))
    for name, calls in outputs.items():
        g.expect(name, calls[0])
    g.expect("y_small", block(x_small, bias))
    mask = (torch.arange(13) < torch.tensor([13, 7])[:, None])[:, None].float()
    torch.testing.assert_close(key_bias(mask, torch.float32).expand(-1, 13, -1), bias)


def stages(estimator: ConditionalDecoder) -> dict[str, nn.Module]:
    """The modules whose outputs g04 and g05 hold, by the goldens' names."""
    modules: dict[str, nn.Module] = {"time_mlp": estimator.time_mlp, "final_block": estimator.final_block}
    for kind in ("down", "mid", "up"):
        for i, group in enumerate(getattr(estimator, f"{kind}_blocks")):
            modules[f"{kind}{i}.resnet"], modules[f"{kind}{i}.tfm_last_btc"] = group[0], group[1][-1]
            if kind != "mid":
                modules[f"{kind}{i}.sample"] = group[2]
    return modules


@torch.no_grad()
def check_estimator(g: Golden, estimator: ConditionalDecoder) -> None:
    modules = stages(estimator)
    with recorded(modules) as outputs:
        g.expect("y", estimator(*g.given("x", "mask", "mu", "t", "spks", "cond")))
    assert {f"out.{name}" for name in (*modules, "y")} == {key for key in g.tensors if key.startswith("out.")}
    for name, calls in outputs.items():
        g.expect(name, calls[0])


def test_g04_estimator(estimator: ConditionalDecoder) -> None:
    check_estimator(Golden("g04_estimator"), estimator)


def test_g05_estimator_of_uneven_channels() -> None:
    g = Golden("g05_estimator_uneven")
    estimator = ConditionalDecoder(**golden.config(g.name)["ConditionalDecoder"])
    estimator.load_state_dict(golden.weights(g.name))
    check_estimator(g, estimator)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_g06_time_grid_and_euler(flow: MaskedDiffWithXvec, masked: bool, prepared: bool) -> None:
    if prepared:
        flow.prepare_inference()
    g = Golden("g06_tspan_euler")
    z, mu, spks, cond, mask = g.given("z", "mu", "spks", "cond", "mask")
    grid = time_grid(10, "cosine")
    g.expect("t_span_10", grid)
    g.expect("t_span_5", time_grid(5, "cosine"))
    g.expect("t_step", euler_steps(grid)[0])
    estimator = flow.decoder.estimator
    states: list[Tensor] = []
    estimator.down_blocks[0][0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0, :80].clone()))
    with recorded({"velocity": estimator.final_proj}) as outputs:
        g.expect("x_final", flow.decoder.solve_euler(z, grid, mu, mask if masked else None, spks, cond))
    g.expect("x_step", torch.stack(states[:4]))
    g.expect("v_cond", torch.stack([v[0] for v in outputs["velocity"][:2]]))
    g.expect("v_uncond", torch.stack([v[1] for v in outputs["velocity"][:2]]))


@pytest.mark.parametrize("injected", [True, False], ids=["injected", "seeded"])
def test_g07_loss(flow: MaskedDiffWithXvec, injected: bool) -> None:
    g = Golden("g07_cfm_loss")
    inputs = g.given("x1", "mask", "mu", "spks", "cond")
    t, z, cfg_rand = g.given("t", "z", "cfg_rand")
    keep = cfg_rand > 0.2
    assert keep.long().equal(g.tensors["out.keep"])
    draws = {"t": t, "noise": z, "keep": keep} if injected else {}
    torch.manual_seed(704)
    loss, y = flow.decoder.compute_loss(*inputs, **draws)
    g.expect("loss", loss)
    g.expect("y_t", y)
    loss.backward()
    g.expect_gradients(flow.decoder.estimator)
    torch.manual_seed(704)
    with torch.no_grad():
        g.expect("loss_legacy_cosine_t", flow.decoder.compute_loss(*inputs, flow_time="cosine", **draws)[0])


@torch.no_grad()
def test_g08_length_regulator(flow: MaskedDiffWithXvec) -> None:
    g = Golden("g08_length_regulator")
    x_train, ylens, x1, x2 = g.given("x_train", "ylens", "x1", "x2")
    g.expect("train", flow.length_regulator(x_train, ylens)[0])
    g.expect("train", flow.length_regulator(x_train, ylens, 40)[0])
    for name, (mel_len1, mel_len2) in golden.config(g.name)["scalars"].items():
        prompt, tokens = (int(number) for number in name.split("_")[1:])
        out, length = flow.length_regulator.inference(x1[:, :prompt], x2[:, :tokens], mel_len1, mel_len2, 50)
        assert length == mel_len1 + mel_len2
        g.expect(name, out)


@torch.no_grad()
def test_g09_encoder(flow: MaskedDiffWithXvec) -> None:
    g = Golden("g09_encoder")
    x, x_lens, x_small = g.given("x", "x_lens", "x_small")
    encoder = flow.encoder
    first, second = encoder.encoders
    with recorded({"embed": encoder.embed, "layer0": first, "layer1": second}) as outputs:
        y, mask = encoder(x, x_lens)
    g.expect("y", y)
    assert mask.to(torch.uint8).equal(g.tensors["out.mask"])
    embedded, pos_emb = outputs["embed"][0]
    g.expect("embed", embedded)
    g.expect("pos_emb", pos_emb)
    g.expect("layer0", outputs["layer0"][0])
    g.expect("layer1", outputs["layer1"][0])
    g.expect("layer0_small", first(x_small, pos_emb, mask))
    g.expect("after_norm_small", encoder.after_norm(x_small))


def training_batch(g: Golden, items: int) -> dict[str, Tensor]:
    names = ("speech_token", "speech_token_len", "speech_feat", "speech_feat_len", "embedding")
    batch = dict(zip(names, (value[:items] for value in g.given(*names)), strict=True))
    longest_token, longest_feat = int(batch["speech_token_len"].max()), int(batch["speech_feat_len"].max())
    batch["speech_token"] = batch["speech_token"][:, :longest_token]
    batch["speech_feat"] = batch["speech_feat"][:, :longest_feat]
    return batch


@pytest.mark.parametrize("injected", [True, False], ids=["injected", "seeded"])
@pytest.mark.parametrize("case", ["nocond", "cond", "b1"])
def test_g10_training_loss(flow: MaskedDiffWithXvec, case: str, injected: bool) -> None:
    g = Golden("g10_flow_train")
    config = golden.config(g.name)
    batch = training_batch(g, items=1 if case == "b1" else 2)
    draws: dict[str, Any] = {}
    if injected:
        t, z, cfg_rand = g.given(*(("b1_t", "b1_z", "b1_cfg_rand") if case == "b1" else ("t", "z", "cfg_rand")))
        prefixes = config["cond_prefix_lengths"] if case == "cond" else [0] * len(t)
        draws = {"t": t, "noise": z, "keep": cfg_rand > 0.2, "prefix_lengths": prefixes}
    random.seed(config["py_seed_cond" if case == "cond" else "py_seed_nocond"])
    torch.manual_seed(1002 if case == "b1" else config["torch_seed"])
    with recorded({"mu": flow.length_regulator, "spks": flow.spk_embed_affine_layer}) as outputs:
        result = flow(batch, CPU, **draws)
    g.expect(f"loss_{case}", result["loss"])
    assert result["frames"] == int(batch["speech_feat_len"].sum())
    if case == "nocond":
        g.expect("mu", outputs["mu"][0][0].transpose(1, 2))
        g.expect("spks", outputs["spks"][0])
        result["loss"].backward()
        g.expect_gradients(flow, "grad_nocond.")


@torch.no_grad()
def test_g10_conditions_that_reach_the_estimator(flow: MaskedDiffWithXvec) -> None:
    g = Golden("g10_flow_train")
    t, z = g.given("t", "z")
    seen: list[tuple[Tensor, ...]] = []
    flow.decoder.estimator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    draws = {"t": t, "noise": z, "keep": torch.ones(2), "prefix_lengths": golden.config(g.name)["cond_prefix_lengths"]}
    flow(training_batch(g, items=2), CPU, **draws)
    _, mask, mu, _, spks, cond = seen[0]
    for name, value in {"mask": mask, "mu": mu, "spks": spks, "cond": cond}.items():
        g.expect(name, value)


@pytest.mark.parametrize("injected", [True, False], ids=["injected", "seeded"])
def test_g11_inference(flow: MaskedDiffWithXvec, injected: bool) -> None:
    g = Golden("g11_flow_inference")
    prompt_token, prompt_feat, embedding = g.given("prompt_token", "prompt_feat", "embedding")
    caches = {"A": torch.zeros(1, 80, 0, 2), "B": None, "C": g.tensors["out.B.cache"]}
    for case, cache in caches.items():
        (token,) = g.given(f"token_{case}")
        prompt = (prompt_token[:, :0], prompt_feat[:, :0]) if case == "A" else (prompt_token, prompt_feat)
        arguments = [value for tokens in (token, *prompt) for value in (tokens, torch.tensor([tokens.shape[1]]))]
        noise = g.given(f"z_{case}")[0] if injected else None
        torch.manual_seed({"A": 1101, "B": 1102, "C": 1103}[case])
        with recorded({"mu": flow.length_regulator.model}) as outputs:
            feat, new_cache = flow.inference(*arguments, embedding, cache, noise=noise)
        g.expect(f"{case}.feat", feat)
        g.expect(f"{case}.cache", new_cache)
        g.expect(f"{case}.mu", outputs["mu"][0].transpose(1, 2))


@pytest.mark.parametrize("injected", [True, False], ids=["injected", "seeded"])
def test_g12_pitch_snake_and_sine(hift: HiFTGenerator, injected: bool) -> None:
    g = Golden("g12_f0_snake_sine")
    mel, x, alpha, f0, phase, noise, extra = g.given(
        "mel", "snake_x", "snake_alpha", "f0", "phase", "randn_sine", "randn_extra"
    )
    f0 = f0.transpose(1, 2)
    snake = Snake(6)
    snake.load_state_dict({"alpha": alpha})
    with torch.no_grad():
        g.expect("f0_pred", hift.f0_predictor(mel))
        g.expect("snake", snake(x))
    draws = {"phase": phase, "noise": noise} if injected else {}
    torch.manual_seed(1201)
    sine, voiced, added = SineGen(22050, 8, 0.1, 0.003, 10)(f0, **draws)
    g.expect("sine", sine.transpose(1, 2))
    g.expect("uv", voiced.transpose(1, 2))
    g.expect("noise", added)
    torch.manual_seed(1201)
    source, branch = hift.m_source(f0, **draws)
    g.expect("source", source.transpose(1, 2))
    if not injected:
        g.expect("source_noise", branch.transpose(1, 2))


def test_g13_decode_with_gradients(hift: HiFTGenerator) -> None:
    g = Golden("g13_hift")
    mel, source = g.given("mel", "source")
    parts = {
        "conv_pre": hift.conv_pre,
        "ups0": hift.ups[0],
        "source_downs0": hift.source_downs[0],
        "source_resblock0": hift.source_resblocks[0],
        "resblock0": hift.resblocks[0],
        "ups1": hift.ups[1],
        "conv_post": hift.conv_post,
    }
    with recorded(parts) as outputs:
        speech = hift.decode(mel, source)
    g.expect("decode", speech)
    for name, calls in outputs.items():
        g.expect(f"mid.{name}", calls[0])
    speech.square().mean().backward()
    g.expect_gradients(hift)


@pytest.mark.parametrize("form", ["weight_norm", "folded", "prepared"])
def test_g13_inference_and_training_forward(hift: HiFTGenerator, form: str) -> None:
    g = Golden("g13_hift")
    mel, phase, noise, cache_source = g.given("mel", "phase", "randn", "cache_source")
    if form == "folded":
        hift.fold_weight_norm()
    if form == "prepared":
        hift.prepare_inference()
    cases = {
        "inf": ({"phase": phase, "noise": noise}, torch.zeros(1, 1, 0)),
        "inf_zero": ({"phase": torch.zeros_like(phase), "noise": torch.zeros_like(noise)}, None),
        "inf_cache": ({"phase": phase, "noise": noise}, cache_source),
    }
    for name, (draws, cache) in cases.items():
        speech, source = hift.inference(mel, cache, **draws)
        g.expect(name, speech)
        g.expect(f"{name}_source", source)
    torch.manual_seed(1301)
    speech, source = hift.inference(mel)
    g.expect("inf", speech)
    g.expect("inf_source", source)
    speech, f0 = hift({"speech_feat": mel.transpose(1, 2)}, CPU, phase=phase, noise=noise)
    g.expect("forward_train", speech)
    g.expect("f0", f0)


def test_g14_short_time_fourier_pair(hift: HiFTGenerator) -> None:
    g = Golden("g14_stft_istft")
    x, magnitude, phase = g.given("x", "magnitude", "phase")
    real, imaginary = hift.stft(x).chunk(2, dim=1)
    g.expect("real", real)
    g.expect("imag", imaginary)
    g.expect("wave", hift.istft(magnitude, phase))
    g.expect("window", hann_window(16, CPU))


def test_g15_mel() -> None:
    g = Golden("g15_mel")
    y, y_short = g.given("y", "y_short")
    config = golden.config(g.name)["a"]
    g.expect("mel", mel_spectrogram(y, **config))
    g.expect("mel_short", mel_spectrogram(y_short, **config))
    g.expect("mel_fmax_none", mel_spectrogram(y, **{**config, "fmax": None}))
    g.expect("mel_basis_8000", mel_filters(22050, 1024, 80, 0, 8000))
    g.expect("mel_basis_none", mel_filters(22050, 1024, 80, 0, None))


def test_g16_speed_and_cross_fade() -> None:
    g = Golden("g16_speed_fade")
    mel, fade_in, fade_out, toy_in, toy_out = g.given("mel", "fade_in", "fade_out", "toy_in", "toy_out")
    config = golden.config(g.name)
    for name, speed in config["speeds"].items():
        g.expect(name, F.interpolate(mel, size=int(mel.shape[2] / speed), mode="linear"))
    model = CosyVoiceModel(None, tiny_flow(), tiny_hift())
    g.expect("hamming68", torch.from_numpy(model.mel_window))
    g.expect("fade", fade_in_out(fade_in, fade_out, model.mel_window))
    g.expect("toy", fade_in_out(toy_in, toy_out, torch.hamming_window(8, periodic=False, dtype=torch.float64)))
    for tokens, frames in config["mel_len2"].items():
        assert token_to_mel_length(int(tokens), 50) == frames


def prompt_of(g: Golden) -> dict[str, Tensor]:
    names = ("prompt_token", "prompt_feat", "embedding")
    return dict(zip(names, g.given(*names), strict=True))


def expect_speech(
    g: Golden, model: CosyVoiceModel, case: str, tight: bool, monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> None:
    """Run token2wav and compare mels, excitation and waveform; tight mode decodes the golden excitation."""
    source_of_golden = g.tensors[f"out.{case}.source"]
    if tight:
        monkeypatch.setattr(model.hift, "source", lambda f0: source_of_golden)
    flow_mel: list[Tensor] = []
    hift_calls: list[tuple[Tensor, Tensor]] = []
    flow_inference, decode = type(model.flow).inference, type(model.hift).decode

    def record_flow(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        flow_mel.append((result := flow_inference(model.flow, *args, **kwargs))[0])
        return result

    def record_decode(mel: Tensor, source: Tensor) -> Tensor:
        hift_calls.append((mel, source))
        return decode(model.hift, mel, source)

    monkeypatch.setattr(model.flow, "inference", record_flow)
    monkeypatch.setattr(model.hift, "decode", record_decode)
    speech = model.token2wav(**prompt_of(g), **arguments)
    g.expect(f"{case}.flow_mel", flow_mel[0])
    g.expect(f"{case}.hift_mel", hift_calls[0][0])
    g.expect(f"{case}.source", hift_calls[0][1])
    g.expect(f"{case}.wav", speech)
    if tight:  # bound measured by an independent implementation, with the room that the other tolerances leave
        golden.check(f"{g.name} tight {case}.wav", speech, g.tensors[f"out.{case}.wav"], 1.1e-5)


@pytest.mark.parametrize("tight", [False, True], ids=["seeded", "golden_source"])
def test_g17_streamed_pieces(tight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = Golden("g17_token2wav")
    model = CosyVoiceModel(None, tiny_flow(), tiny_hift())
    (token,) = g.given("token")
    steps = zip(TINY["stream_slices"], TINY["stream_seeds"], TINY["finalize"], strict=True)
    for i, ((start, end), seed, finalize) in enumerate(steps):
        torch.manual_seed(seed)
        piece = {"token": token[:, start:end], "uuid": "utterance", "finalize": finalize}
        expect_speech(g, model, f"chunk{i}", tight, monkeypatch, **piece)
    assert model.states == {}


@pytest.mark.parametrize("tight", [False, True], ids=["seeded", "golden_source"])
@pytest.mark.parametrize("case", ["speed100", "speed125"])
def test_g17_whole_utterances(case: str, tight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = Golden("g17_token2wav")
    model = CosyVoiceModel(None, tiny_flow(), tiny_hift())
    (token,) = g.given("token")
    run = TINY["nonstream"][case]
    torch.manual_seed(run["seed"])
    whole = {"token": token[:, slice(*run["tokens"])], "uuid": case, "finalize": True, "speed": run["speed"]}
    expect_speech(g, model, case, tight, monkeypatch, **whole)
