"""Noise schedules: one wrapper hides how a network is parameterised.

Four primitives (`alpha_sigma`, `target`, `to_x0_noise`, `transition_std`) define a schedule; adding noise, DDIM steps
in either direction and stochastic steps are written once on top of them.

A level says how noisy a latent is: a timestep 0 ... T-1, or one of the two constants below. Levels are ordered by
noise: CLEAN < FINAL < 0 < ... < T-1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

FINAL = -1
"""The level at which sampling ends: alpha^2 is `final_alpha_cumprod`, for SD1.5 and SDXL that of timestep 0."""
CLEAN = -2
"""The level of a clean latent: alpha 1, sigma 0."""

PredictionType = Literal["epsilon", "v_prediction"]
Spacing = Literal["leading", "trailing", "linspace"]


class TimestepSpacing(TypedDict):
    """How a model's sampler spaces its timesteps, in diffusers' terms."""

    spacing: Spacing
    offset: int
    """Added to each timestep of leading spacing."""


class SchedulerLike(Protocol):
    """What is read of a diffusers scheduler."""

    alphas_cumprod: Tensor

    @property
    def config(self) -> Mapping[str, Any]: ...


class Step(NamedTuple):
    """One stochastic step of a sampler."""

    x: Tensor
    """The sample at the destination. [B, C, H, W]"""
    mean: Tensor
    """[B, C, H, W]"""
    std: Tensor
    """[B]"""
    log_prob: Tensor
    """log N(x; mean, std), averaged over C, H, W; NaN for a deterministic step, which has no density. [B]

    A step is deterministic if its std is at most the machine epsilon of x's type: latents are of order 1, and such
    noise is lost in rounding.
    """


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """[B] values shaped to multiply [B, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Schedule(ABC):
    """x_t = alpha_t * x_0 + sigma_t * noise, and what a network predicts of it."""

    num_train_timesteps: int

    @abstractmethod
    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) of [B] levels: timesteps, FINAL or CLEAN. [B] float64

        Raises:
            IndexError: a level below CLEAN or above T-1 (a device assertion on a GPU).
        """

    @abstractmethod
    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network predicts. [B, ...]"""

    @abstractmethod
    def to_x0_noise(self, prediction: Tensor, x_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The (x_0, noise) that a prediction stands for. [B, ...] each

        At FINAL and CLEAN the network is asked as `network_timesteps` says; a clean x_t is its own x_0.
        """

    @abstractmethod
    def transition_std(self, timesteps: Tensor, to: Tensor, eta: float) -> Tensor:
        """Standard deviation of the step from `timesteps` to `to`; 0 if `to` is noisier. [B] float64"""

    def _alpha_sigma_like(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(timesteps)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return _rows(alpha.to(dtype), like), _rows(sigma.to(dtype), like)

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha_t * x_0 + sigma_t * noise, for [B] timesteps. [B, ...]"""
        alpha, sigma = self._alpha_sigma_like(timesteps, x_0)
        return alpha * x_0 + sigma * noise

    def ddim_step(self, prediction: Tensor, x_t: Tensor, timesteps: Tensor, to: Tensor) -> Tensor:
        """The deterministic step from `timesteps` to `to` (Song et al. 2020, arXiv:2010.02502, Eq. 12 with sigma = 0).

        Denoises where `to` is earlier, inverts where it is later. [B, C, H, W]
        """
        x_0, noise = self.to_x0_noise(prediction, x_t, timesteps)
        return self.add_noise(x_0, noise, to)

    def renoise(self, x_t: Tensor, noise: Tensor, timesteps: Tensor, to: Tensor) -> Tensor:
        """x_t with noise added, from `timesteps` up to `to`: a draw of q(x_to | x_t) in a variance-preserving process.

        Written by the ratio sigma / alpha, which is the standard deviation in units of x_0. [B, C, H, W]
        """
        alpha, sigma = self.alpha_sigma(timesteps)
        alpha_to, sigma_to = self.alpha_sigma(to)
        kept = alpha_to / alpha
        added = (sigma_to.square() - (kept * sigma).square()).clamp(min=0).sqrt()
        return _rows(kept.to(x_t), x_t) * x_t + _rows(added.to(x_t), x_t) * noise

    def noise_between(self, x_0: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The noise for which x_t = alpha_t * x_0 + sigma_t * noise; sigma_t must not be 0. [B, C, H, W]"""
        alpha, sigma = self._alpha_sigma_like(timesteps, x_t)
        return (x_t - alpha * x_0) / sigma

    def move(self, noise: Tensor, x_t: Tensor, timesteps: Tensor, to: Tensor) -> Tensor:
        """x_t moved from `timesteps` to `to`, where `noise` is what it holds beside x_0. [B, C, H, W]"""
        alpha, sigma = self._alpha_sigma_like(timesteps, x_t)
        return self.add_noise((x_t - sigma * noise) / alpha, noise, to)

    def sde_step(
        self,
        prediction: Tensor,
        x_t: Tensor,
        timesteps: Tensor,
        to: Tensor,
        *,
        eta: float,
        noise: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Step:
        """The stochastic DDIM step (arXiv:2010.02502, Eq. 12), sampled with `noise` or scored at a given `x`.

        Raises:
            ValueError: not exactly one of `noise` and `x` was given.
        """
        if (noise is None) == (x is None):
            raise ValueError("give either noise, to sample the step, or x, to score it")
        x_0, direction = self.to_x0_noise(prediction, x_t, timesteps)
        std = self.transition_std(timesteps, to, eta)
        alpha_to, sigma_to = self.alpha_sigma(to)
        along = (sigma_to.square() - std.square()).clamp(min=0).sqrt()
        mean = _rows(alpha_to.to(x_0.dtype), x_0) * x_0 + _rows(along.to(x_0.dtype), x_0) * direction
        spread = _rows(std.to(x_0.dtype), x_0)
        if noise is not None:
            x = mean + spread * noise
        assert x is not None
        random = spread > torch.finfo(spread.dtype).eps
        safe = spread.where(random, 1)  # no infinity that would turn the gradient of the other rows to NaN
        log_prob = -((x - mean) / safe).square() / 2 - safe.log() - math.log(2 * math.pi) / 2
        return Step(x, mean, std, log_prob.flatten(1).mean(1).where(random.flatten(), torch.nan))


def network_timesteps(levels: Tensor) -> Tensor:
    """The timesteps that a network is asked with at these levels: FINAL and CLEAN are shown as timestep 0. [B] int64"""
    return levels.clamp(min=0)


class VPSchedule(Schedule):
    """Variance-preserving schedules of SD1.5 and SDXL: alpha_t^2 + sigma_t^2 = 1.

    Args:
        alphas_cumprod: alpha_t^2 for t = 0 ... T-1, in (0, 1). [T]
        prediction_type: what the network predicts.
        final_alpha_cumprod: alpha^2 at FINAL, where sampling ends; diffusers' `set_alpha_to_one` decides it.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: PredictionType, final_alpha_cumprod: float):
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type is {prediction_type!r}; VPSchedule knows 'epsilon' and 'v_prediction'")
        self.prediction_type = prediction_type
        self.num_train_timesteps = len(alphas_cumprod)
        ends = torch.tensor([1.0, final_alpha_cumprod], dtype=torch.float64)
        self._alpha_squared = torch.cat([ends, alphas_cumprod.double().cpu()])
        """alpha^2 of the levels CLEAN, FINAL, 0 ... T-1. [T + 2] float64"""

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerLike) -> VPSchedule:
        """The schedule of any diffusers scheduler that carries `alphas_cumprod`."""
        config = scheduler.config
        table = scheduler.alphas_cumprod
        final = 1.0 if config.get("set_alpha_to_one", False) else float(table[0])
        return cls(table, config.get("prediction_type", "epsilon"), final)

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if self._alpha_squared.device != timesteps.device:
            self._alpha_squared = self._alpha_squared.to(timesteps.device)
        # index_select, unlike [], refuses negative indices: a level below CLEAN is not read as a noisy timestep
        squared = self._alpha_squared.index_select(0, timesteps - CLEAN)
        return squared.sqrt(), (1 - squared).sqrt()

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._alpha_sigma_like(timesteps, x_0)
        return alpha * noise - sigma * x_0  # v, Salimans & Ho 2022, arXiv:2202.00512, section 4

    def to_x0_noise(self, prediction: Tensor, x_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._alpha_sigma_like(timesteps, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        x_0 = alpha * x_t - sigma * prediction
        # of a clean latent the network says v at timestep 0: its noise is then that of an equal epsilon network
        alpha, sigma = self._alpha_sigma_like(timesteps.where(timesteps != CLEAN, 0), x_t)
        return x_0, alpha * prediction + sigma * x_t

    def transition_std(self, timesteps: Tensor, to: Tensor, eta: float) -> Tensor:
        """arXiv:2010.02502, Eq. 16."""
        alpha, sigma = self.alpha_sigma(timesteps)
        alpha_to, sigma_to = self.alpha_sigma(to)
        std = eta * (sigma_to / sigma) * (1 - (alpha / alpha_to).square()).clamp(min=0).sqrt()
        return std.where(alpha < alpha_to, 0)  # of a step from CLEAN the product is infinity times 0


def sampling_timesteps(schedule: Schedule, steps: int, spacing: Spacing, offset: int) -> Tensor:
    """The timesteps that a sampler visits, latest first, as diffusers' DDIM spaces them. [steps] int64

    Raises:
        ValueError: the spacing is unknown or there are more steps than timesteps.
    """
    total = schedule.num_train_timesteps
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampling steps; give 1 to {total}")
    if spacing == "leading":
        timesteps = (torch.arange(steps) * (total // steps)).flip(0) + offset
        if timesteps[0] >= total:
            raise ValueError(
                f"{steps} sampling steps with offset {offset} begin after timestep {total - 1}; give fewer"
            )
        return timesteps
    if spacing == "trailing":
        return torch.round(torch.arange(total, 0, -total / steps, dtype=torch.float64))[:steps].long() - 1
    if spacing == "linspace":
        return torch.linspace(0, total - 1, steps, dtype=torch.float64).round().long().flip(0)
    raise ValueError(f"timestep spacing {spacing!r}; known: leading, trailing, linspace")
