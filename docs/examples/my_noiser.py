"""A noiser of your own: timesteps by a power of a uniform number, so that noisy ones are drawn more often.

t2ialign train configs/shapes_dpo.yaml 'noiser={name: my_noiser.py:NoisyMoreOften, power: 0.5}' run_dir=runs/noisy
"""

from __future__ import annotations

from pydantic import Field

from t2ialign import Batch, Noiser
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.types import Denoiser, Noised


class NoisyMoreOften(Noiser):
    """t = T u^power with u uniform in [0, 1); one timestep and one noise per example, shared by its views."""

    power: float = Field(0.5, gt=0)
    """1 draws all timesteps equally often, less prefers noisy ones."""

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        x_0 = batch.latents
        fraction = draws.uniform("timestep").double() ** self.power
        timesteps = (fraction * schedule.num_train_timesteps).long().clamp(max=schedule.num_train_timesteps - 1)
        timesteps = timesteps[:, None].expand(-1, batch.views)
        noise = draws.normal(tuple(x_0.shape[2:]), "noise")[:, None].expand_as(x_0)
        x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        return Noised(x_t.view_as(x_0), x_0, noise, timesteps)
