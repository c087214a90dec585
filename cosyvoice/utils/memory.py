"""Lack of memory, in the many forms in which libraries report it."""

import errno

import torch

_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "failed to allocate", "alloc_cpu")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that memory ran out: it tells nothing about the file being read."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _has_errno(error):
            return True
        # PyTorch on a CPU and ONNX Runtime have no class of their own for it
        is_of_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
        if is_of_library and any(word in str(error).lower() for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _has_errno(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOMEM
