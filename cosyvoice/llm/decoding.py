"""Utterances decoded together, token by token, with a cache that grows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyvoice.transformer.attention import AttentionCache

if TYPE_CHECKING:
    from cosyvoice.llm.llm import TransformerLM


def pad_left(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (T_i, D) as one batch (B, T, D) that ends together, and the number of zeros before each, (B,)."""
    longest = max((len(sequence) for sequence in sequences), default=0)
    padding = [longest - len(sequence) for sequence in sequences]
    padded = [F.pad(sequence, (0, 0, count, 0)) for sequence, count in zip(sequences, padding, strict=True)]
    return (torch.stack(padded) if padded else torch.empty(0)), torch.tensor(padding, dtype=torch.long)


def left_padding_mask(padding: Tensor, queries: int, keys: int) -> Tensor:
    """(B, queries, keys), True where the last `queries` of so many positions may attend: to themselves and to what
    lies before them, save the first padding[b] positions."""
    key = torch.arange(keys, device=padding.device)
    query = key[-queries:, None]
    return (key <= query) & (key >= padding[:, None, None]) | (key == query)


class Decoding:
    """Scores of the next token of each utterance, again and again; to be closed at the end."""

    def __init__(self, model: "TransformerLM", prefixes: Sequence[Tensor]) -> None:
        """prefixes: what precedes the tokens of each utterance, (T_i, D)."""
        self.model = model
        self.caches: Sequence[AttentionCache] = model.llm.new_cache()
        self.step, self.padding = pad_left(prefixes)

    def scores(self) -> Tensor:
        """Log-probabilities, (B, speech_token_size + 1), on the CPU, where the tokens are drawn: one wait a step."""
        return self.model.next_scores(self.step, self.caches, self.padding).cpu()

    def go_on(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Only these rows of the last scores go on, in this order; tokens: what was drawn for each of them."""
        if len(rows) < len(self.padding):
            self.padding = self.padding[rows]
            for cache in self.caches:
                cache.keep(rows)
        ids = torch.tensor(tokens, dtype=torch.long).to(self.step.device)
        self.step = self.model.speech_embedding(ids).unsqueeze(1)

    def close(self) -> None:
        """Nothing more will be asked for."""
