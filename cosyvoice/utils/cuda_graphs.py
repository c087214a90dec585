"""Recording work of fixed shapes and addresses as a CUDA graph, which starts all its kernels at once."""

import warnings
from collections.abc import Callable

import torch

WARM_UPS = 3  # calls before a recording, for what libraries set up when they are first called


class Recordings:
    """What is kept of recorded work for the next use. The weights that it reads must not change meanwhile."""

    def __init__(self, under_autocast: bool = False) -> None:
        """under_autocast: they serve only within one autocast region, whose copies of weights a graph reads."""
        self.under_autocast = under_autocast

    def serve(self, device: torch.device) -> bool:
        """Whether they may be used as torch stands now."""
        return torch.is_autocast_enabled(device.type) == self.under_autocast


def captured(work: Callable[[], None], device: torch.device, warm_ups: int = WARM_UPS) -> torch.cuda.CUDAGraph | None:
    """A CUDA graph of `work`; None on another device and where it cannot be recorded: the work is to be called then.

    The warm-ups run the work, so that whatever it counts must be set afterwards; 0 where it has run before in the same
    shapes. Warns where it failed: speech is the same without graphs, and slower. Raises torch.OutOfMemoryError."""
    if device.type != "cuda":
        return None
    try:
        return recorded(work, device, warm_ups)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of a driver, a library or a card that cannot
        reason = str(error).partition("\n")[0]
        warnings.warn(f"CUDA graphs failed ({reason}); going on without them: same sound, slower", stacklevel=2)
        return None


def recorded(work: Callable[[], None], device: torch.device, warm_ups: int) -> torch.cuda.CUDAGraph:
    """A graph of `work`. Raises RuntimeError where it cannot be recorded."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_ups):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):  # a failure leaves its own stream
            work()
    return graph
