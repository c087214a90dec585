"""1-D convolutions and group norms that keep the channels of a frame together in memory, for inference.

Tensors stay (B, C, T); only their strides change, to (T C, 1, C). The CPU's convolution kernels are made for that
layout (measured: 1.1 to 2 times as fast in float32, 1.5 to 10 times in bfloat16), and transformer blocks, which want
(B, T, C), get their input without a copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _four(x: Tensor) -> Tensor:
    """(B, C, 1, T), which unlike three dimensions has a layout with the channels last."""
    return x.unsqueeze(2)


def _weight(weight: Tensor) -> nn.Parameter:
    laid_out = _four(weight.detach()).contiguous(memory_format=torch.channels_last)
    return nn.Parameter(laid_out, requires_grad=weight.requires_grad)


class ChannelsLastConv1d(nn.Module):
    """The convolution `conv`, (B, C, T) -> (B, C', T') in the layout with the channels last."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias = _weight(conv.weight), conv.bias
        self.options = [(1, conv.stride[0]), (0, conv.padding[0]), (1, conv.dilation[0]), conv.groups]

    def forward(self, x: Tensor) -> Tensor:
        laid_out = _four(x).contiguous(memory_format=torch.channels_last)
        return F.conv2d(laid_out, self.weight, self.bias, *self.options).squeeze(2)


class ChannelsLastConvTranspose1d(nn.Module):
    """The transposed convolution `conv`, (B, C, T) -> (B, C', T') in the layout with the channels last."""

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        super().__init__()
        self.weight, self.bias = _weight(conv.weight), conv.bias
        padding, output_padding = (0, conv.padding[0]), (0, conv.output_padding[0])
        self.options = [(1, conv.stride[0]), padding, output_padding, conv.groups, (1, conv.dilation[0])]

    def forward(self, x: Tensor) -> Tensor:
        laid_out = _four(x).contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(laid_out, self.weight, self.bias, *self.options).squeeze(2)


class ChannelsLastGroupNorm(nn.Module):
    """The group norm `norm`, (B, C, T) -> (B, C, T); its input's layout is kept."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(_four(x), self.num_groups, self.weight, self.bias, self.eps).squeeze(2)


REPLACEMENTS = {
    nn.Conv1d: ChannelsLastConv1d,
    nn.ConvTranspose1d: ChannelsLastConvTranspose1d,
    nn.GroupNorm: ChannelsLastGroupNorm,
}


def use_channels_last(model: nn.Module) -> None:
    """Replace every such layer inside `model`, in place. Idempotent; weight norm must be folded before."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) in REPLACEMENTS:
                setattr(module, name, REPLACEMENTS[type(child)](child))
