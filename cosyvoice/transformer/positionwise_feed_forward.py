"""The feed-forward half of an encoder layer."""

from torch import Tensor, nn

from matcha.models.components.linear import Linear


class PositionwiseFeedForward(nn.Module):
    """w_2(dropout(activation(w_1 x))), the same shape as x: (..., D)."""

    def __init__(self, idim: int, hidden_units: int, dropout_rate: float, activation: nn.Module) -> None:
        super().__init__()
        self.w_1 = Linear(idim, hidden_units)
        self.activation = activation
        self.dropout = nn.Dropout(dropout_rate)
        self.w_2 = Linear(hidden_units, idim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))
