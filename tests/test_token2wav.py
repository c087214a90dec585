"""Speech tokens to sound: the schedule of streamed pieces, the state of an utterance, speed, mistakes."""

from collections.abc import Iterator

import pytest
import torch
from acoustic import tiny_flow, tiny_hift
from torch import Tensor, nn

from cosyvoice.cli.model import CosyVoiceModel
from cosyvoice.llm.llm import TransformerLM
from cosyvoice.transformer.encoder import ConformerEncoder, TransformerEncoder
from cosyvoice.utils.common import token_to_mel_length


class Recital(nn.Module):
    """Language model that recites a fixed list of speech tokens and notes how far it came."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self.tokens, self.said, self.inputs = tokens, 0, {}

    def inference(self, **inputs: Tensor) -> Iterator[int]:
        self.inputs = inputs
        for token in self.tokens:
            self.said += 1
            yield token


def model_with(tokens: int, rate: int = 50, **options: float) -> CosyVoiceModel:
    recital = Recital([i % 64 for i in range(tokens)])
    return CosyVoiceModel(recital, tiny_flow(input_frame_rate=rate), tiny_hift(), **options)


def prompts() -> dict[str, Tensor]:
    return {
        "prompt_token": torch.zeros(1, 0, dtype=torch.int32),
        "prompt_feat": torch.zeros(1, 0, 80),
        "embedding": torch.ones(1, 24),
    }


def tokens_of(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32)[None] % 64


TEXT, SPEAKER = torch.tensor([[1, 2, 3]]), torch.ones(1, 24)


@pytest.mark.parametrize(("rate", "hop", "longest", "overlap"), [(50, 100, 200, 20), (25, 50, 100, 10)])
def test_streaming_lengths_follow_the_token_rate(rate: int, hop: int, longest: int, overlap: int) -> None:
    model = model_with(0, rate)
    assert (model.token_min_hop_len, model.token_max_hop_len, model.token_overlap_len) == (hop, longest, overlap)
    assert model.mel_overlap_len == 34 and len(model.mel_window) == 68 and len(model.speech_window) == 10240


def spans(model: CosyVoiceModel, count: int) -> list[tuple[int, int, bool]]:
    """(first token, number of tokens, last piece?) of each streamed piece of the tokens 0, 1, .., count - 1."""
    pieces = model.stream_pieces(range(count))
    return [(piece[0] if piece else count, len(piece), last) for piece, last in pieces]


def test_pieces_overlap_by_twenty_tokens() -> None:
    model = model_with(0)
    assert spans(model, 230) == [(0, 120, False), (100, 120, False), (200, 30, True)]
    assert spans(model, 120) == [(0, 120, False), (100, 20, True)]
    assert spans(model, 119) == [(0, 119, True)]
    assert spans(model, 0) == [(0, 0, True)]


def test_pieces_grow_up_to_the_longest_hop() -> None:
    model = model_with(0, stream_scale_factor=1.5)
    assert [length for _, length, _ in spans(model, 1000)] == [120, 170, 220, 220, 220, 150]


def test_streaming_speaks_before_the_language_model_is_done() -> None:
    model = model_with(230)
    speech = model.tts(TEXT, SPEAKER, stream=True, n_timesteps=1)
    first = next(speech)["tts_speech"]
    assert first.shape == (1, (206 - 34 - 20) * 256)
    assert model.llm.said == 120
    rest = [piece["tts_speech"].shape[1] for piece in speech]
    assert [first.shape[1], *rest] == [38912, 44032, 18176]
    assert model.states == {}


@pytest.mark.parametrize("rate", [50, 25])
def test_streamed_and_whole_utterances_last_equally_long(rate: int) -> None:
    model = model_with(5 * rate, rate)
    whole = list(model.tts(TEXT, SPEAKER, n_timesteps=1))
    pieces = list(model.tts(TEXT, SPEAKER, stream=True, n_timesteps=1))
    assert len(whole) == 1 and len(pieces) == 3
    samples = whole[0]["tts_speech"].shape[1]
    assert samples == 256 * token_to_mel_length(5 * rate, rate)
    streamed = sum(piece["tts_speech"].shape[1] for piece in pieces)
    assert abs(streamed - samples) <= 2 * 256  # lengths of pieces are cut to whole frames


def test_one_seed_gives_one_sound() -> None:
    model = model_with(30)
    torch.manual_seed(7)
    first = [piece["tts_speech"] for piece in model.tts(TEXT, SPEAKER)]
    torch.manual_seed(7)
    second = [piece["tts_speech"] for piece in model.tts(TEXT, SPEAKER)]
    assert torch.equal(first[0], second[0])


def test_tokens_of_a_real_language_model_become_sound() -> None:
    torch.manual_seed(0)
    sizes = {"input_size": 16, "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    llm = TransformerLM(
        text_encoder_input_size=16,
        llm_input_size=16,
        llm_output_size=16,
        text_token_size=10,
        speech_token_size=64,
        text_encoder=ConformerEncoder(**sizes, static_chunk_size=1),
        llm=TransformerEncoder(**sizes, input_layer="linear_legacy", static_chunk_size=1),
        spk_embed_dim=24,
    )
    model = CosyVoiceModel(llm, tiny_flow(), tiny_hift())
    tokens = list(model.speech_tokens(TEXT, SPEAKER, max_token_text_ratio=4))
    assert 6 <= len(tokens) <= 12
    (speech,) = model.tts(TEXT, SPEAKER, n_timesteps=1)
    assert speech["tts_speech"].isfinite().all() and speech["tts_speech"].abs().max() > 0


def test_missing_prompts_reach_the_language_model_as_empty() -> None:
    model = model_with(10)
    list(model.speech_tokens(TEXT, SPEAKER))
    inputs = model.llm.inputs
    assert inputs["prompt_text"].shape == (1, 0) and inputs["prompt_speech_token"].shape == (1, 0)
    assert inputs["text_len"].tolist() == [3] and torch.equal(inputs["embedding"], SPEAKER)


def test_speed_changes_the_length_and_nothing_of_the_state() -> None:
    model = model_with(60)
    lengths = [
        model.token2wav(tokens_of(60), **prompts(), uuid="a", finalize=True, speed=speed, n_timesteps=1).shape[1]
        for speed in (0.5, 1.0, 2.0)
    ]
    assert lengths == [206 * 256, 103 * 256, 51 * 256]
    assert model.states == {}


def test_streaming_ignores_the_speed() -> None:
    model = model_with(60)
    (piece,) = model.tts(TEXT, SPEAKER, stream=True, speed=2.0, n_timesteps=1)
    assert piece["tts_speech"].shape[1] == 103 * 256


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        model_with(0).token2wav(tokens_of(30), **prompts(), uuid="a", finalize=True, speed=speed)


def test_speed_is_refused_within_a_stream() -> None:
    model = model_with(0)
    model.token2wav(tokens_of(120), **prompts(), uuid="a", finalize=False, n_timesteps=1)
    with pytest.raises(ValueError, match="only for a whole utterance"):
        model.token2wav(tokens_of(30), **prompts(), uuid="a", finalize=True, speed=1.5)
    assert model.states == {}


def test_empty_token_lists_are_named_and_leave_no_state() -> None:
    model = model_with(0)
    with pytest.raises(ValueError, match="no speech tokens"):
        list(model.tts(TEXT, SPEAKER))
    with pytest.raises(ValueError, match="no speech tokens"):
        list(model.tts(TEXT, SPEAKER, stream=True))
    assert model.states == {}


def test_a_listener_who_leaves_early_leaves_no_state_behind() -> None:
    model = model_with(400)
    speech = model.tts(TEXT, SPEAKER, stream=True, n_timesteps=1)
    next(speech)
    assert len(model.states) == 1
    speech.close()
    assert model.states == {}


def test_a_failure_in_a_network_leaves_no_state_behind() -> None:
    model = model_with(0)
    model.token2wav(tokens_of(120), **prompts(), uuid="a", finalize=False, n_timesteps=1)
    assert list(model.states) == ["a"]
    with pytest.raises(RuntimeError):
        model.token2wav(
            tokens_of(120), **{**prompts(), "embedding": torch.ones(1, 5)}, uuid="a", finalize=False, n_timesteps=1
        )
    assert model.states == {}


def test_two_utterances_at_once_do_not_mix() -> None:
    model = model_with(0)
    alone = []
    for uuid in ("a", "b"):
        torch.manual_seed(1)
        alone.append(model.token2wav(tokens_of(120), **prompts(), uuid=uuid, finalize=False, n_timesteps=1))
    assert torch.equal(*alone) and set(model.states) == {"a", "b"}


def test_without_a_language_model_text_is_refused() -> None:
    model = CosyVoiceModel(None, tiny_flow(), tiny_hift())
    with pytest.raises(ValueError, match="without a language model"):
        next(model.speech_tokens(TEXT, SPEAKER))


# ---- weights of other tools ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "warnings"), [(-8.0, 0), (-4.5, 0), (0.1, 1)])
def test_a_flow_that_makes_mels_on_another_scale_is_told_once(mean: float, warnings: int, caplog) -> None:
    """Tools that normalise mels train on (mel + 6) / 2, whose mean is near 0."""
    model = model_with(10)
    last = model.flow.decoder.estimator.final_proj
    last.weight.data.zero_()
    last.bias.data.fill_(mean)  # the constant velocity from noise to noise around this mean
    for _ in range(2):
        assert list(model.tts(TEXT, SPEAKER))
    assert len(caplog.records) == warnings
