"""Decoding one token at a time with fixed shapes and addresses, so that a CUDA graph can repeat the step.

A step is several hundred small kernels; started one by one they take longer to start than to run. A graph starts them
all at once, but repeats exactly what it recorded. So nothing in a step may be a Python number that changes: the
position stands in a tensor, keys and values lie in memory for `capacity` positions, and attention looks at all of it.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyvoice.llm.decoding import Decoding
from cosyvoice.transformer.attention import ProjectedPositions, RelPositionMultiHeadedAttention
from cosyvoice.utils.cuda_graphs import Recordings, captured

if TYPE_CHECKING:
    from cosyvoice.llm.llm import TransformerLM

SMALLEST_CAPACITY = 256  # positions; capacities grow by doubling


def power_of_two(least: int) -> int:
    """The smallest one that is not below `least`, which is 1 or more."""
    return 1 << (least - 1).bit_length()


class Place:
    """Decoding position of a batch and the masks that follow from it, as tensors that a recorded step reads."""

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.farthest = capacity - 1
        self.keys = torch.arange(capacity, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the tokens that are being decoded
        self.padding = torch.zeros(rows, dtype=torch.long, device=device)  # positions at a row's start that are empty
        self.look()

    def look(self) -> None:
        """Set what all layers need to know: the mask (B, 1, capacity), and for each key the column of its distance."""
        self.mask = ((self.keys <= self.position) & (self.keys >= self.padding[:, None])).unsqueeze(1)
        self.columns = (self.keys + self.farthest - self.position).clamp(max=self.farthest)  # farthest .. 0 to the left


def output_dtype(weight: Tensor) -> torch.dtype:
    """Of a linear layer with this weight, as torch stands now."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class StaticLayerCache:
    """Keys, values and projected positions of one attention layer; an `AttentionCache` for single positions.

    Whoever decodes with it masks the keys that do not count, which are finite, and moves the place on."""

    def __init__(self, attention: RelPositionMultiHeadedAttention, positions: ProjectedPositions, place: Place) -> None:
        rows, capacity, weight = len(place.padding), len(place.keys), attention.linear_pos.weight
        self.place, self.d_k = place, attention.d_k
        self.kv = weight.new_zeros(rows, attention.h, capacity, 2 * attention.d_k, dtype=output_dtype(weight))
        self.positions = positions.up_to(capacity - 1, attention, like=weight)

    def fill(self, kv: Tensor) -> None:
        """Hold kv, (n, h, T, 2 * d_k), in the first rows and positions, and zeros elsewhere: what is masked counts
        nothing, but 0 * inf of an earlier utterance would be nan."""
        self.kv.zero_()
        self.kv[: len(kv), :, : kv.size(2)] = kv

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, h, capacity, d_k) each, with k, v, (B, h, 1, d_k), at the place's position."""
        keys, values = self.kv[..., : self.d_k], self.kv[..., self.d_k :]
        keys.index_copy_(2, self.place.position, k)
        values.index_copy_(2, self.place.position, v)
        return keys, values

    def projected(self, attention: RelPositionMultiHeadedAttention, like: Tensor) -> Tensor:
        """Codes of the distances capacity - 1 .. 0, (1, h, capacity, d_k)."""
        return self.positions

    def per_key(self, scores: Tensor, keys: int) -> Tensor:
        """Scores (B, h, 1, capacity) of those distances, put where the keys are; meaningless right of the place."""
        return scores.index_select(-1, self.place.columns)


class StaticStep:
    """One token more for each of `rows` utterances, which have room for `capacity` positions."""

    def __init__(self, model: "TransformerLM", rows: int, capacity: int) -> None:
        device = model.llm_embedding.weight.device
        self.capacity, self.length = capacity, 0  # the length is only for the host to know when it is full
        self.place = Place(rows, capacity, device)
        self.caches = [
            StaticLayerCache(layer.self_attn, cache.positions, self.place)
            for layer, cache in zip(model.llm.encoders, model.llm.new_cache(), strict=True)
        ]
        self.tokens, self.tokens_on_host = beside_host((rows,), torch.long, device)
        self.scores, self.scores_on_host = beside_host((rows, model.speech_token_size + 1), torch.float32, device)
        self.graph = captured(partial(self.advance, model), device)

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Memory of keys, values and positions, which is nearly all of it."""
        return sum(cache.kv.nbytes + cache.positions.nbytes for cache in self.caches)

    def advance(self, model: "TransformerLM") -> None:
        """From `tokens` to `scores`, one position on. What Python does in here a graph does not repeat."""
        self.place.look()
        embedded = model.speech_embedding(self.tokens).unsqueeze(1)
        self.scores.copy_(model.scores_after(embedded, self.caches, self.place.mask))
        self.place.position += 1

    def start(self, kv: Iterable[Tensor], length: int, padding: Tensor) -> None:
        """Go on after `length` positions, whose keys and values are kv, one tensor (n, h, length, 2 * d_k) a layer; n
        may be less than `rows`. padding: (n,) on the CPU."""
        for cache, given in zip(self.caches, kv, strict=True):
            cache.fill(given)
        self.length = length
        self.place.position.fill_(length)
        self.place.padding.copy_(F.pad(padding, (0, self.rows - len(padding))))

    def after(self, model: "TransformerLM", rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Log-probabilities after these tokens of these rows, (len(rows), speech_token_size + 1), on the CPU.

        The other rows are decoded again with the token that they had last, and nobody looks at them."""
        self.tokens_on_host[rows] = torch.tensor(tokens, dtype=torch.long)
        self.tokens.copy_(self.tokens_on_host, non_blocking=True)
        if self.graph is None:
            self.advance(model)
        else:
            self.graph.replay()
        self.length += 1
        self.scores_on_host.copy_(self.scores)  # the only wait for the device in a step
        return self.scores_on_host[rows]


