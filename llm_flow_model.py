"""JointModel: the raw losses of LLM and flow, for training and for deterministic measurement. No files, no flags."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config import JointConfig
from dataset import Clip, collate_flow, collate_llm, speaker_vector, whole_window
from lora import LoRALinear, add_lora, lora_layers

# Points of the flow's time axis at which a clip is measured: midpoints of equal slices, warped like the training draw.
MEASURE_TIMES = 4


@dataclass(frozen=True)
class Loss:
    """A raw mean and how many units it is a mean of: speech tokens incl. EOS (LLM) or mel frames (flow)."""

    mean: Tensor
    count: int


class JointModel(nn.Module):
    """LLM and flow with adapters on the parts that are trained; a part that is not needed may be absent.

    llm: TransformerLM or None, flow: MaskedDiffWithXvec or None, both with base weights loaded.
    """

    def __init__(self, llm: nn.Module | None, flow: nn.Module | None, config: JointConfig) -> None:
        super().__init__()
        self.llm, self.flow, self.config = llm, flow, config
        for name in config.trained_parts:
            add_lora(self.part(name), config.part(name), name)

    def part(self, name: str) -> nn.Module:
        """The module called "llm" or "flow"."""
        return self.llm if name == "llm" else self.flow

    def llm_loss(self, batch: Mapping[str, Tensor], device: torch.device) -> Loss:
        """Nats per speech token (EOS included) of a padded batch of whole clips."""
        nats, tokens = self.llm.clip_losses(batch, device)
        return Loss((nats * tokens).sum() / tokens.sum(), int(batch["speech_token_len"].sum()) + len(tokens))

    def flow_loss(self, batch: Mapping[str, Tensor], device: torch.device) -> Loss:
        """Squared error per mel bin of windows of one common length, no prompt; guidance dropout acts."""
        losses = self.flow(batch, device, random_prefix=False, flow_time=self.config.flow_time)
        return Loss(losses["loss"], int(batch["speech_feat_len"].sum()))

    @torch.no_grad()
    def measure(
        self,
        name: str,
        clips: Sequence[Clip],
        device: torch.device,
        autocast: AbstractContextManager | None = None,
        adapters: bool = True,
    ) -> float:
        """Raw mean loss of one part over whole clips; the same clips and weights give the same number.

        The flow's noise is fixed by the clip's name, its times are MEASURE_TIMES fixed points, guidance dropout is off.
        adapters=False measures the base model.
        """
        part = self.part(name)
        total = count = 0.0
        with adapters_in_eval(part, adapters), autocast or nullcontext():
            for clip in clips:
                loss = self._measured_clip(name, clip, device)
                total += float(loss.mean) * loss.count
                count += loss.count
        return total / count

    def _measured_clip(self, name: str, clip: Clip, device: torch.device) -> Loss:
        if name == "llm":
            return self.llm_loss(collate_llm([clip], self.config.speaker_embedding), device)
        window = whole_window(clip, self.flow.input_frame_rate)
        vector = speaker_vector(clip, self.config.speaker_embedding)
        [batch] = collate_flow([window] * MEASURE_TIMES, [vector] * MEASURE_TIMES)
        noise = clip_noise(clip.utt, (MEASURE_TIMES, window.speech_feat.shape[1], window.speech_feat.shape[0]))
        losses = self.flow(
            batch,
            device,
            random_prefix=False,
            guidance_dropout=False,
            t=measure_times(self.config.flow_time).to(device),
            noise=noise.to(device),
        )
        return Loss(losses["loss"], int(batch["speech_feat_len"].sum()))


def measure_times(flow_time: str) -> Tensor:
    """(MEASURE_TIMES, 1, 1) points in (0, 1), spread as the training draw is."""
    t = (torch.arange(MEASURE_TIMES) + 0.5) / MEASURE_TIMES
    return (1 - torch.cos(t * math.pi / 2) if flow_time == "cosine" else t).view(-1, 1, 1)


def clip_noise(utt: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise that depends on the clip's name alone, made on the CPU."""
    seed = int.from_bytes(hashlib.sha256(utt.encode("utf-8")).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class adapters_in_eval(AbstractContextManager):
    """Within it the adapters' dropout is off; with active=False the adapters do nothing at all."""

    def __init__(self, model: nn.Module, active: bool = True) -> None:
        self.layers: list[LoRALinear] = [layer for _, layer in lora_layers(model)]
        self.active = active

    def __enter__(self) -> None:
        self.scaling = [layer.scaling for layer in self.layers]
        self.training = [layer.lora_dropout.training for layer in self.layers]
        for layer in self.layers:
            layer.lora_dropout.eval()
            layer.scaling = layer.scaling if self.active else 0.0

    def __exit__(self, *error: object) -> None:
        for layer, scaling, training in zip(self.layers, self.scaling, self.training, strict=True):
            layer.scaling = scaling
            layer.lora_dropout.train(training)


def store_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen Linear, convolution and embedding weights in `dtype`; adapters and norms stay float32."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.ConvTranspose1d)
    for module in model.modules():
        if isinstance(module, kinds):
            for name in ("weight", "bias"):
                parameter = getattr(module, name, None)
                if parameter is not None and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
