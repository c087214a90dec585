"""ConditionalCFM: the flow-matching loss, and the solvers with classifier-free guidance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cosyvoice.utils.common import InputError
from matcha.models.components.flow_matching import (
    cosine_time,
    euler_steps,
    flow_target,
    multistep,
    multistep_times,
    time_grid,
    velocity_loss,
)

SOLVERS = ("euler", "multistep")
FLOW_TIMES = ("uniform", "cosine")
CACHED_FRAMES = 34  # last frames of a streamed piece that the next one starts from; 0.4 s of speech tokens at any rate
PARAMS = {"sigma_min", "solver", "t_scheduler", "training_cfg_rate", "inference_cfg_rate", "reg_loss_type"}
OWN_PARAMS = {"temperature"}  # this project's addition, which the released configurations do not have


class ConditionalCFM(nn.Module):
    """Flow from Gaussian noise to mel along straight paths, with a velocity `estimator`. No parameters of its own."""

    def __init__(
        self,
        in_channels: int,
        cfm_params: Mapping[str, Any],
        n_spks: int = 1,
        spk_emb_dim: int = 64,
        estimator: nn.Module | None = None,
    ) -> None:
        """in_channels, spk_emb_dim and cfm_params' reg_loss_type are kept without effect (the loss is squared error).
        cfm_params' temperature scales the noise that inference starts from; without it the scale is 1.

        Raises InputError for a missing estimator and for a setting that no supported model uses."""
        super().__init__()
        known = PARAMS | OWN_PARAMS
        unknown = set(cfm_params) - known
        if unknown:
            raise InputError(f"cfm_params: {sorted(unknown)} are not supported; known are {sorted(known)}")
        if estimator is None or n_spks != 1:
            raise InputError(
                "ConditionalCFM: an estimator and n_spks=1 are needed; check flow.decoder in cosyvoice.yaml"
            )
        self.n_feats, self.n_spks, self.spk_emb_dim = in_channels, n_spks, spk_emb_dim
        self.solver = cfm_params.get("solver", "euler")
        self.t_scheduler = cfm_params.get("t_scheduler", "cosine")
        if self.solver != "euler":
            raise InputError(f"cfm_params: solver {self.solver!r} is not supported; use 'euler'")
        if self.t_scheduler not in ("cosine", "linear"):
            raise InputError(f"cfm_params: t_scheduler {self.t_scheduler!r} is not supported; use 'cosine' or 'linear'")
        self.sigma_min = float(cfm_params.get("sigma_min", 1e-6))
        self.training_cfg_rate = float(cfm_params.get("training_cfg_rate", 0.2))
        self.inference_cfg_rate = float(cfm_params.get("inference_cfg_rate", 0.7))
        self.temperature = float(cfm_params.get("temperature", 1.0))
        self.estimator = estimator

    def compute_loss(
        self,
        x1: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        spks: Tensor,
        cond: Tensor,
        *,
        flow_time: str = "uniform",
        guidance_dropout: bool = True,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared velocity error per mel bin over real frames (float32 scalar), and the noisy mel y (B, 80, T).

        x1, mu, cond: (B, 80, T); spks: (B, 80); mask: (B, 1, T) or None if no frame is padding.
        What is not injected is drawn from x1's device, in this order: t uniform (B, 1, 1), noise normal as x1, then
        with guidance_dropout one uniform number an item, whose conditions are dropped at or below training_cfg_rate.
        keep: (B,), 1 keeps an item's conditions. flow_time 'cosine' warps t, also an injected one, to 1 - cos(t pi/2).
        Raises InputError for another flow_time."""
        if flow_time not in FLOW_TIMES:
            raise InputError(f"flow_time: {flow_time!r} is unknown; use one of {', '.join(FLOW_TIMES)}")
        batch = x1.shape[0]
        if t is None:
            t = torch.rand([batch, 1, 1], device=x1.device, dtype=x1.dtype)
        if noise is None:
            noise = torch.randn_like(x1)
        if keep is None and guidance_dropout and self.training_cfg_rate > 0:
            keep = torch.rand(batch, device=x1.device) > self.training_cfg_rate
        if flow_time == "cosine":
            t = cosine_time(t)
        if keep is not None:
            keep = keep.to(mu.dtype).reshape(batch, 1, 1)
            mu, spks, cond = mu * keep, spks * keep[:, :, 0], cond * keep
        y, velocity = flow_target(x1, noise, t, self.sigma_min)
        predicted = self.estimator(y, mask, mu, t.reshape(batch), spks, cond)
        return velocity_loss(predicted, velocity, mask), y

    @torch.inference_mode()
    def forward(
        self,
        mu: Tensor,
        mask: Tensor | None,
        n_timesteps: int,
        temperature: float | None = None,
        spks: Tensor | None = None,
        cond: Tensor | None = None,
        prompt_len: int = 0,
        cache: Tensor | None = None,
        noise: Tensor | None = None,
        solver: str = "euler",
    ) -> tuple[Tensor, Tensor]:
        """Mel (1, 80, T), float32, and the cache for the next streamed piece (1, 80, prompt_len + 34, 2).

        solver: "euler", as the released models are used, or "multistep", which needs fewer of the n_timesteps.
        temperature scales the noise (default: what the model was built with); less of it makes clearer, flatter sound.
        mu, cond: (1, 80, T); spks: (1, 80); mask: (1, 1, T) or None. noise (1, 80, T) replaces the one normal draw.
        cache (1, 80, K, 2) holds noise and mu of the previous piece: they take over the first K frames, so that the
        prompt and the overlap come out alike. Source: flow matching with guidance, Ho & Salimans 2022."""
        if n_timesteps < 1:
            raise InputError(f"n_timesteps: {n_timesteps} is too few; use at least 1 (10 is usual)")
        if solver not in SOLVERS:
            raise InputError(f"solver: {solver!r} is unknown; use one of {', '.join(SOLVERS)}")
        mu = mu.float()  # noise, state and cache are float32 whatever precision the networks run in
        scale = self.temperature if temperature is None else temperature
        z = (torch.randn_like(mu) if noise is None else noise.to(mu)) * scale
        if cache is not None and cache.shape[2] > 0:
            kept = cache.shape[2]
            z = torch.cat([cache[..., 0].to(z), z[:, :, kept:]], dim=2)
            mu = torch.cat([cache[..., 1].to(mu), mu[:, :, kept:]], dim=2)
        both = torch.stack([z, mu], dim=-1)
        new_cache = torch.cat([both[:, :, :prompt_len], both[:, :, -CACHED_FRAMES:]], dim=2)
        if solver == "euler":
            mel = self.solve_euler(z, time_grid(n_timesteps, self.t_scheduler), mu, mask, spks, cond)
        else:
            mel = self.solve_multistep(z, n_timesteps, mu, mask, spks, cond)
        return mel, new_cache

    @torch.inference_mode()
    def solve_euler(
        self, x: Tensor, t_span: Tensor, mu: Tensor, mask: Tensor | None, spks: Tensor, cond: Tensor
    ) -> Tensor:
        """x carried from time 0 to 1 along `guided_velocity`, one Euler step an interval of t_span; float32."""
        times, widths = euler_steps(t_span)
        velocity = self.guided_velocity(x.shape, times, mu, mask, spks, cond)
        x = x.float()
        for k, width in enumerate(widths):
            x = x.add(velocity(x, k), alpha=width)
        return x

    @torch.inference_mode()
    def solve_multistep(
        self, x: Tensor, n_timesteps: int, mu: Tensor, mask: Tensor | None, spks: Tensor, cond: Tensor
    ) -> Tensor:
        """x carried from time 0 to 1 along `guided_velocity` by `multistep`, float32."""
        times = multistep_times(n_timesteps)
        return multistep(x.float(), self.guided_velocity(x.shape, times, mu, mask, spks, cond), times)

    def guided_velocity(
        self,
        shape: Sequence[int],
        times: Tensor | Sequence[float],
        mu: Tensor,
        mask: Tensor | None,
        spks: Tensor,
        cond: Tensor,
    ) -> Callable[[Tensor, int], Tensor]:
        """The function (x, k) -> (1 + w) v - w v0 at times[k], float32; x and the result have `shape`, (1, 80, T).

        v0 comes from zeros in place of mu, speaker and prefix. Both velocities are one batch of 2; what does not depend
        on x is computed here, once. Raises InputError for a batch."""
        if shape[0] != 1:
            raise InputError(f"ConditionalCFM: inference takes one utterance, not a batch of {shape[0]}")
        estimator, w, channels = self.estimator, self.inference_cfg_rate, shape[1]
        time_embs = estimator.time_embedding(torch.as_tensor(times, dtype=torch.float32).to(mu.device))
        conditions = estimator.conditions(mu, spks, cond)
        inputs = conditions.new_zeros(2, channels + conditions.shape[1], shape[2])
        inputs[0, channels:] = conditions[0]
        evaluate = estimator.evaluator(inputs, mask, time_embs[:1])

        def velocity(x: Tensor, k: int) -> Tensor:
            inputs[:, :channels] = x
            v, v0 = evaluate(inputs, time_embs[k : k + 1]).float().chunk(2)
            return torch.lerp(v0, v, 1 + w)

        return velocity
