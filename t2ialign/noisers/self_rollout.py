"""Self-rollout: the target is what the model itself makes of a noisy latent in a few steps (Self-NPO)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from t2ialign.errors import InputError
from t2ialign.noisers.base import Noiser, NoiserWeights
from t2ialign.rng import Draws
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import Schedule, network_timesteps, sampling_timesteps
from t2ialign.types import Batch, Conditioning, Denoiser, Noised, flatten_views


class SelfRolloutNoiser(Noiser):
    """Truncated rollouts of Self-NPO (arXiv:2505.11777): a few weakly guided steps, whose result is noised again.

    From a drawn timestep t of a grid, frozen weights take `rollout_steps` DDIM steps of the grid, to t'. Their estimate
    of x_0 there is the target; x_t is their latent, with noise added up to a drawn timestep above t'. What `Noised`
    calls noise is what x_t holds beside the target, so a loss in the space of x_0 is the paper's.
    """

    name: str = "self_rollout"
    rollout_steps: int = Field(5, ge=1)
    """K: DDIM steps of the rollout; it evaluates the network once more."""
    grid_steps: int = Field(25, ge=1)
    """Timesteps of the grid, evenly spaced up to the noisiest one."""
    guidance_scale: float = 0.0
    """Of the rollout: uncond + scale * (cond - uncond), so 0 sees no prompt. The released w is scale - 1: -1 for SD1.5,
    -5 for SDXL, which is -4 here."""
    weights: NoiserWeights = "ema"
    """Who rolls out: the average of the trained weights, as released, or the frozen reference, as the paper says."""
    start: Literal["image", "noise"] = "image"
    """image: the data's own image, noised to t, as released. noise: pure noise, which the same weights denoise to t;
    nothing is then read of images, and the data may be prompts alone."""

    @property
    def required_weights(self) -> tuple[NoiserWeights, ...]:
        return (self.weights,)

    @property
    def follows_policy(self) -> bool:
        return self.weights == "ema"

    @property
    def reads_images(self) -> bool:
        return self.start == "image"

    def check(self, num_train_timesteps: int) -> None:
        """
        Raises:
            InputError: the schedule has fewer timesteps than the grid, or the grid than the rollout.
        """
        if not self.rollout_steps <= self.grid_steps <= num_train_timesteps:
            raise InputError(
                f"noiser: rollout_steps {self.rollout_steps}, grid_steps {self.grid_steps}, and the model has "
                f"{num_train_timesteps} timesteps; each may be at most the next"
            )

    def passes(self, views: int, num_train_timesteps: int) -> float:
        before = (self.grid_steps - 1) / 2 if self.start == "noise" else 0  # steps from the top of the grid to t
        branches = 1 if self.guidance_scale in (0, 1) else 2
        return views * branches * (before + self.rollout_steps + 1)

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        """
        Raises:
            InputError: see `check`.
        """
        self.check(schedule.num_train_timesteps)
        count, views = len(batch), batch.views
        cond = flatten_views(batch.cond, count, views)
        geometry = None if batch.geometry is None else batch.geometry.flatten(0, 1)
        guidance = Guidance(self.guidance_scale, self.weights, self.weights)
        grid = sampling_timesteps(schedule, self.grid_steps, "trailing", 0).to(batch.keys.device)
        sampler = Sampler(grid)

        def drawn(stream: str) -> Tensor:
            noise = draws.normal(tuple(batch.latents.shape[2:]), stream)
            return noise[:, None].expand_as(batch.latents).flatten(0, 1)

        place = draws.integers(torch.zeros_like(batch.keys), torch.full_like(batch.keys, len(grid)), "rollout")
        t = grid[place]
        t_end = (t - self.rollout_steps * (schedule.num_train_timesteps // self.grid_steps)).clamp(min=0)
        s = draws.integers(t_end + 1, torch.full_like(t_end, schedule.num_train_timesteps), "timestep")
        t, t_end, s = (level[:, None].expand(-1, views).flatten() for level in (t, t_end, s))

        if self.start == "image":
            x = schedule.add_noise(batch.latents.flatten(0, 1), drawn("noise"), t)
        else:
            x = sampler.sample(policy, drawn("noise"), cond, stop=t, geometry=geometry, guidance=guidance).x
        x = sampler.sample(policy, x, cond, start=t, stop=t_end, geometry=geometry, guidance=guidance).x
        target = self._estimate(policy, x, t_end, cond, geometry, guidance)
        x_s = schedule.renoise(x, drawn("renoise"), t_end, s)
        noise = schedule.noise_between(target, x_s, s)
        like = batch.latents
        return Noised(x_s.view_as(like), target.view_as(like), noise.view_as(like), s.view(count, views))

    @torch.no_grad()
    def _estimate(
        self,
        policy: Denoiser,
        x: Tensor,
        levels: Tensor,
        cond: Conditioning,
        geometry: Tensor | None,
        guidance: Guidance,
    ) -> Tensor:
        """The rollout's estimate of x_0 at the level where it stopped. [B, C, H, W]"""
        prediction = guidance.denoise(policy, x, network_timesteps(levels), cond, geometry)
        return policy.schedule.to_x0_noise(prediction, x, levels)[0]
