"""Pre-norm encoder layers: x += attention(norm(x)); x += feed_forward(norm(x)). They differ in the norms' names."""

from torch import Tensor, nn

from cosyvoice.transformer.attention import AttentionCache, RelPositionMultiHeadedAttention
from cosyvoice.transformer.positionwise_feed_forward import PositionwiseFeedForward

NORM_EPS = 1e-12


class EncoderLayer(nn.Module):
    """What both layers do; a sub-class says what its norms are called in checkpoints."""

    attention_norm: str
    feed_forward_norm: str

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
        for name in sorted((self.attention_norm, self.feed_forward_norm)):
            self.add_module(name, nn.LayerNorm(size, eps=NORM_EPS))
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor | None = None, cache: AttentionCache | None = None
    ) -> Tensor:
        """(B, t, D) for x: (B, t, D); the other arguments are those of the attention."""
        norm_attention, norm_feed_forward = getattr(self, self.attention_norm), getattr(self, self.feed_forward_norm)
        x = x + self.dropout(self.self_attn(norm_attention(x), pos_emb, mask, cache))
        return x + self.dropout(self.feed_forward(norm_feed_forward(x)))


class TransformerEncoderLayer(EncoderLayer):
    """Layer of the language model."""

    attention_norm, feed_forward_norm = "norm1", "norm2"


class ConformerEncoderLayer(EncoderLayer):
    """Layer of the text encoder and of the flow's encoder (no convolution in this family)."""

    attention_norm, feed_forward_norm = "norm_mha", "norm_ff"
