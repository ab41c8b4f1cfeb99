"""Sampling: how latents are denoised step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from t2ialign.schedules import Schedule, sampling_timesteps
from t2ialign.types import Conditioning

if TYPE_CHECKING:
    from t2ialign.policy import Policy
from t2ialign.sampling.guidance import Guidance


class Sampler:
    """DDIM (Song et al. 2020, arXiv:2010.02502) on the timesteps that diffusers' DDIM visits.

    Each step goes to the next timestep visited. So does diffusers' for leading spacing; for the other spacings its
    stride is the floor of T / steps, which misses the next timestep where T / steps is no whole number.

    Args:
        schedule: the backbone's.
        sampling: the backbone's `spacing` and `offset`.
        steps: denoiser evaluations.
        eta: 0 is deterministic, 1 as noisy as ancestral sampling.
    """

    def __init__(self, schedule: Schedule, sampling: Mapping[str, Any], steps: int, eta: float = 0.0):
        self.schedule = schedule
        self.eta = eta
        self.timesteps = sampling_timesteps(schedule, steps, sampling["spacing"], sampling["offset"])
        """[steps] int64, latest first"""
        self.destinations = torch.cat([self.timesteps[1:], torch.tensor([-1])])
        """Where each step goes; -1 is the clean end. [steps] int64"""

    @torch.no_grad()
    def sample(
        self,
        policy: Policy,
        latents: Tensor,
        cond: Conditioning,
        null: Conditioning,
        geometry: Tensor | None,
        guidance: Guidance,
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Clean latents of standard normal ones. [B, C, H, W] float32

        Args:
            latents: [B, C, H, W]
            cond: [B, ...]
            null: [1, ...]
            geometry: [B, 6] or None
            guidance: the scale, and the weights of both branches.
            generators: one a row, on the CPU; the noise of the steps where eta > 0.

        Raises:
            ValueError: eta > 0 without a generator for each row.
        """
        if self.eta > 0 and (generators is None or len(generators) != len(latents)):
            raise ValueError(f"eta {self.eta} needs {len(latents)} generators, one a row")
        for timestep, destination in zip(self.timesteps, self.destinations, strict=True):
            t, to = (value.to(latents.device).expand(len(latents)) for value in (timestep, destination))
            prediction = guidance.denoise(policy, latents, t, cond, null, geometry)
            if generators is not None and self.eta > 0:
                rows = [torch.randn(latents.shape[1:], generator=generator) for generator in generators]
                noise = torch.stack(rows).to(latents)
                latents = self.schedule.sde_step(prediction, latents, t, to, eta=self.eta, noise=noise).x
            else:
                latents = self.schedule.ddim_step(prediction, latents, t, to)
        return latents
