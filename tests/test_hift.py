"""The vocoder: checkpoint forms, folding, what trains what, random draws."""

import golden
import pytest
import torch
from acoustic import TINY, build_hift, released, tiny_hift
from torch import Tensor

from cosyvoice.hifigan.f0_predictor import ConvRNNF0Predictor
from cosyvoice.hifigan.generator import HiFTGenerator, SineGen
from matcha.utils import audio
from matcha.utils.audio import mel_spectrogram

CPU = torch.device("cpu")


@pytest.fixture
def mel() -> Tensor:
    return golden.load("flow/g13_hift")["in.mel"]


def test_full_size_model_has_the_released_keys_and_shapes() -> None:
    with torch.device("meta"):
        model = build_hift(released(TINY["hift"]))
    keys = golden.load_json("manifests/hift_manifest")["keys"]
    assert {name: [list(value.shape), "float32"] for name, value in model.state_dict().items()} == keys
    assert all(value.is_meta for value in model.state_dict().values())


@pytest.mark.parametrize("spelling", ["parametrised", "legacy", "folded"])
def test_every_spelling_of_weight_norm_gives_the_same_sound(spelling: str, mel: Tensor) -> None:
    state = golden.load("flow/hift_tiny_weights")
    with torch.device("meta"):
        model = build_hift(TINY["hift"])
    if spelling == "legacy":
        renamed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new, old in renamed.items():
            state = {key.replace(new, old): value for key, value in state.items()}
    if spelling == "folded":
        plain = tiny_hift()
        plain.fold_weight_norm()
        state = plain.state_dict()
        model.fold_weight_norm()
    model.load_state_dict(state, assign=True)
    source = golden.load("flow/g13_hift")["in.source"]
    with torch.inference_mode():
        assert torch.equal(model.eval().decode(mel, source), tiny_hift().decode(mel, source))


def test_folding_is_exact_leaves_plain_keys_and_can_be_repeated(mel: Tensor) -> None:
    model = tiny_hift()
    with torch.inference_mode():
        before = model.f0_predictor(mel)
    model.fold_weight_norm()
    model.fold_weight_norm()
    assert not [key for key in model.state_dict() if "parametrizations" in key]
    assert "ups.0.weight" in model.state_dict()
    with torch.inference_mode():
        assert torch.equal(model.f0_predictor(mel), before)


def test_waveform_trains_the_filter_and_the_source_mix_but_not_the_pitch(mel: Tensor) -> None:
    model = tiny_hift().train()
    speech, f0 = model({"speech_feat": mel.transpose(1, 2)}, CPU)
    speech.square().mean().backward()
    assert model.m_source.l_linear.weight.grad.abs().sum() > 0
    assert model.conv_pre.parametrizations.weight.original1.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.f0_predictor.parameters())
    f0.mean().backward()
    assert model.f0_predictor.classifier.weight.grad.abs().sum() > 0


def test_a_new_vocoder_learns_to_match_a_mel() -> None:
    torch.manual_seed(0)
    model = build_hift(TINY["hift"]).train()
    options = {"n_fft": 1024, "num_mels": 80, "sampling_rate": 22050, "hop_size": 256, "win_size": 1024}
    wave = 0.3 * torch.sin(torch.arange(256 * 16) * 0.05)[None]
    target = mel_spectrogram(wave, **options, fmin=0, fmax=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        speech, _ = model({"speech_feat": target.transpose(1, 2)}, CPU)
        loss = (mel_spectrogram(speech, **options, fmin=0, fmax=None) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_training_works_after_a_first_use_in_inference_mode(mel: Tensor) -> None:
    audio.hann_window.cache_clear()
    model = tiny_hift()
    model.inference(mel)
    speech, _ = model({"speech_feat": mel.transpose(1, 2)}, CPU)
    speech.mean().backward()
    assert model.conv_post.bias.grad.isfinite().all()


def test_draws_are_phase_then_noise_then_the_unused_branch(mel: Tensor) -> None:
    model, samples = tiny_hift(), 256 * mel.shape[2]
    torch.manual_seed(3)
    phase = torch.rand(1, 9, 1) * (2 * torch.pi) - torch.pi
    noise = torch.randn(1, 9, samples)
    torch.randn(1, samples, 1)
    after = torch.rand(())
    torch.manual_seed(3)
    drawn, _ = model.inference(mel)
    assert torch.equal(torch.rand(()), after)
    injected, _ = model.inference(mel, phase=phase, noise=noise)
    torch.testing.assert_close(drawn, injected, rtol=0, atol=1e-6)


def test_ten_hertz_is_unvoiced_and_only_above_it_is_voiced() -> None:
    f0 = torch.tensor([[[10.0, 10.001]]])
    waves, voiced, _ = SineGen(22050)(f0, phase=torch.full((1, 9, 1), 1.0), noise=torch.zeros(1, 9, 2))
    assert voiced.tolist() == [[[0.0, 1.0]]]
    assert waves[:, :, 0].abs().max() == 0 and waves[:, :, 1].abs().min() > 0


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_samples_per_mel_frame(frames: int) -> None:
    speech, source = tiny_hift().inference(torch.zeros(2, 80, frames))
    assert speech.shape == (2, 256 * frames) and source.shape == (2, 1, 256 * frames)
    assert speech.abs().max() <= 0.99


def test_cached_excitation_is_played_first(mel: Tensor) -> None:
    cached = torch.full((1, 1, 700), 0.25)
    _, source = tiny_hift().inference(mel, cached)
    assert torch.equal(source[:, :, :700], cached)
    assert source[:, :, 700:].std() > 0


def test_options_that_no_model_uses_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="num_class=2"):
        ConvRNNF0Predictor(num_class=2)
    with pytest.raises(ValueError, match="f0_predictor"):
        HiFTGenerator(base_channels=32)
