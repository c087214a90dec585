"""Input layers of the encoders. Neither changes the length; the module's name is kept for the yaml's vocabulary."""

from torch import Tensor, nn

from cosyvoice.transformer.embedding import EspnetRelPositionalEncoding
from matcha.models.components.linear import Linear


class LinearNoSubsampling(nn.Module):
    """Linear, LayerNorm and dropout, then the scaling of the position module."""

    def __init__(self, idim: int, odim: int, dropout_rate: float, pos_enc: EspnetRelPositionalEncoding) -> None:
        super().__init__()
        self.out = nn.Sequential(Linear(idim, odim), nn.LayerNorm(odim, eps=1e-5), nn.Dropout(dropout_rate))
        self.pos_enc = pos_enc

    def forward(self, x: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
        """(B, T, odim) for x: (B, T, idim), and the position code of `EspnetRelPositionalEncoding.forward`."""
        return self.pos_enc(self.out(x), causal)

    def project(self, x: Tensor) -> Tensor:
        """The first result of `forward` alone."""
        return self.pos_enc.scale(self.out(x))


class LegacyLinearNoSubsampling(LinearNoSubsampling):
    """The same with a ReLU after the dropout."""

    def __init__(self, idim: int, odim: int, dropout_rate: float, pos_enc: EspnetRelPositionalEncoding) -> None:
        super().__init__(idim, odim, dropout_rate, pos_enc)
        self.out.append(nn.ReLU())
