"""Precision of the forward pass, and how a training run fits into memory: what it needs, and what is chosen for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from common.files import GIB
from config import JointConfig, UserError
from cosyvoice.transformer.attention import causal_scores
from cosyvoice.utils.common import MEL_BINS, MEL_HOP, SAMPLE_RATE
from cosyvoice.utils.precision import fast_dtype
from dataset import Clip, FlowDraw, FlowWindow, clips_per_step, collate_draws, collate_llm, llm_positions
from llm_flow_model import JointModel, autocast, store_half

CPU_BATCH_FRAMES = 512  # measured on 2 cores: a tenth faster than one clip at a time; larger batches are slower
USABLE_SHARE = 0.8  # of the free GPU memory: the rest is for kernels' work space and fragmentation
BATCH_SHARE = 0.6  # of the usable memory is for batches; one clip that needs more may take all
WORK_FACTOR = 1.08  # peak of a training step = WORK_FACTOR * what it keeps; counted for clips of 3, 10 and 30 s
CHECKPOINTED_SHARE = 0.17  # peak with gradient checkpointing as a share of that without; counted: 0.11 to 0.16
PROBES = (1, 2, 3)  # sizes of the short clips that are counted
PROBE_TEXT, PROBE_FRAMES = 4, 64  # text tokens and mel frames of the smallest


def choose_precision(config: JointConfig, device: torch.device) -> torch.dtype:
    """dtype of the forward pass: bf16 where the GPU computes it, else fp16; float32 elsewhere."""
    wanted = config.precision
    if wanted == "auto":
        return fast_dtype(device) if device.type == "cuda" else torch.float32
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("precision=fp16 needs a CUDA device; use precision=auto, bf16 or fp32")
    if wanted == "bf16" and fast_dtype(device) != torch.bfloat16:
        print(f"warning: this {device.type.upper()} device only emulates bf16, which is slow; use precision=auto")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]


@dataclass(frozen=True)
class MemoryPlan:
    """What a run needs, in bytes, and what was chosen for it."""

    weights: int
    optimizer: int  # gradients and both moments of the adapters
    activations: int  # at the peak of the largest micro-batch
    checkpointing: bool
    batch_frames: dict[str, int]  # part -> most positions (LLM) or frames (flow) in a forward pass

    def __str__(self) -> str:
        total = self.weights + self.optimizer + self.activations
        frames = ", ".join(f"{name} {count}" for name, count in self.batch_frames.items())
        return (
            f"memory: about {total / GIB:.2f} GiB (weights {self.weights / GIB:.2f}, adapters' optimizer "
            f"{self.optimizer / GIB:.2f}, activations {self.activations / GIB:.2f}); gradient checkpointing "
            f"{'on' if self.checkpointing else 'off'}, batch_frames {frames}"
        )


def prepare_memory(model: JointModel, clips: Sequence[Clip], config: JointConfig, dtype: torch.dtype) -> MemoryPlan:
    """Store frozen weights in half and switch checkpointing on as the settings ask, or as the free memory allows."""
    device = next(model.parameters()).device
    store_frozen(model, config, dtype)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    optimizer = 12 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lengths = {"llm": max(map(llm_positions, clips)), "flow": longest_window(clips, config)}
    clip = max(clips, key=llm_positions)
    peaks = {name: WORK_FACTOR * kept_bytes(model, name, clip, lengths[name], dtype) for name in config.trained_parts}
    usable = USABLE_SHARE * free_bytes(device) - optimizer if device.type == "cuda" else math.inf
    step_clips = min(clips_per_step(config), len(clips))
    checkpointing, batch_frames = choose_batches(config, peaks, lengths, step_clips, usable)
    if checkpointing:
        checkpoint_activations(model)
    share = CHECKPOINTED_SHARE if checkpointing else 1
    activations = share * most_bytes(peaks, lengths, step_clips, batch_frames)
    return MemoryPlan(weights, optimizer, int(activations), checkpointing, batch_frames)


def choose_batches(
    config: JointConfig, peaks: Mapping[str, float], lengths: Mapping[str, int], step_clips: int, usable: float
) -> tuple[bool, dict[str, int]]:
    """Whether to checkpoint, and `MemoryPlan.batch_frames`, for `usable` bytes of GPU memory (infinite: no GPU).

    peaks, lengths: {part: bytes that its longest clip needs, positions or frames of that clip}; step_clips: clips of an
    optimizer step.
    """
    frames = None
    if config.batch_frames != "auto":
        frames = dict.fromkeys(peaks, int(config.batch_frames))
    elif usable == math.inf:
        frames = dict.fromkeys(peaks, CPU_BATCH_FRAMES)
    checkpointing = config.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = most_bytes(peaks, lengths, step_clips, frames or dict.fromkeys(peaks, 1)) > usable
    if frames is None:
        room = BATCH_SHARE * usable / (CHECKPOINTED_SHARE if checkpointing else 1)
        frames = {name: int(lengths[name] * min(max(1.0, room / peaks[name]), step_clips)) for name in peaks}
    return bool(checkpointing), frames


def most_bytes(
    peaks: Mapping[str, float], lengths: Mapping[str, int], step_clips: int, batch_frames: Mapping[str, int]
) -> float:
    """Bytes of the largest micro-batch that can come, if all clips were as long as the longest; parts take turns."""
    return max(peaks[name] * min(max(1.0, batch_frames[name] / lengths[name]), step_clips) for name in peaks)


def store_frozen(model: JointModel, config: JointConfig, dtype: torch.dtype) -> None:
    """Frozen weights in half precision where the settings ask for it."""
    device = next(model.parameters()).device
    if config.frozen_weights == "half" and dtype == torch.float32:
        raise UserError("frozen_weights=half needs precision=bf16 or fp16; use frozen_weights=full")
    on_gpu = config.frozen_weights == "auto" and device.type == "cuda"
    if dtype != torch.float32 and (config.frozen_weights == "half" or on_gpu):
        for part in filter(None, (model.llm, model.flow)):
            store_half(part, dtype)


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute activations in the backward pass from now on, instead of keeping them."""
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True


