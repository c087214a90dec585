"""The encoders: refusals, padding, positions of any length, cached decoding, checkpointing, precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cosyvoice.transformer import attention as attention_module
from cosyvoice.transformer.attention import RelPositionMultiHeadedAttention, aligned, rel_shift
from cosyvoice.transformer.embedding import distance_code, relative_positions
from cosyvoice.transformer.encoder import BaseEncoder, ConformerEncoder, TransformerEncoder

CPU = torch.device("cpu")


def make_encoder(encoder_class: type[BaseEncoder] = TransformerEncoder, **options: Any) -> BaseEncoder:
    """Tiny encoder, 12 -> 16 channels, with random norms as well; eval mode."""
    torch.manual_seed(0)
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
    module = encoder_class(12, **{**sizes, **options})
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.mark.parametrize(
    ("encoder_class", "option", "value"),
    [
        (ConformerEncoder, "use_cnn_module", True),
        (ConformerEncoder, "macaron_style", True),
        (ConformerEncoder, "input_layer", "conv2d"),
        (ConformerEncoder, "pos_enc_layer_type", "abs_pos"),
        (ConformerEncoder, "selfattention_layer_type", "selfattn"),
        (ConformerEncoder, "activation_type", "gelu"),
        (ConformerEncoder, "normalize_before", False),
        (ConformerEncoder, "static_chunk_size", 2),
        (ConformerEncoder, "use_dynamic_chunk", True),
        (TransformerEncoder, "use_dynamic_left_chunk", True),
        (TransformerEncoder, "global_cmvn", "cmvn.json"),
        (TransformerEncoder, "key_bias", False),
    ],
)
def test_unused_option_is_refused_by_name(encoder_class: type[BaseEncoder], option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{encoder_class.__name__}: {option}={value!r}"):
        make_encoder(encoder_class, **{option: value})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="16 is not a multiple of 3 heads"):
        RelPositionMultiHeadedAttention(3, 16, 0.0)


def test_positions_beyond_five_thousand() -> None:
    expected = distance_code(torch.tensor([6000.0, 5999.0, 5998.0]), 8)
    assert torch.equal(relative_positions(6000, 5998, 8, torch.float32, CPU), expected)
    assert torch.equal(relative_positions(-5999, -6000, 8, torch.float32, CPU)[0, 1::2], expected[1, 1::2])


def test_positions_are_no_part_of_the_state_dict_and_work_after_building_on_meta() -> None:
    source = make_encoder(static_chunk_size=1)
    with torch.device("meta"):
        module = TransformerEncoder(
            12, output_size=16, attention_heads=2, linear_units=24, num_blocks=2, static_chunk_size=1
        ).eval()
    assert not list(module.buffers())
    module.load_state_dict(source.state_dict(), strict=True, assign=True)
    x, lengths = torch.randn(1, 9, 12), torch.tensor([9])
    assert torch.equal(module(x, lengths)[0], source(x, lengths)[0])


def test_positions_made_in_inference_can_be_trained_with() -> None:
    module = make_encoder(static_chunk_size=1, output_size=18)  # a width that no other test uses
    x, lengths = torch.randn(1, 5, 12), torch.tensor([5])
    with torch.inference_mode():
        module(x, lengths)
    module(x, lengths)[0].sum().backward()
    assert module.encoders[0].self_attn.linear_pos.weight.grad is not None


@pytest.mark.parametrize("static_chunk_size", [0, 1])
@pytest.mark.parametrize("encoder_class", [ConformerEncoder, TransformerEncoder])
def test_padding_does_not_change_the_output(encoder_class: type[BaseEncoder], static_chunk_size: int) -> None:
    module = make_encoder(encoder_class, static_chunk_size=static_chunk_size)
    x, lengths = torch.randn(3, 11, 12), torch.tensor([11, 4, 0])
    together, mask = module(x, lengths)
    alone, _ = module(x[1:2, :4], lengths[1:2])
    torch.testing.assert_close(together[1, :4], alone[0], atol=1e-5, rtol=1e-5)
    assert mask.sum(dim=-1).squeeze(1).tolist() == [11, 4, 0]
    assert torch.isfinite(together).all()


@pytest.mark.parametrize(("static_chunk_size", "sees_the_future"), [(0, True), (1, False)])
def test_static_chunk_size_one_is_causal(static_chunk_size: int, sees_the_future: bool) -> None:
    module = make_encoder(static_chunk_size=static_chunk_size)
    x, lengths = torch.randn(1, 7, 12), torch.tensor([7])
    changed = x.clone()
    changed[:, 4:] += 1.0
    before, after = module(x, lengths)[0], module(changed, lengths)[0]
    assert bool((before[:, :4] != after[:, :4]).any()) == sees_the_future


def test_full_length_batch_needs_no_mask() -> None:
    module = make_encoder(static_chunk_size=0)
    assert module._attention_mask(torch.tensor([5, 5]), 5, CPU) is None
    assert module._attention_mask(torch.tensor([5, 4]), 5, CPU).shape == (2, 1, 5)


@torch.inference_mode()
def test_decoding_one_position_at_a_time_equals_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "CACHE_CHUNK", 8)
    module = make_encoder(static_chunk_size=1)
    x = torch.randn(1, 30, 12)
    whole, _ = module(x, torch.tensor([30]))
    cache = module.new_cache()
    parts = [module.decode(piece, cache) for piece in x.split([6, 1, 1, 5, *[1] * 17], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert cache[0].kv.shape == (1, 2, 30, 16)


@torch.inference_mode()
def test_decoding_projects_each_distance_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "CACHE_CHUNK", 8)
    module = make_encoder(static_chunk_size=1)
    rows: list[int] = []
    module.encoders[1].self_attn.linear_pos.register_forward_hook(lambda _, args, __: rows.append(args[0].size(1)))
    cache = module.new_cache()
    for piece in torch.randn(1, 20, 12).split([3, *[1] * 17], dim=1):
        module.decode(piece, cache)
    assert rows == [8, 8, 8]  # distances 0..7, 8..15, 16..23 for 20 positions


def test_forward_chunk_refuses_a_wrong_offset_and_a_limited_cache() -> None:
    module, x = make_encoder(static_chunk_size=1), torch.randn(1, 3, 12)
    with pytest.raises(ValueError, match="offset 2 but 0 positions"):
        module.forward_chunk(x, 2)
    with pytest.raises(ValueError, match="required_cache_size=16"):
        module.forward_chunk(x, 0, required_cache_size=16)


def test_empty_cache_has_no_tensor() -> None:
    with pytest.raises(ValueError, match="cache is empty"):
        _ = attention_module.LayerCache().kv


def gradients(
    module: BaseEncoder, checkpointing: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    module.gradient_checkpointing = checkpointing
    module.zero_grad()
    torch.manual_seed(1)
    out, _ = module(torch.randn(2, 6, 12, dtype=dtype), torch.tensor([6, 4]))
    out.square().sum().backward()
    return out.detach(), {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("static_chunk_size", [0, 1])
def test_checkpointing_changes_no_gradient(training: bool, static_chunk_size: int) -> None:
    module = make_encoder(ConformerEncoder, attention_dropout_rate=0.1, static_chunk_size=static_chunk_size)
    module.train(training)
    plain, checkpointed = gradients(module, False), gradients(module, True)
    assert torch.equal(plain[0], checkpointed[0])
    torch.testing.assert_close(plain[1], checkpointed[1])


@pytest.mark.parametrize("static_chunk_size", [0, 1])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_attention_in_blocks_of_queries_changes_nothing(
    block: int, static_chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_encoder(ConformerEncoder, static_chunk_size=static_chunk_size).double()
    whole = gradients(module, dtype=torch.double)
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", block)
    torch.testing.assert_close(gradients(module, dtype=torch.double), whole, rtol=0, atol=1e-10)


def test_a_causal_query_meets_no_key_beyond_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 4)
    shapes: list[tuple[int, int]] = []
    attend = attention_module.attend

    def note(q: Tensor, k: Tensor, *rest: Any) -> Tensor:
        shapes.append((q.size(2), k.size(2)))
        return attend(q, k, *rest)

    monkeypatch.setattr(attention_module, "attend", note)
    make_encoder(static_chunk_size=1, num_blocks=1)(torch.randn(1, 10, 12), torch.tensor([10]))
    assert shapes == [(4, 4), (4, 8), (2, 10)]
    assert attention_module.causal_scores(10) == sum(queries * keys for queries, keys in shapes)


def test_attention_with_a_gradient_equals_the_fused_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, size, 4, generator=generator) for size in (5, 7, 7))
    bias = torch.randn(2, 3, 5, 7, generator=generator).masked_fill(torch.arange(7) > 4, -torch.inf)
    fused = attention_module.attend(q, k, v, bias, 0.0)
    torch.testing.assert_close(attention_module.attend(q, k, v, bias.requires_grad_(), 0.0), fused)


def test_checkpointing_recomputes_layers_of_a_frozen_module_in_eval_mode() -> None:
    module = make_encoder(static_chunk_size=1).requires_grad_(False)
    module.encoders[0].self_attn.linear_q.weight.requires_grad_(True)
    module.gradient_checkpointing = True
    calls: list[int] = []
    module.encoders[1].register_forward_pre_hook(lambda *_: calls.append(1))
    x, lengths = torch.randn(1, 4, 12), torch.tensor([4])
    module(x, lengths)[0].sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        module(x, lengths)
    assert len(calls) == 3


def test_dropout_acts_only_in_training() -> None:
    module = make_encoder(dropout_rate=0.0, positional_dropout_rate=0.0, attention_dropout_rate=0.5)
    x, lengths = torch.randn(1, 6, 12), torch.tensor([6])
    assert torch.equal(module(x, lengths)[0], module(x, lengths)[0])
    module.train()
    assert not torch.equal(module(x, lengths)[0], module(x, lengths)[0])


def test_every_linear_layer_is_called_as_a_module() -> None:
    """So that a LoRA layer may take its place."""
    module = make_encoder(ConformerEncoder)
    called: set[str] = set()
    linears = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    for name in linears:
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    module(torch.randn(1, 4, 12), torch.tensor([4]))
    assert called == set(linears)
    assert len(linears) == 1 + 2 * 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("static_chunk_size", [0, 1])
def test_half_precision(dtype: torch.dtype, static_chunk_size: int) -> None:
    module = make_encoder(ConformerEncoder, static_chunk_size=static_chunk_size)
    x, lengths = torch.randn(2, 9, 12), torch.tensor([9, 5])
    expected, _ = module(x, lengths)
    with torch.autocast("cpu", dtype):
        automatic, _ = module(x, lengths)
    half, _ = module.to(dtype)(x.to(dtype), lengths)
    assert half.dtype == dtype
    for result in (automatic, half):
        torch.testing.assert_close(result[1, :5].float(), expected[1, :5], atol=0.1, rtol=0.1)


def test_a_bias_is_handed_to_a_gpu_at_an_address_that_it_can_read() -> None:
    bias = rel_shift(torch.randn(1, 2, 1, 16, dtype=torch.bfloat16), 15)
    assert bias.data_ptr() % 16, "what a single query gets begins one score late"
    assert torch.equal(aligned(bias), bias) and aligned(bias).data_ptr() % 16 == 0
    readable = aligned(bias)
    assert aligned(readable) is readable
