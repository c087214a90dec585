"""lora.py: zero start, exact targets, merging."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from config import LoraConfig, UserError
from llm_flow_model import adapters_in_eval
from lora import (
    ROWS_AT_ONCE,
    AdapterDropout,
    LoRALinear,
    adapter_parameters,
    adapter_state_dict,
    add_lora,
    load_adapter,
    lora_layers,
    merge_adapter,
)

CONFIG = LoraConfig(lora_r=3, lora_alpha=6, lora_dropout=0.5, target_modules=("to_q", "to_out.0"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(8, 12, bias=False)
        self.not_to_q = nn.Linear(8, 12)
        self.to_out = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.3))

    def forward(self, x):
        return self.to_out(torch.tanh(self.to_q(x)) * self.not_to_q(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": Block(), "b": Block()})


def run(model, x):
    return model["b"](model["a"](x))


def with_random_adapters(model):
    for parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=0.3)


def test_step_zero_is_the_base_model(model):
    x = torch.randn(4, 8)
    expected = run(model.eval(), x)
    add_lora(model, CONFIG, "llm")
    assert torch.equal(run(model, x), expected)


def test_targets_match_whole_names_only(model):
    assert add_lora(model, CONFIG, "llm") == ["a.to_q", "a.to_out.0", "b.to_q", "b.to_out.0"]
    assert not isinstance(model["a"].not_to_q, LoRALinear)


def test_a_target_that_matches_nothing_is_an_error(model):
    with pytest.raises(UserError, match=r"\['linear_q'\] match no Linear layer of the llm"):
        add_lora(model, LoraConfig(target_modules=("to_q", "linear_q")), "llm")


def test_only_adapters_train_and_only_their_dropout_acts(model):
    add_lora(model, CONFIG, "llm")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{kind}" for name, _ in lora_layers(model) for kind in ("lora_A", "lora_B")}
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {f"{name}.lora_dropout" for name, _ in lora_layers(model)}


def test_the_state_dict_keeps_the_keys_of_linear(model):
    before = set(model.state_dict())
    add_lora(model, CONFIG, "llm")
    assert {key for key in model.state_dict() if "lora_" not in key} == before


def test_merged_weights_give_the_adapted_output(model):
    base = {key: value.clone() for key, value in model.state_dict().items()}
    add_lora(model, CONFIG, "llm")
    x = torch.randn(4, 8)
    with_base = run(model.eval(), x)
    with_random_adapters(model)
    adapted = run(model, x)
    assert not torch.allclose(adapted, with_base)
    merged = merged_state_dict(base, adapter_state_dict(model))
    plain = nn.ModuleDict({"a": Block(), "b": Block()}).eval()
    plain.load_state_dict(merged, strict=True)
    torch.testing.assert_close(run(plain, x), adapted)


def test_half_a_merge_scale_is_heard_and_merged_but_not_trained(model):
    """Training has the whole update; measuring, hearing and merging have the same half of it."""
    config = replace(CONFIG, merge_scale=0.5, lora_dropout=0.0)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    add_lora(model, config, "llm")
    layer, x = model["a"].to_q, torch.randn(4, 8)
    before = layer(x)
    with_random_adapters(model)
    trained = layer(x)
    with adapters_in_eval(model):
        heard = layer(x)
        with adapters_in_eval(model):
            torch.testing.assert_close(layer(x), heard)
    assert not torch.allclose(trained, before)
    torch.testing.assert_close(heard, (before + trained) / 2)
    torch.testing.assert_close(layer(x), trained)
    merge_adapter(base, adapter_state_dict(model), config, 1.0)
    torch.testing.assert_close(nn.functional.linear(x, base["a.to_q.weight"]), heard)


def merged_state_dict(base, adapter, scale=1.0):
    state = {key: value.clone() for key, value in base.items()}
    merge_adapter(state, adapter, CONFIG, scale)
    return state


def test_weights_of_more_rows_than_are_added_at_once_and_a_mapped_file(tmp_path):
    weight = torch.randn(2 * ROWS_AT_ONCE + 7, 5)
    torch.save({"x.weight": weight}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    adapter = {"x.lora_A": torch.randn(3, 5), "x.lora_B": torch.randn(len(weight), 3)}
    state = torch.load(tmp_path / "x.pt", mmap=True, weights_only=True)
    merge_adapter(state, adapter, CONFIG, 0.5)
    expected = weight.double() + 0.5 * 2 * adapter["x.lora_B"].double() @ adapter["x.lora_A"].double()
    torch.testing.assert_close(state["x.weight"], expected.float())
    assert (tmp_path / "x.pt").read_bytes() == before


def test_merging_twice_changes_nothing_and_scale_zero_is_the_base(model):
    base = {key: value.clone() for key, value in model.state_dict().items()}
    add_lora(model, CONFIG, "llm")
    with_random_adapters(model)
    adapter = adapter_state_dict(model)
    first, second = merged_state_dict(base, adapter), merged_state_dict(base, adapter)
    unscaled = merged_state_dict(base, adapter, scale=0.0)
    assert all(torch.equal(first[key], second[key]) for key in base)
    assert all(torch.equal(unscaled[key], base[key]) for key in base)
    assert not torch.equal(first["a.to_q.weight"], base["a.to_q.weight"])


def test_an_adapter_of_another_rank_or_model_is_refused(model):
    base = {key: value.clone() for key, value in model.state_dict().items()}
    add_lora(model, CONFIG, "llm")
    adapter = adapter_state_dict(model)
    with pytest.raises(UserError, match="rank 4"):
        merge_adapter(base, adapter, LoraConfig(lora_r=4), 1.0)
    with pytest.raises(UserError, match="layer a.to_q is not in the base model"):
        lacking = {key: value for key, value in base.items() if key != "a.to_q.weight"}
        before = {key: value.clone() for key, value in lacking.items()}
        merge_adapter(lacking, adapter, CONFIG, 1.0)
    assert all(torch.equal(value, before[key]) for key, value in lacking.items())  # all or nothing
    del adapter["a.to_q.lora_B"]
    with pytest.raises(UserError, match=r"x.ckpt does not fit: missing \['a.to_q.lora_B'\]"):
        load_adapter(model, adapter, "x.ckpt")


def test_a_saved_adapter_comes_back(model):
    add_lora(model, CONFIG, "llm")
    with_random_adapters(model)
    saved = adapter_state_dict(model)
    with_random_adapters(model)
    load_adapter(model, saved, "x.ckpt")
    assert all(torch.equal(value, saved[key]) for key, value in adapter_state_dict(model).items())


@pytest.mark.parametrize("probability", [0.05, 0.15, 0.5, 0.95])
def test_dropout_keeps_its_share_and_the_mean_and_gives_a_gradient_where_it_keeps(probability):
    torch.manual_seed(0)
    dropout, x = AdapterDropout(probability), torch.ones(3, 211, 317, requires_grad=True)
    y = dropout(x)
    kept = y != 0
    deviation = (probability * (1 - probability) / x.numel()) ** 0.5
    assert abs(kept.double().mean() - (1 - probability)) < 5 * deviation
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - probability)))
    pairs = kept.flatten()[: kept.numel() // 4 * 4].view(-1, 4).double()  # four elements share one random number
    assert torch.corrcoef(pairs.T).fill_diagonal_(0).abs().max() < 5 / len(pairs) ** 0.5
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert not torch.equal(dropout(x), y)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)


def test_dropout_does_nothing_in_eval_mode_or_with_probability_zero_and_takes_any_shape():
    x = torch.randn(5)
    assert torch.equal(AdapterDropout(0.5).eval()(x), x)
    assert torch.equal(AdapterDropout(0.0)(x), x)
    assert AdapterDropout(0.5)(torch.zeros(0, 4)).shape == (0, 4)
    assert AdapterDropout(0.5)(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