def beside_host(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Zeros on the device, and memory on the host that is quickly copied there or from there."""
    on_host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
    return torch.zeros(shape, dtype=dtype, device=device), on_host


class StaticSteps(Recordings):
    """Steps that are not in use, for the next utterance.

    A step serves one decoding at a time, so that utterances whose tokens come in turns do not meet in its memory."""

    def __init__(self, most_bytes: int, under_autocast: bool = False) -> None:
        """most_bytes: memory of the steps that are kept; beyond it those go that were not used for longest."""
        super().__init__(under_autocast)
        self.most_bytes = most_bytes
        self.idle: list[StaticStep] = []

    def take(self, model: "TransformerLM", rows: int, length: int) -> StaticStep | None:
        """A step for so many rows and for more than `length` positions, recorded now if there is none; None where the
        device has no memory for it, that of the steps which are kept included."""
        rows, capacity = power_of_two(rows), max(SMALLEST_CAPACITY, power_of_two(length + 1))
        for step in self.idle:
            if (step.rows, step.capacity) == (rows, capacity):
                self.idle.remove(step)
                return step
        for _ in range(2):
            try:
                return StaticStep(model, rows, capacity)
            except torch.OutOfMemoryError:
                self.idle.clear()
            torch.cuda.empty_cache()  # here and not above: the error's traceback holds the step that was begun
        return None

    def give_back(self, step: StaticStep) -> None:
        self.idle.append(step)
        while sum(step.nbytes for step in self.idle) > self.most_bytes:
            self.idle.pop(0)


class StaticDecoding(Decoding):
    """`Decoding` whose tokens after the first are decoded by static steps; the prefixes, of any length, are not.

    Utterances that end leave their row in the batch until the batch moves to a larger step. A smaller batch would have
    to be recorded, which takes several steps as they are without a graph, and saves only reading the keys and values
    of the rows that are done: those of 16 rows of 256 positions are two thirds as many bytes as the weights. Where
    there is no memory for a step it goes on with a cache that grows."""

    def __init__(self, model: "TransformerLM", prefixes: Sequence[Tensor], steps: StaticSteps) -> None:
        super().__init__(model, prefixes)
        self.steps = steps
        self.static: StaticStep | None = None
        self.grows = False  # until the end, for want of memory
        self.rows, self.tokens = [*range(len(prefixes))], []  # of those that go on: row in the batch, last token

    def scores(self) -> Tensor:
        if self.tokens and not self.grows and (self.static is None or self.static.length == self.static.capacity):
            self.move()
        return super().scores() if self.static is None else self.static.after(self.model, self.rows, self.tokens)

    def go_on(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        if self.grows:
            super().go_on(rows, tokens)
        else:
            self.rows, self.tokens = [self.rows[row] for row in rows], tokens

    def move(self) -> None:
        """Take a step with more room, or where there is none a cache that grows; rows that are done stay behind."""
        length, padding = self.caches[0].kv.size(2), self.padding[self.rows]
        kept = (cache.kv[self.rows] for cache in self.caches)
        larger = self.steps.take(self.model, len(self.rows), length)
        if larger is not None:
            larger.start(kept, length, padding)
            caches = larger.caches
        else:
            caches = self.model.llm.new_cache()
            for cache, kv in zip(caches, kept, strict=True):
                cache.append(*kv.chunk(2, dim=-1))
            self.static = None  # not given back: what it holds is needed now
        self.close()
        self.static, self.caches, self.grows = larger, caches, larger is None
        self.padding, self.rows = padding, [*range(len(self.rows))]
        if self.grows:
            super().go_on(self.rows, self.tokens)

    def close(self) -> None:
        if self.static is not None:
            self.steps.give_back(self.static)
            self.static = None
