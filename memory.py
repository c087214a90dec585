"""Precision of the forward pass, and how much memory a training run needs."""

from collections.abc import Sequence

import torch
from torch import nn

from config import JointConfig, UserError
from dataset import Clip, llm_positions
from llm_flow_model import JointModel, store_half
from utils import GIB

CPU_BATCH_FRAMES = 512


def choose_precision(config: JointConfig, device: torch.device) -> torch.dtype:
    """dtype of the forward pass: bf16 where the GPU computes it, else fp16; float32 elsewhere."""
    wanted = config.precision
    if wanted == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("precision=fp16 needs a CUDA device; use precision=auto, bf16 or fp32")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]


def activation_bytes(model: nn.Module, positions: int, element_bytes: int) -> float:
    """Rough size of what the backward pass keeps for one item: layer inputs and outputs, and attention scores."""
    widths = heads = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            widths += module.in_features + module.out_features
        elif isinstance(module, nn.Conv1d):
            widths += module.in_channels + module.out_channels
        heads += getattr(module, "pos_bias_u", torch.empty(0, device="meta")).shape[0]
    return 1.25 * element_bytes * (positions * widths + 2 * heads * positions**2)


def fill(config: JointConfig, device: torch.device, longest: int, item_bytes: float, need: float) -> int:
    """Most positions or frames in a forward pass."""
    if config.batch_frames != "auto":
        return int(config.batch_frames)
    if device.type != "cuda":
        return CPU_BATCH_FRAMES
    free = 0.8 * torch.cuda.mem_get_info(device)[0] - need
    return int(longest * max(1.0, free / item_bytes))


def prepare_memory(
    model: JointModel, clips: Sequence[Clip], config: JointConfig, dtype: torch.dtype
) -> tuple[dict[str, int], str]:
    """Store frozen weights in half and switch on checkpointing as the settings ask.

    Returns what `Run.batch_frames` holds, and a line about memory.
    """
    device = next(model.parameters()).device
    half = config.frozen_weights == "half" or (config.frozen_weights == "auto" and device.type == "cuda")
    if half and dtype == torch.float32:
        if config.frozen_weights == "half":
            raise UserError("frozen_weights=half needs precision=bf16 or fp16; use frozen_weights=full")
        half = False
    if half:
        for part in filter(None, (model.llm, model.flow)):
            store_half(part, dtype)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    optimizer = 12 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    element_bytes = torch.finfo(dtype).bits // 8
    positions = {
        "llm": max(map(llm_positions, clips)),
        "flow": min(config.max_feat_len, max(clip.speech_feat.shape[0] for clip in clips)),
    }
    items = {name: activation_bytes(model.part(name), positions[name], element_bytes) for name in config.trained_parts}
    activations = max(items.values())
    need = weights + optimizer + activations
    checkpointing = config.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = device.type == "cuda" and need > 0.8 * torch.cuda.mem_get_info(device)[0]
    if checkpointing:
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
    batch_frames = {name: fill(config, device, positions[name], items[name], need) for name in items}
    return batch_frames, (
        f"memory: about {need / GIB:.2f} GiB (weights {weights / GIB:.2f}, adapters' optimizer {optimizer / GIB:.2f}, "
        f"activations {activations / GIB:.2f}); gradient checkpointing {'on' if checkpointing else 'off'}"
    )
