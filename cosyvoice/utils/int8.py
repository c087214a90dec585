"""Linear layers with 8-bit weights, for decoding on a CPU.

Decoding one token reads every weight once and does little else, so it is the bytes of the weights that take the time.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

WEIGHT_STEPS = 127  # symmetric: -127 .. 127
SMALLEST_SCALE = 1e-12  # for a row of zeros
ROWS_AT_ONCE = 256  # of a weight, in float32: no more memory than that


class Int8Linear(nn.Module):
    """The layer `linear` with 8-bit weights, one scale an output; inputs are rounded to 8 bits too, row by row.

    (..., in) -> (..., out), float32. For inference on a CPU; it has no state_dict."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        largest = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))
        scales = (largest / WEIGHT_STEPS).clamp(min=SMALLEST_SCALE).double()
        zero_points = torch.zeros(len(weight), dtype=torch.long)
        quantised = torch._make_per_channel_quantized_tensor(rounded(weight, scales), scales, zero_points, axis=0)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("bias", bias, persistent=False)
        self.packed = torch.ops.quantized.linear_prepack(quantised, bias)
        # Without VNNI instructions sums of 8-bit products overflow 16 bits, so the inputs get 7.
        self.reduce_range = not has_vnni()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        # The kernel rounds all rows with one scale, so that a loud row drowns the others: give them the same range.
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE)
        y = torch.ops.quantized.linear_dynamic(x / scale, self.packed, self.reduce_range)
        return torch.addcmul(self.bias, y - self.bias, scale)


def rounded(weight: Tensor, scales: Tensor) -> Tensor:
    """The weight in steps of its rows' scales, int8: what torch.quantize_per_channel does, in a seventh of its time."""
    steps = torch.empty(weight.shape, dtype=torch.int8)
    per_step = (1 / scales).float()[:, None]
    for part, factor, target in zip(*(x.split(ROWS_AT_ONCE) for x in (weight, per_step, steps)), strict=True):
        target.copy_((part * factor).round_())
    return steps


def has_vnni() -> bool:
    """Whether the CPU adds products of 8-bit numbers into 32 bits."""
    return torch.cpu._is_vnni_supported()


def use_int8(model: nn.Module, keep: tuple[str, ...] = ()) -> None:
    """Replace every nn.Linear inside `model` by an Int8Linear, in place, save those named in `keep`. Idempotent."""
    places = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Linear) and name not in keep
    ]

    def pack(module: nn.Module, name: str) -> None:
        setattr(module, name, Int8Linear(getattr(module, name)))  # frees the weight before others are packed

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # packing is single-threaded and outside Python's lock
        list(pool.map(pack, *zip(*places, strict=True)))
