"""JointModel: the raw losses of LLM and flow, for training and for deterministic measurement. No files, no flags."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config import JointConfig
from dataset import Clip, collate_flow, collate_llm, speaker_vector, whole_window
from lora import adapter_state_dict, add_lora, load_adapter, lora_layers

Adapter = Mapping[str, Tensor]  # of one part, as `adapter_state_dict` names its tensors

LOSS_UNITS = {"llm": "nats per speech token", "flow": "squared error per mel bin"}
MEASURE_TIMES = 4  # points of the flow's time axis at which a clip is measured


@dataclass(frozen=True)
class Loss:
    """A raw mean and how many units it is a mean of: speech tokens incl. EOS (LLM) or mel frames (flow)."""

    mean: Tensor
    count: int


class JointModel(nn.Module):
    """LLM and flow with adapters on the parts that are trained; a part that is not needed may be absent.

    llm: TransformerLM or None, flow: MaskedDiffWithXvec or None, both with base weights loaded. start: {part: adapter}
    that the run starts from; other parts start as the base. A part that is not trained keeps its own.
    """

    def __init__(
        self,
        llm: nn.Module | None,
        flow: nn.Module | None,
        config: JointConfig,
        start: Mapping[str, Adapter] | None = None,
    ) -> None:
        super().__init__()
        self.llm, self.flow, self.config, self.start = llm, flow, config, dict(start or {})
        for name in config.trained_parts:
            add_lora(self.part(name), config.part(name), name)
        for name, adapter in self.start.items():
            part = self.part(name)
            if name not in config.trained_parts and part is not None:
                add_lora(part, config.part(name), name)
                part.requires_grad_(False)
            if part is not None:
                load_adapter(part, adapter, f"the {name} adapter to start from")

    def part(self, name: str) -> nn.Module:
        """The module called "llm" or "flow"."""
        return self.llm if name == "llm" else self.flow

    @contextmanager
    def acting(self, name: str, trained: bool = True) -> Iterator[None]:
        """Within it a part acts as it was trained so far, or as it was when the run started, without dropout."""
        part, start = self.part(name), self.start.get(name)
        with with_adapter(part, None if trained else start), adapters_in_eval(part, trained or start is not None):
            yield

    def loss(self, name: str, batch: Mapping[str, Tensor], device: torch.device) -> Loss:
        """Raw loss of a training batch: whole clips (`collate_llm`) for "llm"; draws (`collate_draws`) for "flow".

        The flow gets no prompt, and draws nothing itself.
        """
        if name == "llm":
            nats, tokens = self.llm.clip_losses(batch, device)
            shares = (tokens / tokens.sum()).to(nats, non_blocking=True)
            mean = (nats * shares).sum()  # as a product of vectors autocast would round it to half precision
        else:
            draws = {key: batch[key].to(device) for key in ("t", "keep", "noise")}
            mean = self.flow(batch, device, random_prefix=False, flow_time=self.config.flow_time, **draws)["loss"]
        return Loss(mean, batch_units(name, batch))

    @torch.no_grad()
    def measure(
        self,
        name: str,
        clips: Iterable[Clip],
        device: torch.device,
        autocast: AbstractContextManager | None = None,
        adapters: bool = True,
    ) -> float:
        """Raw mean loss of one part over whole clips; the same clips and weights give the same number.

        The flow's noise is fixed by the clip's name, its times are MEASURE_TIMES fixed points, guidance dropout is off.
        adapters=False measures what the run started from.
        """
        total = count = 0.0
        with self.acting(name, adapters), autocast or nullcontext():
            for clip in clips:
                loss = self._measured_clip(name, clip, device)
                total += float(loss.mean) * loss.count
                count += loss.count
        return total / count

    def _measured_clip(self, name: str, clip: Clip, device: torch.device) -> Loss:
        if name == "llm":
            return self.loss("llm", collate_llm([clip], self.config.speaker_embedding), device)
        window = whole_window(clip, self.flow.input_frame_rate)
        vector = speaker_vector(clip, self.config.speaker_embedding)
        batch = collate_flow([window] * MEASURE_TIMES, [vector] * MEASURE_TIMES)
        frames, bins = window.speech_feat.shape
        losses = self.flow(
            batch,
            device,
            random_prefix=False,
            guidance_dropout=False,
            flow_time=self.config.flow_time,
            t=measure_times().to(device),
            noise=clip_noise(clip.utt, (MEASURE_TIMES, bins, frames)).to(device),
        )
        return Loss(losses["loss"], batch_units("flow", batch))


def batch_units(name: str, batch: Mapping[str, Tensor]) -> int:
    """`units` of a batch."""
    lengths = batch["speech_token_len" if name == "llm" else "speech_feat_len"]
    return units(name, lengths.tolist())


def units(name: str, lengths: Sequence[int]) -> int:
    """What a part's loss is a mean over: speech tokens with an EOS for each clip ("llm"), or mel frames ("flow")."""
    return sum(lengths) + (len(lengths) if name == "llm" else 0)


def measure_times() -> Tensor:
    """(MEASURE_TIMES, 1, 1) midpoints of equal slices of (0, 1); the flow warps them as it does the training draw."""
    return ((torch.arange(MEASURE_TIMES) + 0.5) / MEASURE_TIMES).view(-1, 1, 1)


def clip_noise(utt: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise that depends on the clip's name alone, made on the CPU."""
    seed = int.from_bytes(hashlib.sha256(utt.encode("utf-8")).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Forward passes run in `dtype` inside it."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextmanager
def adapters_in_eval(model: nn.Module, active: bool = True) -> Iterator[None]:
    """Within it the adapters act as they will when merged, without dropout; with active=False not at all."""
    saved = [(layer, layer.scaling, layer.lora_dropout.training) for _, layer in lora_layers(model)]
    try:
        for layer, _, _ in saved:
            layer.lora_dropout.eval()
            layer.scaling = layer.merged_scaling if active else 0.0
        yield
    finally:
        for layer, scaling, training in saved:
            layer.scaling = scaling
            layer.lora_dropout.train(training)


@contextmanager
def with_adapter(model: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """Within it the model has this adapter, after it again its own; None: its own throughout."""
    own = None if adapter is None else adapter_state_dict(model)
    try:
        if adapter is not None:
            load_adapter(model, adapter, "an adapter of this run")
        yield
    finally:
        if own is not None:
            load_adapter(model, own, "its own adapter")


def store_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen Linear, convolution and embedding weights in `dtype`; adapters and norms stay float32."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.ConvTranspose1d)
    for module in model.modules():
        if isinstance(module, kinds):
            for name in ("weight", "bias"):
                parameter = getattr(module, name, None)
                if parameter is not None and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
