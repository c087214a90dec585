"""Lack of memory, in the many forms in which libraries report it."""

import errno
from collections.abc import Iterator

import torch

_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "alloc_cpu",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that memory ran out: it tells nothing about the file being read."""
    return any(map(_says_so, causes(error)))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it was raised from or in the handling of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_so(error: BaseException) -> bool:
    if (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or isinstance(error, OSError)
        and error.errno == errno.ENOMEM
    ):
        return True
    # PyTorch on a CPU and ONNX Runtime have no class of their own for it
    library = isinstance(error, RuntimeError | ImportError) or type(error).__module__.startswith("onnxruntime")
    return library and any(word in str(error).lower() for word in _WORDS)
