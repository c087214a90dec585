"""Masks of padded batches and of causal attention."""

from collections.abc import Sequence

import torch
from torch import Tensor


def make_pad_mask(lengths: Tensor, max_len: int = 0) -> Tensor:
    """True at padding, (B, T); lengths: (B,); T is `max_len`, or the largest length where that is 0."""
    max_len = max_len if max_len > 0 else int(lengths.max())
    return torch.arange(max_len, device=lengths.device) >= lengths.unsqueeze(1)


def subsequent_chunk_mask(size: int, chunk_size: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """True where query i may see key j, (size, size): keys up to the end of the query's own chunk.

    With chunk_size 1, the released model's, that is the lower triangle.
    """
    position = torch.arange(size, device=device)
    return position < (position.unsqueeze(1).div(chunk_size, rounding_mode="floor") + 1) * chunk_size


def attention_mask(lengths: Sequence[int], size: int, chunk_size: int, device: torch.device | str = "cpu") -> Tensor:
    """True where attention is allowed: not at padded keys, and not beyond the query's chunk where chunk_size > 0.

    Shape (B, 1, size) with chunk_size 0, else (B, size, size). A query that would see nothing sees everything,
    because softmax has no answer for it; that happens only to an item of length 0.
    """
    mask = ~make_pad_mask(torch.tensor(lengths, device=device), size).unsqueeze(1)
    if chunk_size > 0:
        mask = mask & subsequent_chunk_mask(size, chunk_size, device)
    return mask | ~mask.any(dim=-1, keepdim=True)