def longest_window(clips: Sequence[Clip], config: JointConfig) -> int:
    """Mel frames of the longest flow window."""
    return min(config.max_feat_len, max(len(clip.speech_feat) for clip in clips))


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process can still allocate, within `torch.cuda.set_per_process_memory_fraction`."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device)) - allocated
    return min(free + unused, allowed)


# ---- what the backward pass needs ------------------------------------------------------------------------------------


def kept_bytes(model: JointModel, name: str, clip: Clip, length: int, dtype: torch.dtype) -> float:
    """Bytes that one part keeps for the backward pass of one clip of `length` positions (LLM) or frames (flow).

    Three short forward passes are counted, and tell the bytes of a score of attention, of a position and of the rest,
    so that ranks, targets, precision and kernels are those of this run. clip: tells how text and speech are
    proportioned.
    """
    lengths, counted = [], []
    for size in PROBES:
        if name == "llm":
            short = probe_clip(clip, size)
            lengths.append(llm_positions(short))
            batch = collate_llm([short])
        else:
            tokens = round(PROBE_FRAMES * model.flow.input_frame_rate * MEL_HOP / SAMPLE_RATE)
            lengths.append(size * PROBE_FRAMES)
            batch = probe_flow(clip, lengths[-1], size * tokens)
        counted.append(saved_bytes(model, name, batch, dtype))
    scores = causal_scores if name == "llm" else lambda size: size**2
    bytes_each = np.linalg.solve([(scores(size), size, 1) for size in lengths], counted)
    return float(bytes_each @ (scores(length), length, 1))


def probe_clip(clip: Clip, size: int) -> Clip:
    """A clip of zeros with `size` times PROBE_TEXT text tokens and nearly `clip`'s share of speech tokens."""
    speech_per_text = max(1, round(len(clip.speech_token) / len(clip.text_token)))
    text = torch.zeros(size * PROBE_TEXT, dtype=torch.long)
    return replace(clip, text_token=text, speech_token=text.repeat(speech_per_text))


def probe_flow(clip: Clip, frames: int, tokens: int) -> dict[str, Tensor]:
    """A batch of one window of zeros."""
    mel = torch.zeros(frames, MEL_BINS)
    window = FlowWindow(torch.zeros(tokens, dtype=torch.long), mel)
    return collate_draws([FlowDraw(window, clip.spk_embedding, t=0.5, keep=True, noise=mel.T)])


def saved_bytes(model: JointModel, name: str, batch: dict[str, Tensor], dtype: torch.dtype) -> int:
    """Bytes that autograd saves in the forward pass of a batch, without the weights; shared storage counts once."""
    device = next(model.parameters()).device
    # the storages themselves: on the meta device all data pointers are 0
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
        return tensor.detach()  # an output that held itself would never be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(device, dtype):
        loss = model.loss(name, batch, device)
    del loss  # kept until here, so that no block was counted and then used again
    return sum(saved.values())
