"""Loss of the language model."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class LabelSmoothingLoss(nn.Module):
    """Divergence between smoothed targets and predicted distribution; ordinary cross-entropy where smoothing is 0.

    The target class gets 1 - smoothing, the others share the rest. Summed over the targets that are not `padding_idx`,
    and divided by their number (normalize_length) or by the batch size.
    """

    def __init__(self, size: int, padding_idx: int, smoothing: float, normalize_length: bool = False) -> None:
        super().__init__()
        self.size = size
        self.padding_idx = padding_idx
        self.smoothing = float(smoothing)
        self.normalize_length = normalize_length

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Loss in nats, (); x: (B, T, size) logits, target: (B, T) ids or padding_idx."""
        counted = (target != self.padding_idx).sum() if self.normalize_length else target.size(0)
        return self.per_position(x, target).sum() / counted

    def per_position(self, x: Tensor, target: Tensor) -> Tensor:
        """Loss of each position in nats, (B, T), 0 where the target is padding_idx; arguments as in `forward`."""
        flat, targets = x.reshape(-1, self.size).float(), target.reshape(-1)
        loss = F.cross_entropy(flat, targets, ignore_index=self.padding_idx, reduction="none")
        if self.smoothing > 0:
            loss = self._smoothed(flat, loss).masked_fill(targets == self.padding_idx, 0.0)
        return loss.view_as(target)

    def _smoothed(self, x: Tensor, cross_entropy: Tensor) -> Tensor:
        """sum_c q_c (ln q_c - ln p_c) for q = 1 - smoothing on the target and `rest` on each other class."""
        rest = self.smoothing / (self.size - 1)
        entropy = (1 - self.smoothing) * math.log(1 - self.smoothing) + self.smoothing * math.log(rest)
        all_classes = -x.log_softmax(dim=-1).sum(dim=-1)
        return entropy + (1 - self.smoothing - rest) * cross_entropy + rest * all_classes
