"""Linear layers that on a CPU are computed by the faster of the two libraries that torch has for them.

torch multiplies float32 matrices with MKL, which is made for Intel's processors. On AMD's, oneDNN is faster (measured
on Zen 4: one row reads weights at 26 in place of 14 GB/s, 163 rows of CosyVoice's LLM take 0.7 of the time).

But not every kernel of the oneDNN in torch 2.11 leaves the stack alone that a signal handler needs: a Ctrl-C that comes
while its "gemm:jit" multiplies several rows corrupts the memory of the process. So only those products go there that
take another kernel, and stayed whole under some thousand signals each: single rows, and with AVX-512 the "brg_matmul"
of many rows and large weights. A transposed weight always takes the bad one, so gradients are left to MKL.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_PRODUCT = 2**20  # rows times weights; below it what a call costs decides
MANY_ROWS, LARGE = 64, 1024  # rows, and both sides of the weights, that take "brg_matmul" with AVX-512


class Linear(nn.Linear):
    """nn.Linear, with frozen weights by whichever library is faster."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (..., out), for x: (..., in), weight: (out, in) and bias: (out,). What is trained is left to torch."""
    if not _onednn_is_faster(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return F.linear(x, weight, bias)
    return _OneDnnLinear.apply(x, weight, bias)


def _onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """And safe."""
    if not (x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _prefers_onednn()):
        return False
    rows = x.numel() // weight.shape[1]
    if torch.is_autocast_enabled("cpu") or rows * weight.numel() < SMALLEST_PRODUCT:
        return False
    return rows == 1 or (rows >= MANY_ROWS and min(weight.shape) >= LARGE and _has_avx512())


@cache
def _prefers_onednn() -> bool:
    made_by_amd = torch.cpu.get_capabilities().get("cpu_name", "").startswith("AMD")
    return made_by_amd and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """x W^T + b with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None, None
