"""Conditional flow matching without a network: the path from noise to data, its time grid, its loss."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def cosine_time(t: Tensor) -> Tensor:
    """Flow time 1 - cos(t * pi / 2): dense near 0, where the path is still noise. Any shape."""
    return 1 - torch.cos(t * (0.5 * math.pi))


def time_grid(n_timesteps: int, t_scheduler: str) -> Tensor:
    """n_timesteps + 1 flow times from 0 to 1, float32 on the CPU; uniform, or warped where t_scheduler is 'cosine'."""
    uniform = torch.linspace(0, 1, n_timesteps + 1, dtype=torch.float32, device="cpu")
    return cosine_time(uniform) if t_scheduler == "cosine" else uniform


def euler_steps(grid: Tensor) -> tuple[Tensor, list[float]]:
    """Time at which each Euler step evaluates the velocity (n,), and the step widths.

    Times are accumulated from the widths, as the solver does, and so differ from the grid in the last bit."""
    times, widths = [grid[0]], [grid[1] - grid[0]]
    for k in range(2, len(grid)):
        times.append(times[-1] + widths[-1])
        widths.append(grid[k] - times[-1])
    return torch.stack(times), torch.stack(widths).tolist()


def multistep_times(n_timesteps: int) -> list[float]:
    """n_timesteps + 1 flow times from 0 to 1, growing as a square: dense near 0, where the path bends most."""
    return [(k / n_timesteps) ** 2 for k in range(n_timesteps + 1)]


def multistep(x: Tensor, velocity: Callable[[Tensor, int], Tensor], times: Sequence[float]) -> Tensor:
    """x carried from times[0] to times[-1] = 1 by a second-order multistep method; velocity(x, k): at times[k].

    At each time the velocity gives an estimate of the data, x + (1 - t) v. The path towards an estimate that changes
    linearly in log(t / (1 - t)) is known in closed form; the change is taken from the step before. The first two steps
    and the last one, next to an infinite logarithm, take the estimate as constant, which is Euler's step.
    Source: Lu et al. 2022, DPM-Solver++, the multistep method of order 2, for the path of flow matching."""
    before = None
    for k, (t, following) in enumerate(pairwise(times)):
        data = x + (1 - t) * velocity(x, k)
        expected = data
        if k > 1 and following < 1:
            growth = (_log_odds(following) - _log_odds(t)) / (_log_odds(t) - _log_odds(times[k - 1]))
            expected = torch.lerp(before, data, 1 + growth / 2)
        x = torch.lerp(expected, x, (1 - following) / (1 - t))
        before = data
    return x


def _log_odds(t: float) -> float:
    return math.log(t / (1 - t))


def flow_target(x1: Tensor, noise: Tensor, t: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """Point on the path from noise to x1 at time t, and the velocity there, both shaped as x1.

    t: (B, 1, 1) in [0, 1]; 0 is noise, 1 is data. Source: Lipman et al. 2023, eq. 22-23."""
    kept = 1 - sigma_min
    return (1 - kept * t) * noise + t * x1, x1 - kept * noise


def velocity_loss(predicted: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error per mel bin over the real frames of the batch, float32.

    predicted, target: (B, F, T); mask: (B, 1, T) or None if every frame is real. The divisor is sum(mask) * F."""
    error = predicted.float() - target.float()
    if mask is None:
        return error.square().mean()
    return (error * mask).square().sum() / (mask.sum(dtype=torch.float32) * target.shape[1])
