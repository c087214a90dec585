"""The two encoders: ConformerEncoder (text, and speech tokens of the flow) and TransformerEncoder (language model)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cosyvoice.transformer.attention import (
    AttentionCache,
    LayerCache,
    ProjectedPositions,
    RelPositionMultiHeadedAttention,
)
from cosyvoice.transformer.embedding import EspnetRelPositionalEncoding
from cosyvoice.transformer.encoder_layer import ConformerEncoderLayer, TransformerEncoderLayer
from cosyvoice.transformer.positionwise_feed_forward import PositionwiseFeedForward
from cosyvoice.transformer.subsampling import LegacyLinearNoSubsampling, LinearNoSubsampling
from cosyvoice.utils.common import InputError
from cosyvoice.utils.mask import attention_mask, make_pad_mask, subsequent_chunk_mask

INPUT_LAYERS = {"linear": LinearNoSubsampling, "linear_legacy": LegacyLinearNoSubsampling}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"swish": nn.SiLU, "relu": nn.ReLU}


class BaseEncoder(nn.Module):
    """Input layer, pre-norm layers with relative positions, final LayerNorm.

    The keyword arguments are those of the released configuration. Values that nothing in this model family uses are
    refused with InputError. `static_chunk_size` 1 makes the encoder causal; 0 lets every position see all others.
    Set `gradient_checkpointing` to recompute each layer in the backward pass instead of keeping its activations.
    """

    layer_class: type[TransformerEncoderLayer] | type[ConformerEncoderLayer]

    def __init__(
        self,
        input_size: int,
        *,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        input_layer: str = "linear",
        pos_enc_layer_type: str = "rel_pos_espnet",
        selfattention_layer_type: str = "rel_selfattn",
        activation_type: str = "swish",
        normalize_before: bool = True,
        static_chunk_size: int = 0,
        use_dynamic_chunk: bool = False,
        use_dynamic_left_chunk: bool = False,
        global_cmvn: None = None,
        key_bias: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self._require("input_layer", input_layer, *INPUT_LAYERS)
        self._require("pos_enc_layer_type", pos_enc_layer_type, "rel_pos_espnet")
        self._require("selfattention_layer_type", selfattention_layer_type, "rel_selfattn")
        self._require("activation_type", activation_type, *ACTIVATIONS)
        self._require("normalize_before", normalize_before, True)
        self._require("static_chunk_size", static_chunk_size, 0, 1)
        self._require("use_dynamic_chunk", use_dynamic_chunk, False)
        self._require("use_dynamic_left_chunk", use_dynamic_left_chunk, False)
        self._require("global_cmvn", global_cmvn, None)
        self._require("key_bias", key_bias, True)
        self._output_size = output_size
        self.static_chunk_size = static_chunk_size
        self.gradient_checkpointing = gradient_checkpointing
        position_code = EspnetRelPositionalEncoding(output_size, positional_dropout_rate)
        self.embed = INPUT_LAYERS[input_layer](input_size, output_size, dropout_rate, position_code)
        self.encoders = nn.ModuleList(
            self.layer_class(
                output_size,
                RelPositionMultiHeadedAttention(attention_heads, output_size, attention_dropout_rate),
                PositionwiseFeedForward(output_size, linear_units, dropout_rate, ACTIVATIONS[activation_type]()),
                dropout_rate,
            )
            for _ in range(num_blocks)
        )
        self.after_norm = nn.LayerNorm(output_size, eps=1e-5)
        self._positions: list[ProjectedPositions | None] = [None] * num_blocks  # set where they outlive an utterance

    def prepare_inference(self) -> None:
        """Keep projected positions from one utterance to the next, and multiply for queries, keys and values at once.
        The weights must not change any more. Idempotent."""
        if None in self._positions:
            self._positions = [ProjectedPositions() for _ in self.encoders]
        for layer in self.encoders:
            layer.self_attn.prepare_inference()

    def _require(self, option: str, value: object, *supported: object) -> None:
        if value not in supported:
            choices = " or ".join(repr(choice) for choice in supported)
            raise InputError(
                f"{type(self).__name__}: {option}={value!r} is not part of CosyVoice-300M; it must be {choices}"
            )

    def output_size(self) -> int:
        """Width D of the output."""
        return self._output_size

    def forward(self, xs: Tensor, xs_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) for xs: (B, T, input_size), and a mask (B, 1, T), True where an item is not padded.

        xs_lens: (B,). Output at padded positions is finite and meaningless. xs_lens on the GPU costs one wait for it.
        """
        causal = self.static_chunk_size > 0
        x, pos_emb = self.embed(xs, causal)
        mask = self._attention_mask(xs_lens, xs.size(1), xs.device)
        for layer in self.encoders:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, pos_emb, mask, use_reentrant=False)
            else:
                x = layer(x, pos_emb, mask)
        not_padded = ~make_pad_mask(xs_lens.to(xs.device, non_blocking=True), xs.size(1)).unsqueeze(1)
        return self.after_norm(x), not_padded

    def _attention_mask(self, lengths: Tensor, size: int, device: torch.device) -> Tensor | None:
        """Mask for the attention, or None where every query may see every key.

        A causal encoder needs none for the padding, which lies to the right of every position that counts.
        """
        if self.static_chunk_size > 0:
            return subsequent_chunk_mask(size, self.static_chunk_size, device).unsqueeze(0)
        on_host = lengths.tolist()
        return None if min(on_host) >= size else attention_mask(on_host, size, 0, device)

    def new_cache(self) -> list[LayerCache]:
        """Empty cache for `decode`, one entry per layer."""
        return [LayerCache(positions) for positions in self._positions]

    def decode(self, xs: Tensor, cache: Sequence[AttentionCache], mask: Tensor | None = None) -> Tensor:
        """Output at the next positions, (B, t, D) for xs: (B, t, input_size); they are added to `cache`.

        mask: (B or 1, t, T), True = may attend; default, with the cache of `new_cache` only: each position sees itself
        and all before it.
        """
        x = self.embed.project(xs)
        if mask is None and xs.size(1) > 1:
            total = cache[0].length + xs.size(1)
            mask = subsequent_chunk_mask(total, 1, xs.device)[-xs.size(1) :].unsqueeze(0)
        for layer, layer_cache in zip(self.encoders, cache, strict=True):
            x = layer(x, None, mask, layer_cache)
        return self.after_norm(x)

    def forward_chunk(
        self,
        xs: Tensor,
        offset: int,
        required_cache_size: int = -1,
        att_cache: Tensor | None = None,
        cnn_cache: Tensor | None = None,
        att_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`decode` with its cache as tensors: output (1, t, D), att_cache (layers, h, T, 2 * d_k), empty cnn_cache.

        offset must be the number of positions in att_cache. Each call copies the cache: decode with `decode` instead.
        """
        self._require("required_cache_size", required_cache_size, -1)
        held = 0 if att_cache is None or att_cache.numel() == 0 else att_cache.size(2)
        if offset != held:
            raise InputError(f"forward_chunk: offset {offset} but {held} positions in att_cache; pass offset={held}")
        cache = [LayerCache.from_tensor(kv.unsqueeze(0)) for kv in att_cache] if held else self.new_cache()
        ys = self.decode(xs, cache, att_mask if att_mask is not None and att_mask.numel() else None)
        att_cache = torch.cat([layer_cache.kv for layer_cache in cache])
        return ys, att_cache, xs.new_zeros(len(cache), 0, 0, 0)


class ConformerEncoder(BaseEncoder):
    """Text encoder, and speech-token encoder of the flow: SiLU, norms named norm_mha and norm_ff."""

    layer_class = ConformerEncoderLayer

    def __init__(
        self, input_size: int, *, use_cnn_module: bool = False, macaron_style: bool = False, **options: Any
    ) -> None:
        self._require("use_cnn_module", use_cnn_module, False)
        self._require("macaron_style", macaron_style, False)
        super().__init__(input_size, **options)


class TransformerEncoder(BaseEncoder):
    """Language model: ReLU by default, norms named norm1 and norm2."""

    layer_class = TransformerEncoderLayer

    def __init__(self, input_size: int, *, activation_type: str = "relu", **options: Any) -> None:
        super().__init__(input_size, activation_type=activation_type, **options)
