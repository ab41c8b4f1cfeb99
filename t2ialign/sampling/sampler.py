"""Sampling: how latents move between noise levels, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2ialign.sampling.guidance import Guidance
from t2ialign.schedules import FINAL, network_timesteps
from t2ialign.types import Conditioning, Denoiser


@dataclass(frozen=True)
class Trajectory:
    """What a rollout went through."""

    latents: Tensor
    """Of each level, the first as given. [B, S+1, C, H, W]"""
    means: Tensor
    """Of each step; where a deterministic one leads. [B, S, C, H, W]"""
    log_probs: Tensor
    """Of each step, see `schedules.Step.log_prob`; NaN for deterministic steps and for rows that had arrived. [B, S]"""


@dataclass(frozen=True)
class Rollout:
    """Latents that were moved from level to level."""

    x: Tensor
    """At each row's stop. [B, C, H, W], at least float32"""
    levels: Tensor
    """The levels that each row visited; a row that arrives early repeats its stop. [B, S+1] int64"""
    trajectory: Trajectory | None
    """If it was recorded."""


class Sampler:
    """DDIM (Song et al. 2020, arXiv:2010.02502) in both directions: denoises if a row's stop is cleaner, else inverts.

    With diffusers' spacing of the timesteps it visits what diffusers' DDIM visits. Each step goes to the next timestep
    visited. So does diffusers' for leading spacing; for the other spacings its stride is the floor of T / steps, which
    misses the next timestep where T / steps is not an integer.

    Args:
        timesteps: those that rows visit between their start and their stop; see `schedules.sampling_timesteps`. [K]
        eta: noise of the denoising steps: 0 is deterministic, 1 as noisy as ancestral sampling. Inversion has none.
        stochastic: the steps that have it, counted from the start of a path; default: all.
    """

    def __init__(self, timesteps: Tensor, eta: float = 0.0, stochastic: range | None = None):
        self._descending: list[int] = sorted({int(timestep) for timestep in timesteps}, reverse=True)
        self._eta = eta
        self._stochastic = stochastic

    def levels(self, start: Tensor, stop: Tensor) -> Tensor:
        """Each row's start, the timesteps between, and its stop, which is repeated to the longest row. [B, S+1] int64

        Args:
            start: timesteps, FINAL or CLEAN. [B] int64
            stop: the same. [B] int64
        """
        ends = zip(start.cpu(), stop.cpu(), strict=True)
        rows = [self._path(int(first), int(last)) for first, last in ends]
        longest = max(len(row) for row in rows)
        return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows], device=start.device)

    def _path(self, start: int, stop: int) -> list[int]:
        low, high = min(start, stop), max(start, stop)
        between = [timestep for timestep in self._descending if low < timestep < high]
        return [start, *(between if stop < start else reversed(between)), stop]

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        cond: Conditioning,
        *,
        start: Tensor | None = None,
        stop: Tensor | None = None,
        levels: Tensor | None = None,
        geometry: Tensor | None = None,
        guidance: Guidance = Guidance(1.0),
        generators: Sequence[torch.Generator] | None = None,
        record: bool = False,
    ) -> Rollout:
        """Moves each row of latents from its own start to its own stop; a row that has arrived stays bit by bit.

        Args:
            x: latents at `start`; standard normal ones at the noisiest timestep. [B, C, H, W]
            cond: [B, ...]
            start: level of each row; default: the noisiest of the sampler's timesteps. [B] int64
            stop: level of each row; default: FINAL. [B] int64
            levels: the path of each row, instead of `start`, `stop` and the sampler's timesteps. [B, S+1] int64
            geometry: SDXL's micro-conditioning. [B, 6]
            guidance: the scale, and the weights of both branches.
            generators: one for each row, on the CPU: the noise of the steps if eta > 0.
            record: keep the trajectory.

        Raises:
            ValueError: eta > 0 without a generator for each row.
        """
        if self._eta > 0 and (generators is None or len(generators) != len(x)):
            raise ValueError(f"eta {self._eta} needs {len(x)} generators, one for each row")
        if levels is None:
            start = torch.full((len(x),), self._descending[0], device=x.device) if start is None else start
            stop = torch.full((len(x),), FINAL, device=x.device) if stop is None else stop
            levels = self.levels(start, stop)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        latents: list[Tensor] = [x]
        means: list[Tensor] = []
        log_probs: list[Tensor] = []
        for number, (at, to) in enumerate(zip(levels.T[:-1], levels.T[1:], strict=True)):
            prediction = guidance.denoise(denoiser, x, network_timesteps(at), cond, geometry)
            noisy = self._stochastic is None or number in self._stochastic
            moved, mean, log_prob = self._step(denoiser, prediction, x, at, to, generators if noisy else None)
            moves = at != to
            x = moved.where(moves.view(-1, 1, 1, 1), x)
            if record:
                latents.append(x)
                means.append(mean)
                log_probs.append(log_prob)
        found = (torch.stack(parts, 1) for parts in (latents, means, log_probs))
        return Rollout(x, levels, Trajectory(*found) if record else None)

    def _step(
        self,
        denoiser: Denoiser,
        prediction: Tensor,
        x: Tensor,
        at: Tensor,
        to: Tensor,
        generators: Sequence[torch.Generator] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(The latents at `to`, their means, their log-probabilities [B])."""
        schedule = denoiser.schedule
        if self._eta == 0 or generators is None:
            moved = schedule.ddim_step(prediction, x, at, to)
            return moved, moved, torch.full((len(x),), torch.nan, device=x.device)
        noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)
        step = schedule.sde_step(prediction, x, at, to, eta=self._eta, noise=noise)
        return step.x, step.mean, step.log_prob
