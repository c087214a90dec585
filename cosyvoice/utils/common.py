"""Small definitions that several parts of the model share."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

IGNORE_ID = -1
"""Target value of positions that take no part in the language model's loss."""

SAMPLE_RATE = 22050
"""Samples per second of every waveform that the model makes."""

EXTRACTOR_RATE = 16_000
"""Samples per second that the speech tokenizer and the speaker encoder listen at, and whoever else judges a voice."""

MEL_HOP = 256
"""Samples per mel frame: SAMPLE_RATE / MEL_HOP = 86.13 frames/s."""

MEL_BINS = 80
"""Numbers per mel frame."""

SPEAKER_DIM = 192
"""Numbers in the speaker vector that campplus.onnx gives."""

MAX_VALUES = 2**31
"""Samples of all channels that are read of one sound file: 8 GB, 12 hours at 48 kHz."""


class InputError(ValueError):
    """A file, text, sound or setting that cannot be used; the message says what is wrong with it, and what to do.

    Plain ValueErrors are mistakes in the program."""


class AudioError(InputError):
    """A recording that cannot be used; the message gives the reason, the caller names the file.

    kind: cannot_open, empty, not_audio, no_sound, incomplete, damaged, protected, unsupported, not_finite, too_loud,
    too_much."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


def check_amount(values: int) -> None:
    """AudioError for so many samples, of all channels, that they might fill the memory."""
    if values > MAX_VALUES:
        raise AudioError("it holds more sound than fits in memory; cut it into files of a few hours", "too_much")


def token_to_mel_length(tokens: int, input_frame_rate: int) -> int:
    """Mel frames that `tokens` speech tokens last, cut to a whole number; input_frame_rate: tokens per second."""
    return int(tokens / input_frame_rate * SAMPLE_RATE / MEL_HOP)


def th_accuracy(pad_outputs: Tensor, pad_targets: Tensor, ignore_label: int) -> Tensor:
    """Share of the targets that are not `ignore_label` at which the largest of the V outputs is the target, ().

    pad_outputs: (N, V); pad_targets: (B, T) with B * T = N. No gradient.
    """
    targets = pad_targets.reshape(-1)
    counted = targets != ignore_label
    correct = (pad_outputs.detach().argmax(dim=-1) == targets) & counted
    return correct.sum() / counted.sum()


def fade_in_out(fade_in_mel: Tensor, fade_out_mel: Tensor, window: np.ndarray | Tensor) -> Tensor:
    """`fade_in_mel` whose start is blended with the end of `fade_out_mel`; the last axis is time.

    window: (2 * overlap,); its first half weighs the incoming signal, its second half the outgoing one.
    The two weights are not renormalised. The inputs stay as they are.
    """
    overlap = len(window) // 2
    weight = torch.as_tensor(window).to(fade_in_mel)
    blended = fade_in_mel.clone()
    blended[..., :overlap] *= weight[:overlap]
    blended[..., :overlap] += fade_out_mel[..., -overlap:] * weight[overlap:]
    return blended


def nucleus(probabilities: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The most probable tokens and their probabilities, most probable first, ties in index order: two (n,) tensors.

    probabilities: (V,) float32 on the CPU. Tokens are taken while their mass so far is below `top_p` and fewer than
    `top_k` are taken, so the token that crosses top_p is the last one kept; one token always is.
    """
    top_k = max(1, min(top_k, probabilities.numel()))
    smallest = probabilities.topk(top_k).values[-1]
    ids = (probabilities >= smallest).nonzero().squeeze(1)  # a few more than top_k where ties cross the border
    values, order = probabilities[ids].sort(descending=True, stable=True)
    mass = np.cumsum(values[:top_k].numpy())  # float32, one after the other: the border depends on its rounding
    count = 1 + int((mass[:-1] < np.float32(top_p)).sum())
    return ids[order[:count]], values[:count]


def is_repeated(token: int, decoded_tokens: Sequence[int], win_size: int, tau_r: float) -> bool:
    """Whether `token` occurs at least win_size * tau_r times in the last win_size of `decoded_tokens`."""
    recent = decoded_tokens[max(0, len(decoded_tokens) - win_size) :]
    return sum(int(other) == token for other in recent) >= win_size * tau_r


def probabilities_without(scores: Tensor, token: int) -> Tensor:
    """Softmax of `scores`, (V,), over all tokens but `token`."""
    rest = scores.clone()
    rest[token] = -torch.inf
    return rest.softmax(dim=0)


def ras_sampling(
    weighted_scores: Tensor,
    decoded_tokens: Sequence[int],
    sampling: int = 25,
    top_p: float = 0.8,
    top_k: int = 25,
    win_size: int = 10,
    tau_r: float = 0.1,
    generator: torch.Generator | None = None,
) -> int:
    """One token by repetition-aware sampling: drawn from the nucleus, or, where the token drawn is a repetition
    (`is_repeated`), drawn from all other tokens.

    weighted_scores: (V,) log-probabilities (or logits), -inf at forbidden tokens; not changed. `sampling` is accepted
    because the language model passes it, and has no effect. Draws are made on the CPU, from `generator` or torch's
    default one, so that a seed gives the same tokens on every device; the copy of the scores is the only wait for it.
    Source: Chen et al. 2024, VALL-E 2, section 4.1; there the second draw may repeat the token, here it may not.
    """
    scores = weighted_scores.detach().float().cpu()
    ids, probabilities = nucleus(scores.softmax(dim=0), top_p, top_k)
    token = int(ids[_draw(probabilities, generator)])
    if is_repeated(token, decoded_tokens, win_size, tau_r):
        token = _draw(probabilities_without(scores, token), generator)
    return token


def _draw(weights: Tensor, generator: torch.Generator | None) -> int:
    return int(torch.multinomial(weights, 1, replacement=True, generator=generator))
