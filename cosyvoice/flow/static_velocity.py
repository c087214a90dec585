"""The flow's velocity at one length with fixed addresses, so that a CUDA graph can repeat it.

One evaluation is more than a thousand small kernels, which take longer to start than to run, and a sound needs several
of the same shape: the first is computed as it is, the second is recorded, and the rest repeats it. Lengths cannot be
rounded up to a few, as the language model's are: the estimator's norms average over all frames.
"""

from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosyvoice.utils.cuda_graphs import Recordings, captured

if TYPE_CHECKING:
    from cosyvoice.flow.decoder import ConditionalDecoder

KEPT_LENGTHS = 4  # streamed pieces come in few lengths, sentences hardly ever in the same one


class StaticVelocity:
    """`ConditionalDecoder.velocity` in one shape, nothing of it padding."""

    def __init__(self, inputs: Tensor, time_emb: Tensor) -> None:
        """inputs, time_emb: as they will be given."""
        self.inputs, self.time_emb = torch.empty_like(inputs), torch.empty_like(time_emb)
        self.velocity: Tensor | None = None  # None until it was called
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recording_tried = False

    def __call__(self, estimator: "ConditionalDecoder", inputs: Tensor, time_emb: Tensor) -> Tensor:
        """The velocity, float32; it holds until the next call."""
        self.inputs.copy_(inputs)
        self.time_emb.copy_(time_emb)
        if self.velocity is None:
            self.velocity = estimator.velocity(self.inputs, None, self.time_emb).float()
            return self.velocity
        if not self.recording_tried:
            self.graph, self.recording_tried = self.recorded(estimator), True
        if self.graph is None:
            self.advance(estimator)
        else:
            self.graph.replay()
        return self.velocity

    def recorded(self, estimator: "ConditionalDecoder") -> torch.cuda.CUDAGraph | None:
        """A graph of the evaluation; None where there is none, also where memory is too scarce for one."""
        try:
            return captured(partial(self.advance, estimator), self.inputs.device, warm_ups=0)
        except torch.OutOfMemoryError:
            return None

    def advance(self, estimator: "ConditionalDecoder") -> None:
        """From `inputs` and `time_emb` to `velocity`."""
        self.velocity.copy_(estimator.velocity(self.inputs, None, self.time_emb))


class StaticVelocities(Recordings):
    """Velocities in the shapes that were used last."""

    def __init__(self, under_autocast: bool = False) -> None:
        super().__init__(under_autocast)
        self.kept: dict[tuple[int, torch.Size], StaticVelocity] = {}  # by thread and shape, last used last

    def of(self, inputs: Tensor, time_emb: Tensor) -> StaticVelocity:
        """The one for such inputs."""
        key = get_ident(), inputs.shape  # two threads must not meet in its memory
        velocity = self.kept.pop(key, None) or StaticVelocity(inputs, time_emb)
        self.kept[key] = velocity
        if len(self.kept) > KEPT_LENGTHS:
            del self.kept[next(iter(self.kept))]
        return velocity
