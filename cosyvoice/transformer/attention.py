"""Multi-head attention with relative positions, and the cache that makes decoding one token at a time cheap."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.transformer.embedding import relative_positions
from cosyvoice.utils.common import InputError
from matcha.models.components.linear import Linear

PerKey = Callable[[Tensor, int], Tensor]
"""(Scores per distance (B, h, t, R), number of keys) -> scores per key (B, h, t, keys)."""

CACHE_CHUNK = 128
"""Positions by which a cache grows."""

QUERY_BLOCK = 256
"""Queries that attend at once: a causal one then never meets most of the keys to its right, and scores of 16 heads stay
below the 32 MiB from which glibc takes memory from the system, page by page, each time that it is asked for."""

BIAS_ALIGNMENT = 16
"""Bytes that fused attention on a GPU reads at once."""


def query_blocks(size: int) -> list[tuple[int, int]]:
    """(start, end) of the blocks in which `size` queries attend."""
    return [(start, min(start + QUERY_BLOCK, size)) for start in range(0, size, QUERY_BLOCK)]


def causal_scores(size: int) -> int:
    """Scores that a head computes for `size` positions of which none sees a key to its right."""
    return sum((end - start) * end for start, end in query_blocks(size))


def rel_shift(x: Tensor, keys: int) -> Tensor:
    """Scores per distance -> scores per key: (B, h, t, keys).

    x: (B, h, t, R + 1), contiguous in its last two dimensions. Column 0 is filler; column 1 + n belongs to the distance
    keys - 1 - n. Row a is the query at position keys - t + a, so key j takes the column of distance keys - t + a - j.
    Reading the same memory with rows that are one element shorter does that without a copy. R = 2 * keys - 1 serves
    every key; with R = keys the keys to the right of a query get meaningless values and must be masked.
    Source: Dai et al. 2019 (Transformer-XL), appendix B.
    """
    batch, heads, queries, columns = x.shape
    x = x.view(batch, heads, columns, queries)[:, :, 1:]
    return x.view(batch, heads, queries, columns - 1)[..., :keys]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout_rate: float) -> Tensor:
    """softmax(q k^T / sqrt(d_k) + bias) v, (B, h, t, d_k), for q: (B, h, t, d_k), k, v: (B, h, T, d_k) and
    bias: (B, h, t, T)."""
    if bias.device.type == "cuda" or not bias.requires_grad:
        bias = aligned(bias) if bias.device.type == "cuda" else bias
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_rate)
    # No fused kernel of a CPU gives the gradient of a bias, and what takes its place copies queries and keys.
    q, k, v = (x.flatten(0, 1) for x in (q * q.size(-1) ** -0.5, k, v))
    weights = torch.baddbmm(bias.flatten(0, 1), q, k.transpose(1, 2)).softmax(dim=-1)
    return torch.bmm(F.dropout(weights, dropout_rate), v).unflatten(0, bias.shape[:2])


def aligned(bias: Tensor) -> Tensor:
    """The bias at an address that fused attention on a GPU can read: what `rel_shift` gives a single query is a view
    that begins one score late, and half precision stops there with "misaligned address"."""
    return bias.clone() if bias.data_ptr() % BIAS_ALIGNMENT else bias


class ProjectedPositions:
    """Projected codes of the distances to the left of one attention layer, each projected once."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None  # (1, h, R, d_k), distances R - 1 .. 0

    def up_to(self, distance: int, attention: "RelPositionMultiHeadedAttention", like: Tensor) -> Tensor:
        """Of the distances `distance` .. 0, (1, h, distance + 1, d_k), in the dtype and on the device of `like`."""
        have = 0 if self._rows is None else self._rows.size(2)
        if distance + 1 > have:
            code = relative_positions(_capacity(distance + 1) - 1, have, attention.d_model, like.dtype, like.device)
            farther = attention.project_positions(code.unsqueeze(0))
            self._rows = farther if self._rows is None else torch.cat([farther, self._rows], dim=2)
        return self._rows[:, :, -(distance + 1) :]


