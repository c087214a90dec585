"""The language model in training and in inference, on a tiny random model."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cosyvoice.llm.decoding import pad_left
from cosyvoice.llm.llm import TransformerLM, Utterance
from cosyvoice.transformer.encoder import ConformerEncoder, TransformerEncoder
from cosyvoice.utils.common import ras_sampling, token_to_mel_length

TEXT_IDS, SPEECH_IDS, SPEAKER = 30, 20, 6
EOS = SPEECH_IDS


def make_llm(**options: Any) -> TransformerLM:
    torch.manual_seed(0)
    sizes = {"attention_heads": 2, "linear_units": 32, "num_blocks": 2, "static_chunk_size": 1}
    model = TransformerLM(
        text_encoder_input_size=8,
        llm_input_size=16,
        llm_output_size=16,
        text_token_size=TEXT_IDS,
        speech_token_size=SPEECH_IDS,
        text_encoder=ConformerEncoder(8, output_size=12, **sizes),
        llm=TransformerEncoder(16, output_size=16, input_layer="linear_legacy", **sizes),
        spk_embed_dim=SPEAKER,
        **options,
    )
    return model.eval()


@pytest.fixture
def llm() -> TransformerLM:
    return make_llm()


def make_batch(text_lengths: list[int], speech_lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = len(text_lengths)
    return {
        "text_token": torch.randint(TEXT_IDS, (size, max(text_lengths)), generator=generator),
        "text_token_len": torch.tensor(text_lengths, dtype=torch.int32),
        "speech_token": torch.randint(SPEECH_IDS, (size, max(speech_lengths)), generator=generator),
        "speech_token_len": torch.tensor(speech_lengths, dtype=torch.int32),
        "embedding": torch.randn(size, SPEAKER, generator=generator),
    }


def item(batch: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Item i of the batch without padding."""
    alone = {key: value[i : i + 1] for key, value in batch.items()}
    for name in ("text_token", "speech_token"):
        alone[name] = alone[name][:, : int(alone[f"{name}_len"])]
    return alone


def start_of(n_text: int) -> dict[str, Tensor]:
    """What `inference` needs for a text of n_text tokens without a prompt."""
    generator = torch.Generator().manual_seed(9)
    return {
        "text": torch.randint(TEXT_IDS, (1, n_text), generator=generator),
        "text_len": torch.tensor([n_text]),
        "prompt_text": torch.zeros(1, 0, dtype=torch.int32),
        "prompt_text_len": torch.tensor([0]),
        "prompt_speech_token": torch.zeros(1, 0, dtype=torch.int32),
        "prompt_speech_token_len": torch.tensor([0]),
        "embedding": torch.randn(1, SPEAKER, generator=generator),
    }


def speak(model: TransformerLM, n_text: int = 4, seed: int = 0, **options: Any) -> list[int]:
    """Tokens from a text of n_text tokens without a prompt."""
    torch.manual_seed(seed)
    return list(model.inference(**{**start_of(n_text), **options}))


def test_padding_does_not_change_the_loss(llm: TransformerLM) -> None:
    batch = make_batch([7, 3, 1], [12, 20, 2])
    losses, tokens = llm.clip_losses(batch, "cpu")
    for i in range(3):
        torch.testing.assert_close(llm(item(batch, i), "cpu")["loss"], losses[i], atol=1e-5, rtol=1e-5)
    assert tokens.tolist() == [13, 21, 3]


def test_what_stands_in_the_padding_is_not_read(llm: TransformerLM) -> None:
    batch = make_batch([7, 3], [5, 9])
    other = {key: value.clone() for key, value in batch.items()}
    other["text_token"][1, 3:] = 0
    other["speech_token"][0, 5:] = 0
    assert torch.equal(llm(batch, "cpu")["loss"], llm(other, "cpu")["loss"])


def test_loss_is_the_mean_over_all_tokens(llm: TransformerLM) -> None:
    batch = make_batch([4, 2], [10, 3])
    result = llm(batch, "cpu")
    losses, tokens = llm.clip_losses(batch, "cpu")
    torch.testing.assert_close(result["loss"], (losses * tokens).sum() / tokens.sum())
    assert result["tokens"] == int(tokens.sum()) == 15
    assert 0.0 <= float(result["acc"]) <= 1.0


def test_divisor_is_the_batch_size_where_the_loss_is_not_length_normalized() -> None:
    batch = make_batch([4, 2], [10, 3])
    mean, per_item = make_llm()(batch, "cpu"), make_llm(length_normalized_loss=False)(batch, "cpu")
    torch.testing.assert_close(per_item["loss"], mean["loss"] * 15 / 2)


def test_targets_follow_the_task_position(llm: TransformerLM) -> None:
    batch = make_batch([2, 1], [3, 1])
    _, lengths, target = llm.teacher_forced_input(batch, "cpu")
    first, second = batch["speech_token"].tolist()
    assert lengths.tolist() == [8, 5]
    assert target.tolist() == [[-1, -1, -1, -1, *first, EOS], [-1, -1, -1, second[0], EOS, -1, -1, -1]]


