"""MaskedDiffWithXvec: speech tokens and a speaker vector -> mel, by flow matching."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.utils.common import MEL_BINS, SPEAKER_DIM, InputError, token_to_mel_length
from cosyvoice.utils.mask import make_pad_mask
from matcha.models.components.linear import Linear

PREFIX_PROBABILITY = 0.5
LONGEST_PREFIX = 0.3  # share of the real frames that may be given as the prefix


def host_lengths(lengths: Tensor, longest: int, name: str) -> list[int]:
    """Lengths as numbers. One item that lies on the GPU is taken to be as long as its tensor, to avoid waiting for it.

    Raises InputError where the tensor is longer or shorter than its longest item."""
    if len(lengths) == 1 and not lengths.is_cpu:
        return [longest]
    values = lengths.tolist()
    if max(values) != longest:
        raise InputError(f"{name}: the longest is {max(values)} but the tensor has {longest}; cut the padding")
    return values


def draw_prefix_lengths(feat_lens: Sequence[int]) -> list[int]:
    """Frames of each item that are given as its prefix: none for half of them, else 0 to 30 % at random.

    Draws from Python's `random`, one or two numbers an item."""
    return [
        0 if random.random() < PREFIX_PROBABILITY else random.randint(0, int(LONGEST_PREFIX * length))
        for length in feat_lens
    ]