class AttentionCache(Protocol):
    """What one attention layer needs to know of the positions before those that it is given."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, h, T, d_k) each, after adding k, v: (B, h, t, d_k)."""

    def projected(self, attention: "RelPositionMultiHeadedAttention", like: Tensor) -> Tensor:
        """Projected codes of the distances to the left, (1, h, R, d_k), in the dtype and on the device of `like`."""

    def per_key(self, scores: Tensor, keys: int) -> Tensor:
        """Scores per distance (B, h, t, R), one for each of `projected`, -> scores per key (B, h, t, keys)."""


class LayerCache:
    """Keys, values and projected positions of one attention layer during decoding, grown CACHE_CHUNK at a time."""

    def __init__(self, positions: ProjectedPositions | None = None) -> None:
        """positions: those of an earlier utterance, where the layer's weights have not changed since."""
        self.length = 0
        self.positions = ProjectedPositions() if positions is None else positions
        self._kv: Tensor | None = None  # (B, h, capacity, 2 * d_k), keys first

    @classmethod
    def from_tensor(cls, kv: Tensor) -> "LayerCache":
        """A cache that holds kv: (B, h, T, 2 * d_k), keys first."""
        cache = cls()
        cache.append(*kv.chunk(2, dim=-1))
        return cache

    @property
    def kv(self) -> Tensor:
        """Keys and values so far, (B, h, T, 2 * d_k), keys first. Keys hold no position."""
        if self._kv is None:
            raise InputError("the attention cache is empty; decode at least one position first")
        return self._kv[:, :, : self.length]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these items of the batch only, in this order."""
        self._kv = self._kv[rows]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, h, T, d_k) each, after adding k, v: (B, h, t, d_k)."""
        end, d_k = self.length + k.size(2), k.size(3)
        if self._kv is None or end > self._kv.size(2):
            grown = k.new_empty(*k.shape[:2], _capacity(end), 2 * d_k)
            if self._kv is not None:
                grown[:, :, : self.length] = self.kv
            self._kv = grown
        self._kv[:, :, self.length : end, :d_k] = k
        self._kv[:, :, self.length : end, d_k:] = v
        self.length = end
        return self.kv[..., :d_k], self.kv[..., d_k:]

    def projected(self, attention: "RelPositionMultiHeadedAttention", like: Tensor) -> Tensor:
        """Codes of the distances T .. 0, the first of them as filler for `rel_shift`: (1, h, T + 1, d_k)."""
        return self.positions.up_to(self.length, attention, like)

    per_key = staticmethod(rel_shift)


