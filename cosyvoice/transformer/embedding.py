"""Relative position code: sines and cosines of the signed distance between query and key."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

SMALLEST_TABLE = 256
"""Distances in the smallest table that is kept; tables grow by doubling."""


def distance_code(distances: Tensor, width: int) -> Tensor:
    """sin(r w_c) in channel 2c and cos(r w_c) in channel 2c + 1, w_c = 10000^(-2c / width): (len(distances), width).

    Source: Vaswani et al. 2017, section 3.5, with signed distances as in Dai et al. 2019 (Transformer-XL).
    """
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device="cpu") * -(math.log(10000.0) / width))
    angle = distances.to("cpu", torch.float32).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(len(distances), width)


@lru_cache(maxsize=16)
def _table(size: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Code of the distances +size .. -size, (2 * size + 1, width). Computed on the CPU: the same on every device."""
    with torch.inference_mode(False), torch.no_grad():
        distances = torch.arange(size, -size - 1, -1, device="cpu")
        return distance_code(distances, width).to(device, dtype)


def relative_positions(first: int, last: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Code of the distances first, first - 1, .., last in this order: (first - last + 1, width).

    A distance is query position minus key position: positive where the key lies to the left. Any distance works.
    """
    size = max(abs(first), abs(last), SMALLEST_TABLE)
    size = 1 << (size - 1).bit_length()
    return _table(size, width, dtype, device)[size - first : size - last + 1]


class EspnetRelPositionalEncoding(nn.Module):
    """Scales the encoder's input and supplies the code of the relative positions; has no parameters."""

    def __init__(self, d_model: int, dropout_rate: float) -> None:
        super().__init__()
        self.d_model = d_model
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
        """sqrt(D) * x, (B, T, D), and the code of the distances T - 1 .. -(T - 1), (1, 2T - 1, D).

        causal: only T - 1 .. 0, (1, T, D), which is all that is needed where no query sees a key to its right.
        Nothing is added to x. In training both results get dropout; the code's is shared by batch and layers.
        """
        farthest = x.size(1) - 1
        code = relative_positions(farthest, 0 if causal else -farthest, self.d_model, x.dtype, x.device)
        return self.scale(x), self.dropout(code.unsqueeze(0))

    def scale(self, x: Tensor) -> Tensor:
        """sqrt(D) * x, with dropout in training."""
        return self.dropout(x * math.sqrt(self.d_model))
