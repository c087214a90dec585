"""Several processes that train one voice, started by torchrun; a process that was started alone is the writer of one.

Gradients are summed once per optimizer step, by hand: DistributedDataParallel sums them in every backward pass and
divides by the number of processes, but the micro-batches of a step are of different number and weight everywhere.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.signals import SignalGuard
from config import UserError
from utils import tell

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # the others wait while the writer measures and listens; a process that dies ends them


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_writer() -> bool:
    """Whether this process measures, listens, decides and writes files; the others only compute gradients."""
    return rank() == 0


def several_started() -> bool:
    """Whether torchrun started several processes; schedulers and containers set some of its variables as well."""
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process where torchrun started several; UserError where there are fewer GPUs than processes."""
    if device.type != "cuda" or not several_started():
        return device
    number = int(os.environ["LOCAL_RANK"])
    if number >= torch.cuda.device_count():
        raise UserError(f"--nproc_per_node is larger than the number of GPUs, {torch.cuda.device_count()}; lower it")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within it the processes that torchrun started know of each other; only the writer prints."""
    if not several_started():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(sys.stdout if is_writer() else nowhere):
        yield


def leave(code: int) -> int:
    """`code`; where there are several processes, the end of this one with it.

    At once, without taking the process group down: with gloo (torch 2.11) that aborted one run in twenty.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def failing_together() -> Iterator[None]:
    """If any process raises UserError inside, all exit at the end of the block and rank 0 prints it."""
    mistake = None
    try:
        yield
    except UserError as error:
        if world_size() == 1:
            raise
        mistake = str(error)
    mistakes: list[str | None] = [mistake] * world_size()
    if world_size() > 1:
        dist.all_gather_object(mistakes, mistake)
    found = [mistake for mistake in mistakes if mistake is not None]
    if found:
        code = from_writer(tell(found[0]) if is_writer() else None)  # torchrun ends all as soon as one leaves
        leave(code)


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Every world_size-th item, beginning with this process's number."""
    return items[rank() :: world_size()]


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one transfer; the same bits everywhere."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, piece in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(piece.view_as(tensor))


def from_writer(value: T) -> T:
    """The writer's value, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def copy_from_writer(tensors: Sequence[Tensor]) -> None:
    """Fill each tensor with the writer's numbers."""
    for tensor in tensors if world_size() > 1 else ():
        dist.broadcast(tensor.detach(), src=0)


def check_together(guard: SignalGuard) -> None:
    """Raise Interrupted in every process as soon as one of them got a signal: nobody waits for one that has left."""
    if world_size() > 1:
        received: list[int] = [0] * world_size()
        dist.all_gather_object(received, guard.received)
        guard.received = max(received)
    guard.check()


def check_alone(guard: SignalGuard) -> None:
    """Raise Interrupted at once where no other process waits for this one's part of a step."""
    if world_size() == 1:
        guard.check()
