"""The flow's evaluations repeated as a GPU does it with CUDA graphs: the same mel as without, in any order."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from acoustic import tiny_flow
from test_static_decoding import repeated
from torch import Tensor

from cosyvoice.flow import static_velocity
from cosyvoice.flow.flow import MaskedDiffWithXvec
from cosyvoice.flow.static_velocity import KEPT_LENGTHS, StaticVelocities
from cosyvoice.utils.common import token_to_mel_length

SOLVERS = (("multistep", 5), ("euler", 3), ("euler", 1))


@pytest.fixture(params=["called", "repeated"])
def flow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MaskedDiffWithXvec:
    if request.param == "repeated":
        monkeypatch.setattr(static_velocity, "captured", repeated)
    flow = tiny_flow()
    flow.decoder.estimator.static_velocities = StaticVelocities()
    return flow


def mel_of(flow: MaskedDiffWithXvec, tokens: int, seed: int, solver: str, n_timesteps: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    device = flow.input_embedding.weight.device
    token = torch.randint(flow.vocab_size, (1, tokens), generator=generator).to(device)
    speaker = torch.randn(1, flow.spk_embed_affine_layer.in_features, generator=generator).to(device)
    prompt, prompt_feat, none = token[:, :0], torch.zeros(1, 0, 80, device=device), torch.tensor([0])
    noise = torch.randn(1, 80, token_to_mel_length(tokens, flow.input_frame_rate), generator=generator)
    arguments = token, torch.tensor([tokens]), prompt, none, prompt_feat, none, speaker
    return flow.inference(*arguments, noise=noise, n_timesteps=n_timesteps, solver=solver)[0]


@pytest.mark.parametrize(("solver", "n_timesteps"), SOLVERS)
def test_sounds_of_several_lengths_in_turn(flow: MaskedDiffWithXvec, solver: str, n_timesteps: int) -> None:
    estimator = flow.decoder.estimator
    for seed, tokens in enumerate((9, 14, 9, 9, 30, 14)):
        static = mel_of(flow, tokens, seed, solver, n_timesteps)
        kept, estimator.static_velocities = estimator.static_velocities, None
        torch.testing.assert_close(static, mel_of(flow, tokens, seed, solver, n_timesteps), rtol=0, atol=1e-6)
        estimator.static_velocities = kept
    assert len(kept.kept) == 3, "one for each length"


def test_the_lengths_used_last_are_kept(flow: MaskedDiffWithXvec) -> None:
    kept = flow.decoder.estimator.static_velocities.kept
    for tokens in range(10, 10 + KEPT_LENGTHS):
        mel_of(flow, tokens, 0, "euler", 1)
    first, second = list(kept)[:2]
    mel_of(flow, 10, 0, "euler", 1)
    mel_of(flow, 50, 0, "euler", 1)
    assert first in kept and second not in kept and len(kept) == KEPT_LENGTHS


def test_threads_do_not_meet_in_one_memory(flow: MaskedDiffWithXvec) -> None:
    with ThreadPoolExecutor(2) as threads:
        barrier = Barrier(2)

        def speak(seed: int) -> Tensor:
            barrier.wait()
            return mel_of(flow, 12, seed, "multistep", 6)

        together = list(threads.map(speak, (1, 2)))
    assert len(flow.decoder.estimator.static_velocities.kept) == 2
    for seed, mel in zip((1, 2), together, strict=True):
        torch.testing.assert_close(mel, mel_of(flow, 12, seed, "multistep", 6), rtol=0, atol=1e-6)


def test_where_memory_is_too_scarce_for_a_graph_there_is_none(
    flow: MaskedDiffWithXvec, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = mel_of(flow, 11, 0, "euler", 3)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(static_velocity, "captured", full)
    flow.decoder.estimator.static_velocities = StaticVelocities()
    torch.testing.assert_close(mel_of(flow, 11, 0, "euler", 3), expected, rtol=0, atol=1e-6)


def test_under_autocast_only_those_made_for_it_are_used(flow: MaskedDiffWithXvec) -> None:
    estimator = flow.decoder.estimator
    plain, made_for_it = estimator.static_velocities, StaticVelocities(under_autocast=True)
    with torch.autocast("cpu", torch.bfloat16):
        mel_of(flow, 9, 0, "euler", 2)
        estimator.static_velocities = made_for_it
        mel_of(flow, 9, 0, "euler", 2)
    assert not plain.kept and len(made_for_it.kept) == 1
    mel_of(flow, 9, 0, "euler", 2)
    assert len(made_for_it.kept) == 1 and made_for_it.kept.popitem()[1].velocity.dtype == torch.float32


def test_a_padded_batch_is_evaluated_as_it_is(flow: MaskedDiffWithXvec) -> None:
    estimator = flow.decoder.estimator
    inputs, mask = torch.zeros(2, estimator.in_channels, 12), torch.ones(2, 1, 12)
    estimator.evaluator(inputs, mask, estimator.time_embedding(torch.zeros(1)))
    assert not estimator.static_velocities.kept


def test_a_cpu_records_nothing(flow: MaskedDiffWithXvec) -> None:
    flow.decoder.estimator.static_velocities = None
    flow.prepare_inference("full")
    assert flow.decoder.estimator.static_velocities is None
