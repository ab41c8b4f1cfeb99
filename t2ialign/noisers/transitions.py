"""Recorded steps: x_t is where a step of a rollout began."""

from __future__ import annotations

from t2ialign.noisers.base import Noiser
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.types import Batch, Denoiser, Noised


class TransitionNoiser(Noiser):
    """The latents that a sampler's step of each rollout began with; for objectives that score that step."""

    name: str = "transitions"

    @property
    def reads_transitions(self) -> bool:
        return True

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            ValueError: the batch has no recorded steps.
        """
        steps = batch.transitions
        if steps is None:
            raise ValueError("noiser 'transitions' needs the recorded steps of rollouts")
        noise = schedule.noise_between(batch.latents[:, 0], steps.x_t, steps.at)
        return Noised(steps.x_t[:, None], batch.latents, noise[:, None], steps.at[:, None])