def _capacity(length: int) -> int:
    return -(-length // CACHE_CHUNK) * CACHE_CHUNK


class RelPositionMultiHeadedAttention(nn.Module):
    """Self-attention whose score is [(q_i + u) . k_j + (q_i + v) . p_(i - j)] / sqrt(d_k); p: projected position code.

    Source: Dai et al. 2019 (Transformer-XL), section 3.3.
    """

    def __init__(self, n_head: int, n_feat: int, dropout_rate: float, key_bias: bool = True) -> None:
        super().__init__()
        if n_feat % n_head:
            raise InputError(f"attention width {n_feat} is not a multiple of {n_head} heads; correct the configuration")
        self.h, self.d_k, self.d_model = n_head, n_feat // n_head, n_feat
        self.dropout_rate = float(dropout_rate)
        self.linear_q = Linear(n_feat, n_feat)
        self.linear_k = Linear(n_feat, n_feat, bias=key_bias)
        self.linear_v = Linear(n_feat, n_feat)
        self.linear_out = Linear(n_feat, n_feat)
        self.linear_qkv: nn.Linear | None = None  # in their place where they are one product
        self.linear_pos = Linear(n_feat, n_feat, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.h, self.d_k))
        self.pos_bias_v = nn.Parameter(torch.empty(self.h, self.d_k))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor | None = None, cache: AttentionCache | None = None
    ) -> Tensor:
        """(B, t, D) for x: (B, t, D).

        pos_emb: (1, R, D), row n the code of the distance T - 1 - n; R = 2T - 1, or R = T where the mask lets no query
        see a key to its right. mask: True = may attend, (B or 1, 1 or t, T); every query must see some key; None: all.
        cache: the T - t positions before x; x is added to it. It supplies the positions, so pos_emb is None then, and
        queries see no key to their right, so t > 1 needs a causal mask.
        """
        q, k, v = map(self._split_heads, self._queries_keys_values(x))
        if cache is None:
            positions = F.pad(self.project_positions(pos_emb), (0, 0, 1, 0)).to(q.dtype)
            y = self._attend_in_blocks(q, k, v, positions, mask)
        else:
            k, v = cache.append(k, v)
            y = self._attend(q, k, v, cache.projected(self, x).to(q.dtype), mask, cache.per_key)
        return self.linear_out(y.transpose(1, 2).flatten(2))

    def prepare_inference(self) -> None:
        """One product for queries, keys and values, for good: one row has less to compute than to start. Idempotent."""
        if self.linear_qkv is None:
            parts = self.linear_q, self.linear_k, self.linear_v
            weight, size = self.linear_q.weight, self.d_model
            biases = [weight.new_zeros(size) if linear.bias is None else linear.bias for linear in parts]
            self.linear_qkv = Linear(size, 3 * size, device="meta")
            self.linear_qkv.weight = nn.Parameter(torch.cat([linear.weight for linear in parts]), requires_grad=False)
            self.linear_qkv.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
            del self.linear_q, self.linear_k, self.linear_v

    def _queries_keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """(B, t, D) each."""
        if self.linear_qkv is None:
            return self.linear_q(x), self.linear_k(x), self.linear_v(x)
        return self.linear_qkv(x).chunk(3, dim=-1)

    def _attend_in_blocks(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """`_attend` for T queries and as many keys; positions: (1, h, R + 1, d_k), R = T only where queries see no key
        to their right."""
        size, last = q.size(2), positions.size(2)
        causal = last == size + 1
        blocks = []
        for start, end in query_blocks(size):
            keys = end if causal else size
            # from the distance end - 1, with the row before it as filler, down to the last key's from the first query
            near = positions[:, :, size - end : last - (0 if causal else start)]
            seen = None if mask is None else mask.expand(-1, size, -1)[:, start:end, :keys]
            blocks.append(self._attend(q[:, :, start:end], k[:, :, :keys], v[:, :, :keys], near, seen, rel_shift))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, mask: Tensor | None, per_key: PerKey
    ) -> Tensor:
        """(B, h, t, d_k) for the queries q: (B, h, t, d_k), keys and values (B, h, T, d_k).

        positions: (1, h, R, d_k), of which per_key makes one score a key, as in `AttentionCache`."""
        bias = per_key(self._distance_scores(q, positions), k.size(2))
        if mask is not None:
            bias = torch.where(mask.unsqueeze(1), bias, -torch.inf)
        with_u = q + self.pos_bias_u.to(q.dtype).unsqueeze(1)
        return attend(with_u, k, v, bias, self.dropout_rate if self.training else 0.0)

    def project_positions(self, code: Tensor) -> Tensor:
        """p / sqrt(d_k), (1, h, R, d_k), for code: (1, R, D)."""
        return self._split_heads(self.linear_pos(code)) * self.d_k**-0.5

    def _distance_scores(self, q: Tensor, positions: Tensor) -> Tensor:
        """(q_i + v) . p_r / sqrt(d_k), (B, h, t, R), for the projected `positions`, (1, h, R, d_k)."""
        with_v = q + self.pos_bias_v.to(q.dtype).unsqueeze(1)
        queries = with_v.transpose(0, 1).flatten(1, 2)  # (h, B t, d_k): all items share one product with the positions
        scores = torch.matmul(queries, positions[0].transpose(1, 2))
        return scores.unflatten(1, (q.size(0), -1)).transpose(0, 1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.h, self.d_k)).transpose(1, 2)
