"""The transformer block of the U-Net: pre-norm self-attention and an exact-GELU feed-forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matcha.models.components.linear import Linear

SHORT = 512
"""Frames up to which a CPU attends faster in bfloat16 by single products (0.5 to 0.9 of the time, 0.55 with the
gradient) than by torch's fused kernel."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, (B, h, T, D), for q, k, v: (B, h, T, D) and bias: (B, 1, 1 or T, T)."""
    if bias is not None or q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.size(2) > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    items, scale = q.shape[:2], q.size(-1) ** -0.5
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(scores.softmax(dim=-1), v).unflatten(0, items)


class Attention(nn.Module):
    """Multi-head self-attention whose inner width heads * dim_head may differ from the width of its input."""

    def __init__(self, query_dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        self.heads = heads
        self.to_q = Linear(query_dim, inner_dim, bias=False)
        self.to_k = Linear(query_dim, inner_dim, bias=False)
        self.to_v = Linear(query_dim, inner_dim, bias=False)
        self.to_out = nn.Sequential(Linear(inner_dim, query_dim), nn.Identity())  # the checkpoint key is to_out.0

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attended x, (B, T, D). bias: (B, 1 or T, T) added to every head's scores; None when nothing is padded."""
        query, key, value = (self._split_heads(project(x)) for project in (self.to_q, self.to_k, self.to_v))
        mask = None if bias is None else bias[:, None].to(query.dtype)
        return self.to_out(attend(query, key, value, mask).transpose(1, 2).flatten(2))


class GELUProjection(nn.Module):
    """Linear layer followed by the exact (erf) GELU; its own module because the checkpoint key ends in `.proj`."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """D -> 4 D -> D with GELU between; the checkpoint keys are net.0.proj and net.2."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(GELUProjection(dim, mult * dim), nn.Identity(), Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """x + attention(norm1(x)), then x + feed-forward(norm3(x)). There is no norm2 in this configuration."""

    def __init__(
        self,
        dim: int,
        num_attention_heads: int,
        attention_head_dim: int,
        dropout: float = 0.0,
        activation_fn: str = "gelu",
    ) -> None:
        """Raises ValueError for a dropout or an activation that no supported model uses."""
        super().__init__()
        if dropout != 0:
            raise ValueError(f"BasicTransformerBlock: dropout={dropout} is not supported; use 0.0")
        if activation_fn != "gelu":
            raise ValueError(f"BasicTransformerBlock: activation {activation_fn!r} is not supported; use 'gelu'")
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, num_attention_heads, attention_head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). bias: as in `Attention.forward`."""
        x = x + self.attn1(self.norm1(x), bias)
        return x + self.ff(self.norm3(x))
