"""The forward process q(x_t | x_0): noise is drawn."""

from __future__ import annotations

from pydantic import Field, model_validator

from t2ialign.errors import InputError
from t2ialign.noisers.base import Noiser
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.types import Batch, Denoiser, Noised


class ForwardNoiser(Noiser):
    """One timestep and one noise per example, shared by its views (the pseudo-code of arXiv:2311.12908)."""

    name: str = "forward"
    min_timestep: int = Field(default=0, ge=0)
    """The least noisy timestep that is drawn; what a picture shows is decided at the noisy ones."""
    max_timestep: int | None = Field(default=None, ge=1)
    """Timesteps below this are drawn; those of the whole schedule without it."""

    @model_validator(mode="after")
    def _not_empty(self) -> ForwardNoiser:
        if self.max_timestep is not None and self.min_timestep >= self.max_timestep:
            raise ValueError(f"min_timestep {self.min_timestep} is not below max_timestep {self.max_timestep}")
        return self

    def _span(self, num_train_timesteps: int) -> tuple[int, int]:
        return self.min_timestep, self.max_timestep or num_train_timesteps

    def check(self, num_train_timesteps: int) -> None:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        low, high = self._span(num_train_timesteps)
        if not low < high <= num_train_timesteps:
            raise InputError(
                f"noiser: timesteps from {low} to below {high} are asked for, and the model has {num_train_timesteps}; "
                "lower noiser.max_timestep or noiser.min_timestep"
            )

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        x_0 = batch.latents
        self.check(schedule.num_train_timesteps)
        low, high = self._span(schedule.num_train_timesteps)
        timesteps = draws.timesteps(low, high)[:, None].expand(-1, batch.views)
        noise = draws.normal(tuple(x_0.shape[2:]), "noise")[:, None].expand_as(x_0)
        x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        return Noised(x_t.view_as(x_0), x_0, noise, timesteps)
