"""Conditional flow matching without a network: the path from noise to data, its time grid, its loss."""

import math

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
