"""What a noiser is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from t2ialign.config.component import Component

if TYPE_CHECKING:  # a config is validated without torch
    from t2ialign.rng import Draws
    from t2ialign.schedules import Schedule
    from t2ialign.types import Batch, Denoiser, Noised

NoiserWeights = Literal["reference", "ema"]
"""Frozen weights that a noiser may ask beside the policy."""


class Noiser(Component):
    """Reaches x_t; may ask the policy (inversion, self-rollout). A frozen config section that is callable."""

    slot: ClassVar[str] = "noiser"
    draws: int | None = Field(default=None, ge=1)
    """Fixed draws of timestep, noise, latent and prompt dropout that each row has, and that epochs repeat in turn: the
    reference's error of a draw is then computed once. Every visit draws anew if empty."""

    @abstractmethod
    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """x_t = alpha_t * x_0 + sigma_t * noise for every view."""

    def check(self, num_train_timesteps: int) -> None:
        """Checks that the noiser fits a schedule of that many timesteps, before any weight is loaded.

        Raises:
            InputError: it asks for timesteps that the schedule does not have.
        """

    @property
    def required_weights(self) -> tuple[NoiserWeights, ...]:
        """Frozen weights that it asks beside the policy. default: none"""
        return ()

    @property
    def follows_policy(self) -> bool:
        """Whether x_t changes as the policy is trained, so that nothing can be computed of it once. default: False"""
        return False

    @property
    def reads_transitions(self) -> bool:
        """Whether x_t is that of a recorded step of a rollout. default: False"""
        return False

    @property
    def reads_images(self) -> bool:
        """Whether it starts from the latents of the data's images. default: True"""
        return True

    def passes(self, views: int, num_train_timesteps: int) -> float:
        """UNet passes without gradient, on average, for an example of `views` views. default: 0"""
        return 0
