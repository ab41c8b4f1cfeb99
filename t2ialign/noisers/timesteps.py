"""The timestep of an example, drawn between two bounds."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
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
    timesteps: list[int] | None = Field(default=None, min_length=1)
    """These alone are drawn, each as often as it stands here; 249, 499, 749, 999 are all that a four-step Turbo model
    knows."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.max_timestep is not None and self.min_timestep >= self.max_timestep:
            raise ValueError(f"min_timestep {self.min_timestep} is not below max_timestep {self.max_timestep}")
        if self.timesteps is not None and (self.min_timestep or self.max_timestep):
            raise ValueError("give either timesteps or their bounds min_timestep and max_timestep")
        if self.timesteps is not None and min(self.timesteps) < 0:
            raise ValueError(f"timesteps: {min(self.timesteps)} is below 0")
        return self

    def drawn(self, num_train_timesteps: int) -> Sequence[int]:
        """The timesteps of which one is drawn."""
        if self.timesteps is not None:
            return self.timesteps
        return range(self.min_timestep, self.max_timestep or num_train_timesteps)

    def check(self, num_train_timesteps: int) -> None:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        drawn = self.drawn(num_train_timesteps)
        if not drawn or max(drawn) >= num_train_timesteps:
            asked = f"{list(drawn)}" if self.timesteps else f"from {self.min_timestep} to below {self.max_timestep}"
            raise InputError(
                f"noiser: timesteps {asked} are asked for, and the model has {num_train_timesteps}; "
                "lower noiser.max_timestep, noiser.min_timestep or noiser.timesteps"
            )

    def draw_timesteps(self, batch: Batch, schedule: Schedule, draws: Draws) -> Tensor:
        """The drawn timesteps, expanded to the views. [N, V] int64

        Raises:
            InputError: the schedule has fewer timesteps.
        """
        self.check(schedule.num_train_timesteps)
        drawn = self.drawn(schedule.num_train_timesteps)
        if isinstance(drawn, range):
            timesteps = draws.timesteps(drawn.start, drawn.stop)
        else:
            timesteps = torch.tensor(drawn, device=batch.keys.device)[draws.timesteps(0, len(drawn))]
        return timesteps[:, None].expand(-1, batch.views)
