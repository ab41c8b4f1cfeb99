"""The timestep of an example, drawn between two bounds."""

from __future__ import annotations

from abc import ABC

from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from t2ialign.errors import InputError
from t2ialign.noisers.base import Noiser
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.types import Batch


class TimestepNoiser(Noiser, ABC):
    """A noiser with one timestep per example, uniform between two bounds and shared by the views."""

    min_timestep: int = Field(default=0, ge=0)
    """The least noisy timestep that is drawn; what a picture shows is decided at the noisy ones."""
    max_timestep: int | None = Field(default=None, ge=1)
    """Timesteps below this are drawn; those of the whole schedule without it."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.max_timestep is not None and self.min_timestep >= self.max_timestep:
            raise ValueError(f"min_timestep {self.min_timestep} is not below max_timestep {self.max_timestep}")
        return self

    def span(self, num_train_timesteps: int) -> tuple[int, int]:
        """(the least timestep that is drawn, the one above the largest)."""
        return self.min_timestep, self.max_timestep or num_train_timesteps

    def check(self, num_train_timesteps: int) -> None:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        low, high = self.span(num_train_timesteps)
        if not low < high <= num_train_timesteps:
            raise InputError(
                f"noiser: timesteps from {low} to below {high} are asked for, and the model has {num_train_timesteps}; "
                "lower noiser.max_timestep or noiser.min_timestep"
            )

    def timesteps(self, batch: Batch, schedule: Schedule, draws: Draws) -> Tensor:
        """The drawn timesteps, expanded to the views. [N, V] int64

        Raises:
            InputError: the schedule has fewer timesteps.
        """
        self.check(schedule.num_train_timesteps)
        return draws.timesteps(*self.span(schedule.num_train_timesteps))[:, None].expand(-1, batch.views)
