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
    "alloc_failed",
    "alloc_cpu",
    "paging file is too small",
    "failed to map segment",
    "could not create a primitive",
    "can't start new thread",
)
_NO_SHORTAGE = "static tls block"  # of the loader: the library wants to be loaded earlier
_GPUS = ("cuda", "cublas", "cudnn", "mps backend", "hip")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that memory ran out: it tells nothing about the file being read."""
    return any(map(_says_so, causes(error)))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it was raised from or in the handling of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _says_so(error: BaseException) -> bool:
    if (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or isinstance(error, OSError)
        and error.errno == errno.ENOMEM
    ):
        return True
    # PyTorch on a CPU and ONNX Runtime have no class of their own for it
    library = isinstance(error, RuntimeError | ImportError) or type(error).__module__.startswith("onnxruntime")
    text = str(error).lower()
    return library and _NO_SHORTAGE not in text and any(word in text for word in _WORDS)


def names_a_gpu(error: BaseException) -> bool:
    """Whether a lack of memory is that of a GPU."""
    return any(word in str(error).lower() for word in _GPUS)
