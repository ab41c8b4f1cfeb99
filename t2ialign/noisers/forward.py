"""The forward process q(x_t | x_0): noise is drawn."""

from __future__ import annotations

from t2ialign.noisers.timesteps import TimestepNoiser
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.types import Batch, Denoiser, Noised


class ForwardNoiser(TimestepNoiser):
    """One timestep and one noise per example, shared by its views (the pseudo-code of arXiv:2311.12908)."""

    name: str = "forward"

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            InputError: the schedule has fewer timesteps.
        """
        x_0 = batch.latents
        timesteps = self.draw_timesteps(batch, schedule, draws)
        noise = draws.normal(tuple(x_0.shape[2:]), "noise")[:, None].expand_as(x_0)
        x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        return Noised(x_t.view_as(x_0), x_0, noise, timesteps)
