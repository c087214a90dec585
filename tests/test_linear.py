"""matcha/models/components/linear.py: whichever library multiplies, values and gradients are those of nn.Linear."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from sources import ROOT
from torch import Tensor, nn

from matcha.models.components import linear as module
from matcha.models.components.linear import LARGE, MANY_ROWS, SMALLEST_PRODUCT, Linear, linear
from matcha.models.components.transformer import attend

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch is built without oneDNN",
)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # sums of a thousand and more products in another order


@pytest.fixture
def onednn(monkeypatch) -> Iterator[list[Tensor]]:
    """oneDNN wherever it can serve, by the rules of AVX-512; the first factors of its products."""
    seen: list[Tensor] = []
    multiply = module._product

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(x)
        return multiply(x, weight, bias)

    monkeypatch.setattr(module, "_prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "_has_avx512", lambda: True)
    monkeypatch.setattr(module, "_product", noted)
    yield seen


def frozen(rows: int = 1024, columns: int = 1030, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(columns, rows, bias=bias).requires_grad_(False)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1030,), (1, 1, 1030), (3, 100, 1030), (64, 1030)])
def test_the_values_are_those_of_torch(shape: tuple[int, ...], bias: bool, onednn: list) -> None:
    layer, x = frozen(bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), **CLOSE)
    assert len(onednn) == 1 and layer(x).shape == (*shape[:-1], 1024)


@needs_onednn
def test_the_gradient_is_that_of_torch(onednn: list) -> None:
    layer, x, wanted = frozen(), torch.randn(2, 50, 1030, requires_grad=True), torch.randn(2, 50, 1024)
    (expected,) = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), x, wanted)
    (found,) = torch.autograd.grad(layer(x), x, wanted)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert onednn


@needs_onednn
def test_inputs_need_not_lie_in_one_piece(onednn: list) -> None:
    layer, x = frozen(), torch.randn(1030, 3, 40).permute(1, 2, 0)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), **CLOSE)
    assert not onednn[0].is_contiguous()


@needs_onednn
def test_an_empty_batch_and_a_small_product_are_left_to_torch(onednn: list) -> None:
    assert frozen()(torch.zeros(1, 0, 1030)).shape == (1, 0, 1024)
    frozen(columns=SMALLEST_PRODUCT // 1024 - 1)(torch.zeros(1, SMALLEST_PRODUCT // 1024 - 1))
    assert not onednn
    frozen(columns=SMALLEST_PRODUCT // 1024)(torch.zeros(1, SMALLEST_PRODUCT // 1024))
    assert len(onednn) == 1


@needs_onednn
@pytest.mark.parametrize(
    ("rows", "columns", "avx512", "by_onednn"),
    [
        (1, LARGE, True, True),
        (1, LARGE, False, True),
        (2, LARGE, True, False),
        (MANY_ROWS - 1, LARGE, True, False),
        (MANY_ROWS, LARGE, True, True),
        (MANY_ROWS, LARGE, False, False),
        (500, LARGE - 1, True, False),
    ],
)
def test_products_that_a_signal_could_corrupt_are_left_to_torch(rows, columns, avx512, by_onednn, onednn, monkeypatch):
    monkeypatch.setattr(module, "_has_avx512", lambda: avx512)
    frozen(columns=columns)(torch.zeros(rows, columns))
    assert bool(onednn) is by_onednn


STORM = """
import signal, time
import torch
from matcha.models.components.linear import Linear

signal.signal(signal.SIGALRM, lambda *_: None)
layers = [Linear(columns, rows).requires_grad_(False) for rows, columns in ((1024, 1024), (4096, 1024), (1024, 4096))]
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.0007)
end, products = time.monotonic() + 8, 0
while time.monotonic() < end or products < 60:
    for layer in layers:
        for rows in (1, 2, 7, 16, 64, 65, 163):
            x = torch.randn(rows, layer.in_features, requires_grad=True)
            layer(x).sum().backward()
            kept = [torch.empty(size) for size in (3, 700, 9000)]
            products += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print("whole")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there signals do not interrupt a thread")
def test_signals_do_no_harm_while_it_multiplies() -> None:
    """A Ctrl-C within a product of oneDNN's "gemm:jit" ended training with a corrupt heap, and nothing saved."""
    done = subprocess.run([sys.executable, "-c", STORM], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


@needs_onednn
def test_what_is_trained_and_what_is_not_float32_is_left_to_torch(onednn: list) -> None:
    layer, x = frozen(), torch.randn(100, 1030)
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.weight.requires_grad_(True)
    layer(x).sum().backward()
    assert not onednn and layer.weight.grad is not None


@pytest.mark.parametrize("name, chosen", [("AMD Ryzen 7 7700X", True), ("Intel Core i7-12700H", False), ("", False)])
def test_onednn_multiplies_on_processors_of_amd(name: str, chosen: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name} if name else {})
    module._prefers_onednn.cache_clear()
    try:
        assert module._prefers_onednn() is (chosen and torch.backends.mkldnn.is_available())
    finally:
        module._prefers_onednn.cache_clear()


def test_a_linear_layer_is_saved_and_moved_as_torchs_own() -> None:
    layer, own = Linear(3, 2), nn.Linear(3, 2)
    own.load_state_dict(layer.state_dict(), strict=True)
    torch.testing.assert_close(linear(torch.ones(3), layer.weight, layer.bias), own(torch.ones(3)))


@pytest.mark.parametrize("frames", [7, 513])
def test_attention_in_bfloat16_is_near_that_in_float32(frames: int) -> None:
    """Whether by single products, as for a short sound on a CPU, or by the fused kernel."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, frames, 16)
    exact = F.scaled_dot_product_attention(q, k, v)
    found = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.03)
    torch.testing.assert_close(attend(q, k, v, None), exact)
