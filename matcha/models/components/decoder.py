"""Building blocks of the 1-D U-Net. Everywhere: x (B, C, T); mask (B, 1, T), 1 at real frames, None if all are real."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

TIME_SCALE = 1000.0  # flow time in [0, 1] is stretched to the range of diffusion step numbers
MAX_PERIOD = 10000.0


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with zeros at padded frames."""
    return x if mask is None else x * mask


@lru_cache(maxsize=16)
def _frequencies(half: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        exponent = torch.arange(half, device=device, dtype=torch.float32) * (-math.log(MAX_PERIOD) / (half - 1))
        return torch.exp(exponent)


class SinusoidalPosEmb(nn.Module):
    """Sine half, then cosine half, of a flow time. No parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 2 or dim < 4:
            raise ValueError(f"SinusoidalPosEmb: dim={dim} must be even and at least 4")
        self.half = dim // 2

    def forward(self, t: Tensor) -> Tensor:
        """(B, dim), float32. t: (B,) or 0-dim, in [0, 1]."""
        angles = TIME_SCALE * t.float().reshape(-1, 1) * _frequencies(self.half, t.device)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two-layer network on the sinusoidal embedding: (B, in_channels) -> (B, time_embed_dim)."""

    def __init__(self, in_channels: int, time_embed_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, time_embed_dim)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(time_embed_dim, time_embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class Block1D(nn.Module):
    """Convolution, group norm, Mish on masked input; masked output. The norm's statistics include padded frames."""

    def __init__(self, dim: int, dim_out: int, groups: int = 8) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(dim, dim_out, 3, padding=1), nn.GroupNorm(groups, dim_out), nn.Mish())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked(self.block(masked(x, mask)), mask)


class ResnetBlock1D(nn.Module):
    """Two blocks with the time embedding added between them, and a 1x1 residual branch. Output is not masked."""

    def __init__(self, dim: int, dim_out: int, time_emb_dim: int, groups: int = 8) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_emb_dim, dim_out))
        self.block1 = Block1D(dim, dim_out, groups)
        self.block2 = Block1D(dim_out, dim_out, groups)
        self.res_conv = nn.Conv1d(dim, dim_out, 1)

    def forward(self, x: Tensor, mask: Tensor | None, time_emb: Tensor) -> Tensor:
        """(B, dim, T) -> (B, dim_out, T). time_emb: (B or 1, time_emb_dim)."""
        h = self.block1(x, mask) + self.mlp(time_emb)[:, :, None]
        return self.block2(h, mask) + self.res_conv(masked(x, mask))


class Downsample1D(nn.Module):
    """T -> ceil(T / 2) by a strided convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample1D(nn.Module):
    """T -> 2 T by a transposed convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(dim, dim, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