@pytest.mark.parametrize(("text_lengths", "speech_lengths"), [([3, 0], [4, 4]), ([0], [4]), ([3, 2], [4, 0])])
def test_items_without_text_or_speech_are_possible(
    llm: TransformerLM, text_lengths: list[int], speech_lengths: list[int]
) -> None:
    losses, tokens = llm.clip_losses(make_batch(text_lengths, speech_lengths), "cpu")
    assert torch.isfinite(losses).all()
    assert tokens.tolist() == [length + 1 for length in speech_lengths]


def test_every_parameter_takes_part_in_training(llm: TransformerLM) -> None:
    llm(make_batch([5, 3], [9, 7]), "cpu")["loss"].backward()
    assert [name for name, parameter in llm.named_parameters() if parameter.grad is None] == []


def test_length_of_the_speaker_vector_does_not_matter(llm: TransformerLM) -> None:
    batch = make_batch([3], [5])
    louder = {**batch, "embedding": 7.0 * batch["embedding"]}
    torch.testing.assert_close(llm(louder, "cpu")["loss"], llm(batch, "cpu")["loss"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision(llm: TransformerLM, dtype: torch.dtype) -> None:
    batch = make_batch([5, 3], [9, 7])
    expected = llm(batch, "cpu")["loss"]
    with torch.autocast("cpu", dtype):
        automatic = llm(batch, "cpu")["loss"]
    with torch.autocast("cpu", dtype):
        frozen_half = llm.to(dtype)(batch, "cpu")["loss"]
    assert automatic.dtype == frozen_half.dtype == torch.float32
    torch.testing.assert_close(automatic, expected, atol=0.05, rtol=0.02)
    torch.testing.assert_close(frozen_half, expected, atol=0.05, rtol=0.02)


def test_encoder_that_sees_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="llm has static_chunk_size=0"):
        TransformerLM(
            8, 16, 16, 30, 20, ConformerEncoder(8, output_size=12, static_chunk_size=1), TransformerEncoder(16)
        )


def test_decoding_agrees_with_the_teacher_forced_pass(llm: TransformerLM) -> None:
    seen: list[Tensor] = []

    def record(scores: Tensor, history: list[int], sampling: int) -> int:
        seen.append(scores.clone())
        return ras_sampling(scores, history, sampling)

    llm.sampling = record
    text, speaker = torch.tensor([[5, 1, 7, 2]]), torch.randn(1, SPEAKER)
    tokens = speak(llm, text=text, embedding=speaker, min_token_text_ratio=30, max_token_text_ratio=40)
    assert len(tokens) >= 120
    batch = {
        "text_token": text,
        "text_token_len": torch.tensor([4]),
        "speech_token": torch.tensor([tokens]),
        "speech_token_len": torch.tensor([len(tokens)]),
        "embedding": speaker,
    }
    logits, target = llm.logits(batch, "cpu")
    taught = logits[0, target[0] != -1][:, :EOS].log_softmax(dim=-1)
    decoded = torch.stack(seen)[:, :EOS].log_softmax(dim=-1)
    torch.testing.assert_close(decoded, taught[: len(decoded)], atol=2e-5, rtol=1e-5)


def test_length_stays_within_the_ratios(llm: TransformerLM) -> None:
    with torch.no_grad():
        llm.llm_decoder.bias[EOS] = -100.0
    assert len(speak(llm, min_token_text_ratio=0, max_token_text_ratio=3.3)) == 13
    assert not llm.stopped_by_eos
    with torch.no_grad():
        llm.llm_decoder.bias[EOS] = 100.0
    assert len(speak(llm, min_token_text_ratio=1.6, max_token_text_ratio=5)) == 6
    assert llm.stopped_by_eos
    assert len(speak(llm, min_token_text_ratio=0)) == 1


def test_no_text_gives_no_tokens(llm: TransformerLM) -> None:
    assert speak(llm, n_text=0) == []


def test_same_seed_gives_the_same_tokens(llm: TransformerLM) -> None:
    first = speak(llm, seed=3, min_token_text_ratio=8)
    assert speak(llm, seed=3, min_token_text_ratio=8) == first
    assert speak(llm, seed=4, min_token_text_ratio=8) != first
    assert all(type(token) is int and 0 <= token < EOS for token in first)


def test_speaker_vector_without_batch_axis(llm: TransformerLM) -> None:
    speaker = torch.randn(1, SPEAKER)
    assert speak(llm, embedding=speaker[0]) == speak(llm, embedding=speaker)


def test_no_speaker_leaves_the_position_out(llm: TransformerLM) -> None:
    text, none = torch.tensor([[1, 2]]), torch.zeros(1, 0, dtype=torch.int32)
    assert llm.prefix(text, none, none, torch.randn(1, SPEAKER)).shape == (1, 5, 16)
    assert llm.prefix(text, none, none, torch.zeros(0, SPEAKER)).shape == (1, 4, 16)


def test_inference_changes_no_argument_and_keeps_no_graph(llm: TransformerLM) -> None:
    lengths = {"text_len": torch.tensor([2]), "prompt_text_len": torch.tensor([3])}
    ids = {"text": torch.tensor([[1, 2]]), "prompt_text": torch.tensor([[3, 4, 5]])}
    scores: list[Tensor] = []

    def record(x: Tensor, history: list[int], sampling: int) -> int:
        scores.append(x)
        return ras_sampling(x, history, sampling)

    llm.sampling = record
    assert speak(llm, **ids, **lengths)
    assert [int(value) for value in lengths.values()] == [2, 3]
    assert not any(x.requires_grad for x in scores)


def test_sampler_of_the_configuration_is_used() -> None:
    greedy = make_llm(sampling=partial(ras_sampling, top_k=1, tau_r=2.0))
    assert speak(greedy, seed=1) == speak(greedy, seed=2)


def test_decoding_in_half_precision(llm: TransformerLM) -> None:
    llm.sampling = lambda scores, history, sampling: int(scores.argmax())
    with torch.autocast("cpu", torch.bfloat16):
        assert len(speak(llm, min_token_text_ratio=5, max_token_text_ratio=5)) == 20
    assert len(speak(llm.bfloat16(), min_token_text_ratio=5, max_token_text_ratio=5)) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampler_leaves_the_scores_alone_and_avoids_the_repeated_token(dtype: torch.dtype) -> None:
    scores = torch.tensor([9.0, 0.0, 0.0], dtype=dtype)
    torch.manual_seed(0)
    drawn = {ras_sampling(scores, [0]) for _ in range(40)}
    assert drawn == {1, 2}
    assert scores.tolist() == [9.0, 0.0, 0.0]


@pytest.mark.parametrize(("tokens", "rate", "frames"), [(0, 50, 0), (50, 50, 86), (20, 50, 34), (25, 25, 86)])
def test_mel_length_of_speech_tokens(tokens: int, rate: int, frames: int) -> None:
    assert token_to_mel_length(tokens, rate) == frames


# ---- several utterances at once --------------------------------------------------------------------------------------


def utterances(model: TransformerLM, lengths: Sequence[int]) -> list[Utterance]:
    """Texts of these lengths, each with a seed of its own."""
    found = []
    for seed, length in enumerate(lengths):
        torch.manual_seed(seed)
        fewest, most = model.limits(length, 1, 4)
        found.append(Utterance(torch.arange(length) % 7, fewest, most, torch.get_rng_state()))
    return found


def test_a_batch_says_what_each_says_by_itself() -> None:
    model, vector = make_llm(), torch.randn(1, SPEAKER, generator=torch.Generator().manual_seed(1))
    lengths = [9, 2, 5, 0, 7, 1]
    together = utterances(model, lengths)
    before = torch.get_rng_state()
    model.inference_batch(together, vector)
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(utterance.tokens) for utterance in together}) > 3
    for seed, (length, utterance) in enumerate(zip(lengths, together, strict=True)):
        torch.manual_seed(seed)
        text, none, nothing = torch.arange(length)[None] % 7, torch.zeros(1, 0, dtype=torch.int32), torch.tensor([0])
        alone = list(model.inference(text, torch.tensor([length]), none, nothing, none, nothing, vector, 25, 4, 1))
        assert utterance.tokens == alone
        assert utterance.stopped_by_eos == model.stopped_by_eos
        assert torch.equal(utterance.random_state, torch.get_rng_state())


def test_padding_on_the_left_changes_no_scores() -> None:
    model = make_llm()
    short, long = torch.randn(3, 16), torch.randn(8, 16)
    step, padding = pad_left([short, long])
    assert padding.tolist() == [5, 0] and not step[0, :5].any()
    next_step = torch.randn(1, 1, 16)
    with torch.inference_mode():
        cache = model.llm.new_cache()
        both = [model.next_scores(step, cache, padding), model.next_scores(next_step.expand(2, 1, -1), cache, padding)]
        for row, sequence in enumerate((short, long)):
            cache = model.llm.new_cache()
            alone = [model.next_scores(sequence[None], cache), model.next_scores(next_step, cache)]
            for together, single in zip(both, alone, strict=True):
                torch.testing.assert_close(together[row], single[0], rtol=1e-5, atol=1e-6)


def test_an_empty_batch_and_one_of_empty_texts() -> None:
    model = make_llm()
    model.inference_batch([], torch.randn(1, SPEAKER))
    empty = utterances(model, [0, 0])
    model.inference_batch(empty, torch.randn(1, SPEAKER))
    assert [utterance.tokens for utterance in empty] == [[], []]
