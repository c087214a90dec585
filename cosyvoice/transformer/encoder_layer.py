"""Pre-norm encoder layers: x += attention(norm(x)); x += feed_forward(norm(x)). They differ in names."""

from torch import Tensor, nn

from cosyvoice.transformer.attention import LayerCache, RelPositionMultiHeadedAttention
from cosyvoice.transformer.positionwise_feed_forward import PositionwiseFeedForward

NORM_EPS = 1e-12


class TransformerEncoderLayer(nn.Module):
    """Layer of the language model: norm1 before attention, norm2 before the feed-forward."""

    def __init__(
        self,
        size: int,
        self_attn: RelPositionMultiHeadedAttention,
        feed_forward: PositionwiseFeedForward,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.feed_forward = feed_forward
        self.norm1 = nn.LayerNorm(size, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(size, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """(B, t, D) for x: (B, t, D); the other arguments are those of the attention."""
        x = x + self.dropout(self.self_attn(self.norm1(x), pos_emb, mask, cache))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class ConformerEncoderLayer(nn.Module):
    """Layer of the text encoder and of the flow's encoder (no convolution in this family): norm_mha, norm_ff."""

    def __init__(
        self,
        size: int,
        self_attn: RelPositionMultiHeadedAttention,
        feed_forward: PositionwiseFeedForward,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.feed_forward = feed_forward
        self.norm_ff = nn.LayerNorm(size, eps=NORM_EPS)
        self.norm_mha = nn.LayerNorm(size, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """(B, t, D) for x: (B, t, D); the other arguments are those of the attention."""
        x = x + self.dropout(self.self_attn(self.norm_mha(x), pos_emb, mask, cache))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))
