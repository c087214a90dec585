"""Low-rank adapters for Linear layers: add, train, save, load, merge. Knows nothing of speech.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import LoraConfig, UserError
from cosyvoice.utils.common import InputError
from matcha.models.components.linear import linear

ROWS_AT_ONCE = 256  # of a weight in float64: they stay in the cache, which is four times as fast as all at once


def scaling(config: LoraConfig) -> float:
    """What B A is multiplied by in training."""
    return config.lora_alpha / config.lora_r


def merged_scaling(config: LoraConfig) -> float:
    """What B A is multiplied by once training is over, and whenever the model is measured or heard.

    Less than the trained update keeps more of what the base could do. Source: Wortsman et al. 2022, "Robust fine-tuning
    of zero-shot models", section 3.
    """
    return config.merge_scale * scaling(config)


class AdapterDropout(nn.Dropout):
    """nn.Dropout that on a CPU draws 16 random bits an element, four elements at once: a third of the time.

    The probability is rounded to 1 / 65 536. Drawing masks is an eighth of a training step otherwise.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -2^15 to 2^15 - 1
        keep = bits >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


class LoRALinear(nn.Linear):
    """y = W x + b + (alpha / r) B A x; W and b frozen, same state_dict keys as nn.Linear; B starts at 0, so step 0 is
    the base model.

    lora_A: (r, in), lora_B: (out, r), float32 also where W is stored in half precision.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scaling, self.merged_scaling = scaling(config), merged_scaling(config)
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(config.lora_r, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, config.lora_r, device=device))
        self.lora_dropout = AdapterDropout(config.lora_dropout)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))  # here once, and not for W and again for A
        inner = F.linear(self.lora_dropout(x), self.lora_A) * self.scaling  # here, where it is r numbers wide
        y = linear(x, self.weight, self.bias)
        return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), self.lora_B.t()).view_as(y)


def matching_linears(model: nn.Module, targets: Sequence[str], model_name: str) -> list[str]:
    """Names of the Linear layers that equal a target or end in "." + target; UserError for a target without any."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [name for name in linears if any(_matches(name, target) for target in targets)]
    unused = [target for target in targets if not any(_matches(name, target) for name in found)]
    if unused:
        raise UserError(f"target_modules {unused} match no Linear layer of the {model_name}; check {model_name}_lora")
    return found


def add_lora(model: nn.Module, config: LoraConfig, model_name: str) -> list[str]:
    """Put adapters on the target layers of `model` in place, freeze everything else; names of the adapted layers."""
    names = matching_linears(model, config.target_modules, model_name)
    model.requires_grad_(False)
    for name in names:
        parent_name, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent_name), child, LoRALinear(model.get_submodule(name), config))
    train_adapters_only(model)
    return names


def train_adapters_only(model: nn.Module) -> None:
    """Eval mode for the frozen modules (their dropout stays off); only the adapters' own dropout acts."""
    model.eval()
    for _, layer in lora_layers(model):
        layer.lora_dropout.train()


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(name, layer) of every adapted layer."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters, A before B for each layer."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapter tensors on the CPU: `<layer>.lora_A` (r, in), `<layer>.lora_B` (out, r)."""
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().to("cpu", copy=True)
        for name, layer in lora_layers(model)
        for kind in ("lora_A", "lora_B")
    }


@torch.no_grad()
def load_adapter(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill the adapters from `state`; every tensor must fit exactly, else UserError."""
    own = {
        f"{name}.{kind}": getattr(layer, kind) for name, layer in lora_layers(model) for kind in ("lora_A", "lora_B")
    }
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        raise UserError(f"{source} does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}, shape {wrong[:3]}")
    for key, parameter in own.items():
        parameter.copy_(state[key])


def merge_adapter(state: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: LoraConfig, scale: float) -> None:
    """Add scale * merge_scale * (alpha / r) * B A to the adapted layers' weights of `state`, in place and in float64.

    In place, because a copy of a large model is what merging would need most memory for. Raises UserError where the
    adapter does not fit, before anything is changed.
    """
    for layer in fitting_layers(state, adapter, config):
        a, b = adapter[f"{layer}.lora_A"].double(), adapter[f"{layer}.lora_B"].double()
        b = b * (scale * merged_scaling(config))
        for rows, factors in zip(state[f"{layer}.weight"].split(ROWS_AT_ONCE), b.split(ROWS_AT_ONCE), strict=True):
            rows.copy_(torch.addmm(rows.double(), factors, a))


def check_adapter(adapter: Mapping[str, Tensor], config: LoraConfig, where: str) -> None:
    """InputError where an adapter is not pairs of A (r, in) and B (out, r) of its rank. where: named in the message."""
    layers = {key.removesuffix(".lora_A").removesuffix(".lora_B") for key in adapter}
    whole = {f"{layer}.{kind}" for layer in layers for kind in ("lora_A", "lora_B")} == set(adapter)
    if not adapter or not whole:
        raise InputError(f"{where} must hold lora_A and lora_B of each layer, and nothing else")
    for layer in layers:
        a, b = adapter[f"{layer}.lora_A"], adapter[f"{layer}.lora_B"]
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == config.lora_r:
            shapes = f"A {tuple(a.shape)}, B {tuple(b.shape)}"
            raise InputError(f"{where}: {layer} has shapes {shapes}, which are not of rank {config.lora_r}")


def fitting_layers(state: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: LoraConfig) -> list[str]:
    """Names of the adapted layers; UserError where one does not belong to the model's layer of that name."""
    layers = sorted(key.removesuffix(".lora_A") for key in adapter if key.endswith(".lora_A"))
    for layer in layers:
        check_fit(layer, state, adapter, config)
    return layers


def check_fit(layer: str, state: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: LoraConfig) -> None:
    """UserError where the adapter of a layer does not belong to the layer of that name."""
    weight, a, b = state.get(f"{layer}.weight"), adapter[f"{layer}.lora_A"], adapter.get(f"{layer}.lora_B")
    if weight is None or b is None:
        raise UserError(f"the adapter's layer {layer} is not in the base model; was it trained on another one?")
    if a.shape != (config.lora_r, weight.shape[1]) or b.shape != (weight.shape[0], config.lora_r):
        raise UserError(
            f"adapter of {layer} has shapes A {tuple(a.shape)}, B {tuple(b.shape)}; weight {tuple(weight.shape)} "
            f"and rank {config.lora_r} need {(config.lora_r, weight.shape[1])}, {(weight.shape[0], config.lora_r)}"
        )


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
