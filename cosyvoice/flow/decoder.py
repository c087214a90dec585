"""ConditionalDecoder: the U-Net that predicts the velocity of the flow from noise to mel."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cosyvoice.flow.static_velocity import StaticVelocities
from cosyvoice.utils.precision import check_precision, fast_dtype
from matcha.models.components.channels_last import use_channels_last
from matcha.models.components.decoder import (
    Block1D,
    Downsample1D,
    ResnetBlock1D,
    SinusoidalPosEmb,
    TimestepEmbedding,
    Upsample1D,
    masked,
)
from matcha.models.components.transformer import BasicTransformerBlock

PADDED_KEY_BIAS = -1e10  # finite, so that a row of padded keys only is a plain average and not NaN


def key_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Attention bias (B, 1, T): 0 at real keys, hugely negative at padded ones; None for None.

    An item without any real frame attends everywhere. The value stays finite in half precision."""
    if mask is None:
        return None
    mask = torch.where(mask.any(dim=-1, keepdim=True), mask, 1.0)
    return ((1 - mask.float()) * max(PADDED_KEY_BIAS, torch.finfo(dtype).min)).to(dtype)


def resolutions(mask: Tensor | None, count: int, dtype: torch.dtype) -> list[tuple[Tensor | None, Tensor | None]]:
    """Mask and attention bias at each of `count` resolutions, every second frame of the one before."""
    masks = [None if mask is None else mask[:, :, :: 1 << level].to(dtype) for level in range(count)]
    return [(mask, key_bias(mask, dtype)) for mask in masks]


