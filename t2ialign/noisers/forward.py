"""The forward process q(x_t | x_0): noise is drawn."""

from __future__ import annotations

from typing import Any

from t2ialign.draws import Draws
from t2ialign.noisers.base import Noiser
from t2ialign.schedules import Schedule
from t2ialign.types import Batch, Noised


class ForwardNoiser(Noiser):
    """One timestep and one noise per example, shared by its views (the pseudo-code of arXiv:2311.12908)."""

    name: str = "forward"

    def __call__(self, batch: Batch, policy: Any, schedule: Schedule, draws: Draws) -> Noised:
        x_0 = batch.latents
        timesteps = draws.timesteps(0, schedule.num_train_timesteps)[:, None].expand(-1, batch.views)
        noise = draws.normal(tuple(x_0.shape[2:]), "noise")[:, None].expand_as(x_0)
        x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        return Noised(x_t.view_as(x_0), x_0, noise, timesteps)
