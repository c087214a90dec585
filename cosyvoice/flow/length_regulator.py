"""InterpolateRegulator: token rate -> mel rate (22050 / 256 Hz) by linear stretching and a small convolution stack."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.utils.common import token_to_mel_length
from cosyvoice.utils.mask import make_pad_mask

# Both ends of a long piece are stretched on their own, so that streamed pieces agree where they overlap.
EDGE_TOKENS = 20


def stretch(x: Tensor, length: int) -> Tensor:
    """x (B, C, L) linearly interpolated to (B, C, length)."""
    return F.interpolate(x, size=length, mode="linear")


class InterpolateRegulator(nn.Module):
    """Stretch token encodings to mel frames, then smooth them with len(sampling_ratios) convolutions."""

    def __init__(
        self, channels: int, sampling_ratios: Sequence[int], out_channels: int | None = None, groups: int = 1
    ) -> None:
        """sampling_ratios: only its length counts."""
        super().__init__()
        layers: list[nn.Module] = []
        for _ in sampling_ratios:
            layers += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(channels, out_channels or channels, 1))

    def forward(self, x: Tensor, ylens: Tensor, mel_length: int | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C) with zeros beyond each ylens, and ylens. x: (B, L, C) token encodings; ylens: (B,) mel frames.

        mel_length: max(ylens) where the caller knows it (saves reading it from the GPU). The padded batch is stretched
        as a whole, by T / L for every item, and the norms see padded frames: the released weights expect this."""
        length = int(ylens.max()) if mel_length is None else mel_length
        y = self.model(stretch(x.transpose(1, 2), length)).transpose(1, 2)
        if len(ylens) == 1:
            return y, ylens
        return y.masked_fill(make_pad_mask(ylens, length)[:, :, None], 0.0), ylens

    def inference(
        self, x1: Tensor, x2: Tensor, mel_len1: int, mel_len2: int, input_frame_rate: int = 50
    ) -> tuple[Tensor, int]:
        """(1, mel_len1 + mel_len2, C) and that length. x1: (1, L1, C) prompt tokens, L1 may be 0; x2: (1, L2, C).

        More than 40 tokens of x2: 20 at each end become their own natural length and the middle takes the rest."""
        x1, x2 = x1.transpose(1, 2), x2.transpose(1, 2)
        if x2.shape[2] > 2 * EDGE_TOKENS:
            edge = token_to_mel_length(EDGE_TOKENS, input_frame_rate)
            head, middle, tail = x2[..., :EDGE_TOKENS], x2[..., EDGE_TOKENS:-EDGE_TOKENS], x2[..., -EDGE_TOKENS:]
            pieces = [stretch(head, edge), stretch(middle, mel_len2 - 2 * edge), stretch(tail, edge)]
        else:
            pieces = [stretch(x2, mel_len2)]
        if x1.shape[2] > 0:
            pieces.insert(0, stretch(x1, mel_len1))
        return self.model(torch.cat(pieces, dim=2)).transpose(1, 2), mel_len1 + mel_len2
