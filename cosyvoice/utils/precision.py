"""Which arithmetic is fast on a device and accurate enough to speak with."""

import torch

from cosyvoice.utils.common import InputError

PRECISIONS = ("full", "fast")
"""full: float32 everywhere. fast: 8-bit weights (CPU) or half precision (GPU), where the device gains by it."""


def check_precision(precision: str) -> None:
    """Raises InputError for a precision that there is not."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")


def fast_dtype(device: torch.device) -> torch.dtype:
    """Floating-point type of the fastest matrix products: bfloat16 where the hardware has it, else float16 on a GPU
    and float32 on a CPU, which would only emulate it."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and has_bfloat16 else torch.float32


def has_int8(device: torch.device) -> bool:
    """Whether 8-bit linear layers run there."""
    return device.type == "cpu" and torch.backends.quantized.engine != "none"


def keep_float32_exact() -> None:
    """Let convolutions on a GPU compute in float32 where they are asked to, as matrix products do.

    By default cuDNN rounds their inputs to the 11 significant bits of TF32. For the whole process."""
    torch.backends.cudnn.allow_tf32 = False


def attend_without_plans() -> None:
    """Let attention on a GPU use kernels that start at once: cuDNN's, which torch takes first on some cards, is planned
    anew for every length, and sentences hardly ever have the same one. For the whole process."""
    torch.backends.cuda.enable_cudnn_sdp(False)
