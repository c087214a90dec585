"""ConvRNNF0Predictor: pitch in Hz from a mel. The name is the checkpoint's; there is no recurrence in it."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.utils.common import MEL_BINS, InputError

CONV_LAYERS = 5


class ConvRNNF0Predictor(nn.Module):
    """Five weight-normalised convolutions with ELU, then a linear layer whose absolute value is the pitch."""

    def __init__(self, num_class: int = 1, in_channels: int = MEL_BINS, cond_channels: int = 512) -> None:
        """Raises InputError for num_class other than 1."""
        super().__init__()
        if num_class != 1:
            raise InputError(f"ConvRNNF0Predictor: num_class={num_class} is not supported; use 1")
        layers: list[nn.Module] = []
        for i in range(CONV_LAYERS):
            dim = cond_channels if i else in_channels
            layers += [weight_norm(nn.Conv1d(dim, cond_channels, 3, padding=1)), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(cond_channels, num_class)

    def forward(self, x: Tensor) -> Tensor:
        """Pitch (B, T) in Hz, about 0 where unvoiced. x: mel (B, 80, T)."""
        return self.classifier(self.condnet(x).transpose(1, 2)).squeeze(-1).abs()