class MaskedDiffWithXvec(nn.Module):
    """Token encoder, length regulator and flow decoder. Letters: B batch, L speech tokens, T mel frames."""

    def __init__(
        self,
        encoder: nn.Module,
        length_regulator: nn.Module,
        decoder: nn.Module,
        input_size: int = 512,
        output_size: int = MEL_BINS,
        spk_embed_dim: int = SPEAKER_DIM,
        output_type: str = "mel",
        vocab_size: int = 4096,
        input_frame_rate: int = 50,
        only_mask_loss: bool = True,
        decoder_conf: Mapping[str, Any] | None = None,
    ) -> None:
        """input_frame_rate: speech tokens per second. only_mask_loss and decoder_conf have no effect.

        Raises InputError for an output_type other than 'mel'."""
        super().__init__()
        if output_type != "mel":
            raise InputError(f"MaskedDiffWithXvec: output_type {output_type!r} is not supported; use 'mel'")
        self.output_size, self.vocab_size, self.input_frame_rate = output_size, vocab_size, input_frame_rate
        self.input_embedding = nn.Embedding(vocab_size, input_size)
        self.spk_embed_affine_layer = Linear(spk_embed_dim, output_size)
        self.encoder = encoder
        self.encoder_proj = Linear(encoder.output_size(), output_size)
        self.decoder = decoder
        self.length_regulator = length_regulator

    def prepare_inference(self, precision: str = "full") -> None:
        """See `ConditionalDecoder.prepare_inference`; the token encoder, a twentieth of the work, stays float32."""
        self.decoder.estimator.prepare_inference(precision)

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker condition (B, 80) from x-vectors (B, 192) of any length: they are normalised here."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1).to(self.spk_embed_affine_layer.weight.dtype))

    def encode(self, token: Tensor, lens: Sequence[int]) -> Tensor:
        """Token encodings (B, L, 80); meaningless beyond an item's length. Negative ids count as 0."""
        x = self.input_embedding(token.clamp(min=0))
        if min(lens) < token.shape[1]:
            padding = make_pad_mask(torch.tensor(lens, device=token.device), token.shape[1])
            x = x.masked_fill(padding[:, :, None], 0.0)
        return self.encoder_proj(self.encoder(x, torch.tensor(lens, device="cpu"))[0])

    def forward(
        self,
        batch: Mapping[str, Tensor],
        device: torch.device | str,
        *,
        random_prefix: bool = True,
        prefix_lengths: Sequence[int] | None = None,
        flow_time: str = "uniform",
        guidance_dropout: bool = True,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> dict[str, Tensor | int]:
        """{"loss": mean squared error per mel bin, float32 scalar; "frames": number of real frames}.

        batch: speech_token (B, L), speech_token_len (B,), speech_feat (B, T, 80) log-mel with zeros as padding,
        speech_feat_len (B,), embedding (B, 192). Lengths that stay on the CPU save waiting for the GPU.
        random_prefix: give the start of some items' mel as a condition (`draw_prefix_lengths`); prefix_lengths sets
        the frames given. The other arguments are those of `ConditionalCFM.compute_loss`.
        The random draws are the prefixes from Python's `random`, then those of compute_loss from torch's generator."""
        token, feat = batch["speech_token"].to(device), batch["speech_feat"].to(device)
        token_lens = host_lengths(batch["speech_token_len"], token.shape[1], "speech_token_len")
        feat_lens = host_lengths(batch["speech_feat_len"], feat.shape[1], "speech_feat_len")
        longest = feat.shape[1]
        spks = self.speaker(batch["embedding"].to(device))
        feat_len = torch.tensor(feat_lens, device="cpu").to(device, non_blocking=True)
        mu, _ = self.length_regulator(self.encode(token, token_lens), feat_len, longest)

        if prefix_lengths is None:
            prefix_lengths = draw_prefix_lengths(feat_lens) if random_prefix else []
        cond = torch.zeros_like(feat)
        for i, frames in enumerate(prefix_lengths):
            cond[i, :frames] = feat[i, :frames]

        mask = None
        if min(feat_lens) < longest:
            mask = (~make_pad_mask(feat_len, longest))[:, None].to(feat.dtype)
        x1, mu, cond = (x.transpose(1, 2).contiguous() for x in (feat, mu, cond))
        draws = {"t": t, "noise": noise, "keep": keep}
        loss, _ = self.decoder.compute_loss(
            x1, mask, mu, spks, cond, flow_time=flow_time, guidance_dropout=guidance_dropout, **draws
        )
        return {"loss": loss, "frames": sum(feat_lens)}

    @torch.inference_mode()
    def inference(
        self,
        token: Tensor,
        token_len: Tensor,
        prompt_token: Tensor,
        prompt_token_len: Tensor,
        prompt_feat: Tensor,
        prompt_feat_len: Tensor,
        embedding: Tensor,
        flow_cache: Tensor | None = None,
        *,
        n_timesteps: int = 10,
        noise: Tensor | None = None,
        solver: str = "euler",
    ) -> tuple[Tensor, Tensor]:
        """Mel (1, 80, T) of `token`, float32, T = token_to_mel_length(L), and the cache for the next streamed piece.

        token: (1, L) with L > 0; prompt_token: (1, L1) and prompt_feat: (1, T1, 80), both may be empty; embedding:
        (1, 192); flow_cache: (1, 80, K, 2) of the previous piece. The lengths must be those of the tensors. noise:
        (1, 80, T1 + T) replaces the random draw. solver: as in `ConditionalCFM.forward`.
        Raises InputError for a batch or an empty token list."""
        if token.shape[0] != 1:
            raise InputError(f"flow: inference takes one utterance, not a batch of {token.shape[0]}")
        if token.shape[1] == 0:
            raise InputError("flow: no speech tokens to turn into sound; check the text and the language model")
        prompt_tokens, prompt_frames = prompt_token.shape[1], prompt_feat.shape[1]
        frames = token_to_mel_length(token.shape[1], self.input_frame_rate)
        tokens = torch.cat([prompt_token.to(token), token], dim=1)
        h = self.encode(tokens, [tokens.shape[1]])
        mu, total = self.length_regulator.inference(
            h[:, :prompt_tokens], h[:, prompt_tokens:], prompt_frames, frames, self.input_frame_rate
        )
        cond = mu.new_zeros(1, total, self.output_size)
        cond[:, :prompt_frames] = prompt_feat
        mel, new_cache = self.decoder(
            mu.transpose(1, 2).contiguous(),
            None,  # one utterance: no frame is padding
            n_timesteps,
            spks=self.speaker(embedding),
            cond=cond.transpose(1, 2),
            prompt_len=prompt_frames,
            cache=flow_cache,
            noise=noise,
            solver=solver,
        )
        return mel[:, :, prompt_frames:].float(), new_cache
