"""Inversion: x_t is where the model's own trajectory of an image passes t.

InPO (Lu et al. 2025, arXiv:2503.18454) and SmPO (Lu et al. 2025, arXiv:2506.02698).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from t2ialign.errors import InputError
from t2ialign.noisers.base import NoiserWeights
from t2ialign.noisers.timesteps import TimestepNoiser
from t2ialign.rng import Draws
from t2ialign.sampling.inversion import CorrectionTimestep, Grid, evaluations, inversion_path, invert
from t2ialign.schedules import Schedule
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

    def passes(self, views: int, num_train_timesteps: int) -> float:
        steps = evaluations(self.steps, num_train_timesteps, self.grid, self.drawn(num_train_timesteps))
        return views * (1 + self.corrections) * steps

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        x_0 = batch.latents
        timesteps = self.draw_timesteps(batch, schedule, draws)
        rows, tau = x_0.flatten(0, 1), timesteps.flatten()
        x_t = invert(
            policy,
            rows,
            flatten_views(batch.cond, len(batch), batch.views),
            inversion_path(tau, self.steps, schedule, self.grid, self.correction_timestep),
            geometry=None if batch.geometry is None else batch.geometry.flatten(0, 1),
            weights=self.weights,
            corrections=self.corrections,
            eta=self.eta,
            normal=lambda step: draws.normal(tuple(x_0.shape[1:]), f"inversion {step}").flatten(0, 1),
        )
        noise = schedule.noise_between(rows, x_t, tau)
        return Noised(x_t.view_as(x_0), x_0, noise.view_as(x_0), timesteps)
