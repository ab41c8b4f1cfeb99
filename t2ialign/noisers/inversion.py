"""Inversion: x_t is where the model's own trajectory of an image passes t.

InPO (Lu et al. 2025, arXiv:2503.18454) and SmPO (Lu et al. 2025, arXiv:2506.02698).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from t2ialign.errors import InputError
from t2ialign.noisers.base import NoiserWeights
from t2ialign.noisers.timesteps import TimestepNoiser
from t2ialign.rng import Draws
from t2ialign.sampling.inversion import CorrectionTimestep, Grid, evaluations, inversion_path, invert, leg_path
from t2ialign.schedules import CLEAN, Schedule
from t2ialign.types import Batch, Denoiser, Noised, flatten_views


class InversionNoiser(TimestepNoiser):
    """Inverts each view to the example's timestep by DDIM or ReNoise; the noise is what x_t then holds beside x_0.

    One timestep per example, shared by its views. No gradient passes through the inversion.
    """

    name: str = "inversion"
    steps: int = Field(10, ge=1)
    """n: inversion steps over the whole schedule; a row makes those up to its timestep."""
    corrections: int = Field(0, ge=0)
    """Further evaluations of each step: 0 is DDIM inversion (InPO), 1 is SmPO's ReNoise."""
    weights: Literal["policy", "reference"] = "policy"
    """Which weights invert: the policy as it is trained, as released, or the frozen reference."""
    eta: float = Field(0.0, ge=0)
    """Noise added after each step, in units of the stochastic step back; 0.1 in InPO's code. It becomes part of the
    target, which no model can fit."""
    grid: Grid = "exact"
    """exact: from the clean latent to each row's own timestep. released: as the released code under the diffusers
    version that it names, which ends at the grid's level at or above the timestep; released_0.22: the same code under
    diffusers 0.22 and later, which ends below it."""
    correction_timestep: CorrectionTimestep = "destination"
    """What corrections are asked with: the timestep they lead to, which makes the step one of second order, or the one
    they come from, as the released code does before diffusers 0.22."""

    levels: int | None = Field(None, ge=1)
    """A discretised mode: a timestep is one of so many, evenly spaced up to the noisiest, at which each row is inverted
    once, before training, and stored like its latents. Needs weights reference; x_0 is then the mean of what the VAE
    says of the image."""

    @model_validator(mode="after")
    def _stored_once(self) -> Self:
        if self.levels is None:
            return self
        if self.weights != "reference" or self.grid != "exact" or self.correction_timestep != "destination":
            raise ValueError(
                "levels are inverted once, before training, at exact timesteps: set weights to reference, and leave "
                "grid and correction_timestep out"
            )
        return self

    @model_validator(mode="after")
    def _one_convention(self) -> Self:
        if self.grid == "released_0.22" and self.correction_timestep == "source":
            raise ValueError("grid released_0.22 evaluates at destinations; leave correction_timestep out")
        return self

    @property
    def required_weights(self) -> tuple[NoiserWeights, ...]:
        return ("reference",) if self.weights == "reference" else ()

    @property
    def follows_policy(self) -> bool:
        return self.weights == "policy"

    def check(self, num_train_timesteps: int) -> None:
        super().check(num_train_timesteps)
        if self.steps > num_train_timesteps:
            raise InputError(f"noiser.steps is {self.steps}, and the model has {num_train_timesteps} timesteps")

    def drawn(self, num_train_timesteps: int) -> Sequence[int]:
        every = super().drawn(num_train_timesteps)
        if self.levels is None:
            return every
        if self.levels > len(every):
            raise InputError(f"noiser.levels is {self.levels}, of {len(every)} timesteps")
        return [every[(place + 1) * len(every) // self.levels - 1] for place in range(self.levels)]

    def passes(self, views: int, num_train_timesteps: int) -> float:
        if self.levels is not None:
            return 0
        steps = evaluations(self.steps, num_train_timesteps, self.grid, self.drawn(num_train_timesteps))
        return views * (1 + self.corrections) * steps

    def trajectory_passes(self, views: int, num_train_timesteps: int) -> int:
        """UNet passes without gradient of inverting an example once, at all levels."""
        return views * (1 + self.corrections) * sum(self._legs(num_train_timesteps))

    def _legs(self, num_train_timesteps: int) -> list[int]:
        """Steps from each level to the next, the first from the clean latent."""
        stops = [0, *sorted(self.drawn(num_train_timesteps))]
        return [max(1, -(-(stop - start) * self.steps // num_train_timesteps)) for start, stop in pairwise(stops)]

    def trajectory(self, batch: Batch, policy: Denoiser, draws: Draws) -> Tensor:
        """The views' latents at all levels, least noisy first. [N, levels, V, C, H, W]"""
        total = policy.schedule.num_train_timesteps
        x = batch.latents.flatten(0, 1)
        cond = flatten_views(batch.cond, len(batch), batch.views)
        found: list[Tensor] = []
        start = CLEAN
        for leg, (stop, steps) in enumerate(zip(sorted(self.drawn(total)), self._legs(total), strict=True)):
            x = invert(
                policy,
                x,
                cond,
                leg_path(start, stop, steps, len(x)).to(x.device),
                geometry=None if batch.geometry is None else batch.geometry.flatten(0, 1),
                weights=self.weights,
                corrections=self.corrections,
                eta=self.eta,
                normal=lambda step, leg=leg: draws.normal(
                    tuple(batch.latents.shape[1:]), f"inversion {leg} {step}"
                ).flatten(0, 1),
            )
            found.append(x.view_as(batch.latents))
            start = stop
        return torch.stack(found, 1)

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
            ValueError: levels are asked for and the batch has no stored latents.
        """
        x_0 = batch.latents
        if self.levels is None:
            timesteps = self.draw_timesteps(batch, schedule, draws)
            x_t = self._inverted(batch, policy, timesteps, draws)
        elif batch.inverted is None or batch.levels is None:
            raise ValueError("noiser.levels needs batches with stored trajectories")
        else:
            levels = torch.tensor(sorted(self.drawn(schedule.num_train_timesteps)), device=x_0.device)
            timesteps = levels[batch.levels][:, None].expand(-1, batch.views)
            x_t = batch.inverted
        noise = schedule.noise_between(x_0.flatten(0, 1), x_t.flatten(0, 1), timesteps.flatten())
        return Noised(x_t, x_0, noise.view_as(x_0), timesteps)

    def _inverted(self, batch: Batch, policy: Denoiser, timesteps: Tensor, draws: Draws) -> Tensor:
        """The views' latents at their timesteps. [N, V, C, H, W]"""
        x_0 = batch.latents
        x_t = invert(
            policy,
            x_0.flatten(0, 1),
            flatten_views(batch.cond, len(batch), batch.views),
            inversion_path(timesteps.flatten(), self.steps, policy.schedule, self.grid, self.correction_timestep),
            geometry=None if batch.geometry is None else batch.geometry.flatten(0, 1),
            weights=self.weights,
            corrections=self.corrections,
            eta=self.eta,
            normal=lambda step: draws.normal(tuple(x_0.shape[1:]), f"inversion {step}").flatten(0, 1),
        )
        return x_t.view_as(x_0)