def run_group(
    resnet: nn.Module, blocks: nn.ModuleList, h: Tensor, time_emb: Tensor, mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """One resnet block and its transformer blocks: (B, C, T) -> (B, C', T)."""
    h = resnet(h, mask, time_emb).transpose(1, 2).contiguous()
    for block in blocks:
        h = block(h, bias)
    return h.transpose(1, 2)


class ConditionalDecoder(nn.Module):
    """Velocity of x, (B, 80, T), given mu (the stretched token encoding), the speaker, and a mel prefix.

    Resolution halves after every level but the last, and is restored on the way up with skip connections.
    `gradient_checkpointing` recomputes each group (a resnet block and its transformer blocks) in the backward pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        attention_head_dim: int = 64,
        n_blocks: int = 4,
        num_mid_blocks: int = 12,
        num_heads: int = 8,
        act_fn: str = "gelu",
    ) -> None:
        """in_channels: of x, mu, speaker and prefix together. Raises InputError for unsupported dropout and act_fn."""
        super().__init__()
        channels = tuple(channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.gradient_checkpointing = False
        self.static_velocities: StaticVelocities | None = None  # set where a solver's evaluations are repeated by them
        time_emb_dim = channels[0] * 4
        self.time_embeddings = SinusoidalPosEmb(in_channels)
        self.time_mlp = TimestepEmbedding(in_channels, time_emb_dim)

        def group(dim: int, dim_out: int) -> list[nn.Module]:
            blocks = (
                BasicTransformerBlock(dim_out, num_heads, attention_head_dim, dropout, act_fn) for _ in range(n_blocks)
            )
            return [ResnetBlock1D(dim, dim_out, time_emb_dim), nn.ModuleList(blocks)]

        last = len(channels) - 1
        self.down_blocks = nn.ModuleList()
        for i, (dim, dim_out) in enumerate(zip((in_channels, *channels), channels, strict=False)):
            sampler = Downsample1D(dim_out) if i < last else nn.Conv1d(dim_out, dim_out, 3, padding=1)
            self.down_blocks.append(nn.ModuleList([*group(dim, dim_out), sampler]))
        self.mid_blocks = nn.ModuleList(nn.ModuleList(group(channels[-1], channels[-1])) for _ in range(num_mid_blocks))
        upward = (*reversed(channels), channels[0])
        self.up_blocks = nn.ModuleList()
        for i, (dim, dim_out) in enumerate(zip(upward, upward[1:], strict=False)):
            sampler = Upsample1D(dim_out) if i < last else nn.Conv1d(dim_out, dim_out, 3, padding=1)
            self.up_blocks.append(nn.ModuleList([*group(2 * dim, dim_out), sampler]))
        self.final_block = Block1D(upward[-1], upward[-1])
        self.final_proj = nn.Conv1d(upward[-1], out_channels, 1)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Fill every parameter for training from scratch: Kaiming normal (ReLU gain) with zero bias in convolutions
        and linear layers, torch's defaults in norms and transposed convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.ConvTranspose1d):
                module.reset_parameters()

    def prepare_inference(self, precision: str = "full") -> None:
        """Lay the weights out for speed, for good; precision "fast": half precision where the device gains by it.

        On a GPU a solver's evaluations are CUDA graphs from now on, so that the weights must not change any more.
        Idempotent. Raises InputError for another precision."""
        check_precision(precision)
        device = self.final_proj.weight.device
        if device.type == "cpu":
            use_channels_last(self)
        if precision == "fast":
            self.to(fast_dtype(device))
        self.use_graphs()

    def use_graphs(self, under_autocast: bool = False) -> None:
        """Repeat evaluations by CUDA graphs from now on, if the device has them; under_autocast: see `Recordings`."""
        if self.final_proj.weight.device.type == "cuda":
            self.static_velocities = StaticVelocities(under_autocast)

    def drop_graphs(self) -> None:
        """Go on without them: what they read is going to change."""
        self.static_velocities = None

    def time_embedding(self, t: Tensor) -> Tensor:
        """(B, 4 * channels[0]) from flow times t, (B,) or 0-dim."""
        return self.time_mlp(self.time_embeddings(t).to(self.final_proj.weight.dtype))

    def conditions(self, mu: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """Everything but x that enters the first block: mu, speaker at every frame, mel prefix; (B, 3 * 80, T)."""
        return torch.cat([mu, spks[:, :, None].expand(-1, -1, mu.shape[-1]), cond], dim=1)

    def forward(self, x: Tensor, mask: Tensor | None, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """Velocity (B, 80, T). x, mu, cond: (B, 80, T); t: (B,) or 0-dim; spks: (B, 80).

        mask: (B, 1, T), 1 at real frames; None says that nothing is padded and saves the attention bias."""
        inputs = torch.cat([x, self.conditions(mu, spks, cond)], dim=1)
        return self.velocity(inputs, mask, self.time_embedding(t))

    def velocity(self, inputs: Tensor, mask: Tensor | None, time_emb: Tensor) -> Tensor:
        """Velocity (B, 80, T) from inputs (B, in_channels, T), i.e. x above `conditions`, and `time_embedding`."""
        h = inputs.to(self.final_proj.weight.dtype)
        levels = resolutions(mask, len(self.down_blocks), h.dtype)
        skips = []
        for (resnet, blocks, sampler), level in zip(self.down_blocks, levels, strict=True):
            h = self._group(resnet, blocks, h, time_emb, *level)
            skips.append(h)
            h = sampler(masked(h, level[0]))
        for resnet, blocks in self.mid_blocks:
            h = self._group(resnet, blocks, h, time_emb, *levels[-1])
        for (resnet, blocks, sampler), level in zip(self.up_blocks, reversed(levels), strict=True):
            skip = skips.pop()
            h = torch.cat([h[:, :, : skip.shape[-1]], skip], dim=1)  # doubling an odd length gave one frame too many
            h = self._group(resnet, blocks, h, time_emb, *level)
            h = sampler(masked(h, level[0]))
        full = levels[0][0]
        return masked(self.final_proj(self.final_block(h, full)), full)

    def evaluator(self, inputs: Tensor, mask: Tensor | None, time_emb: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(inputs, time_emb) -> `velocity`, for many evaluations in the shapes of these; each holds until the next."""
        static = self.static_velocities
        if mask is None and static is not None and static.serve(inputs.device):
            return partial(static.of(inputs, time_emb), self)
        return lambda inputs, time_emb: self.velocity(inputs, mask, time_emb)

    def _group(self, *arguments: object) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(run_group, *arguments, use_reentrant=False)
        return run_group(*arguments)
