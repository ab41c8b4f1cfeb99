"""Reinforcement learning on the forward process: a rollout's x_0 is noised again, its advantage weighs the error."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ErrorSpace, ExampleField, FrozenWeights, Objective, row_weights
from t2ialign.objectives.grpo import clipped_surrogate
from t2ialign.types import Batch, LossOutput, Prediction

SMALLEST_SCALE = 1e-5
"""Below this a mean absolute error no longer divides."""


def optimality(advantages: Tensor, clip: float) -> Tensor:
    """r = clip(A / c, -1, 1) / 2 + 1/2, the probability in [0, 1] that a rollout is a good one. [N]

    Args:
        advantages: A. [N]
        clip: c > 0, in the units of A.
    """
    return (advantages / clip).clamp(-1, 1) / 2 + 0.5


def nft_loss(policy: Tensor, old: Tensor, r: Tensor, beta: float, *, normalise: bool) -> Tensor:
    """[r d(plus) + (1 - r) d(minus)] / beta, with plus = beta policy + (1 - beta) old, minus = (1 + beta) old - beta
    policy, and d(y) = mean y^2 / w (DiffusionNFT, arXiv:2509.16117).

    Its gradient at policy = old is (2 r - 1) times that of mean policy^2 / w, whatever beta.

    Args:
        policy: what is wrong with the policy's prediction. [N, C, H, W]
        old: the same of the weights that made the rollout. [N, C, H, W]
        r: see `optimality`. [N]
        beta: how far the two implicit policies lie from old, above 0.
        normalise: w is the row's mean |y|, without gradient and at least 1e-5, as published for x_0; else 1.

    Returns:
        [N]
    """
    plus = beta * policy + (1 - beta) * old
    minus = (1 + beta) * old - beta * policy
    good, bad = (_normalised(difference) if normalise else _mean_square(difference) for difference in (plus, minus))
    return (r * good + (1 - r) * bad) / beta


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean(dim=(1, 2, 3))


def _normalised(difference: Tensor) -> Tensor:
    scale = difference.detach().abs().mean(dim=(1, 2, 3)).clamp(min=SMALLEST_SCALE)
    return _mean_square(difference) / scale


def _advantages(batch: Batch, name: str) -> Tensor:
    if batch.advantages is None:
        raise ValueError(f"objective '{name}' needs the advantages of rollouts")
    return batch.advantages


def _kl(prediction: Prediction, frozen: Tensor) -> Tensor:
    """mean (noise_theta - noise_frozen)^2. [N]"""
    noise = prediction.difference(prediction.policy, "noise") - prediction.difference(frozen, "noise")
    return noise[:, 0].square().mean(dim=(1, 2, 3))


class _OfRollouts(Objective):
    """Reads the advantages of single images."""

    views: ClassVar[int | None] = 1

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return ("advantages",)


class DiffusionNFT(_OfRollouts):
    """DiffusionNFT (arXiv:2509.16117): draws towards good rollouts and, boundedly, away from bad ones.

    The policy is trained against two implicit ones on either side of the old weights, which made the rollouts. The
    loss is c times `nft_loss`, plus `kl` times the distance to the reference.
    """

    name: str = "nft"
    space: ErrorSpace = "x0"
    """x0, as published, divides each error by its mean absolute value; noise is flat over the timesteps."""
    beta: float = Field(1.0, gt=0)
    """Distance of the implicit policies from the old one; 1 as published, 0.1 for several rewards."""
    clip: float = Field(5.0, gt=0)
    """c: advantages beyond +-c count as c, and c / beta multiplies the loss. 5 as published, for z-scores; 1 where the
    advantage is 2 w - 1 of a win rate w."""
    kl: float = Field(1e-4, ge=0)
    """Weight of the squared distance to the reference's noise; 0 makes no pass of the reference."""

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("old", "reference") if self.kl else ("old",)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no advantages.
        """
        r = optimality(_advantages(batch, self.name), self.clip)
        policy = prediction.difference(prediction.policy, self.space)[:, 0]
        old = prediction.difference(prediction.others["old"], self.space)[:, 0]
        losses = self.clip * nft_loss(policy, old, r.to(policy), self.beta, normalise=self.space == "x0")
        metrics = {"optimality": r, "error": _mean_square(policy.detach())}
        if self.kl and prediction.reference is not None:
            kl = _kl(prediction, prediction.reference)
            losses = losses + self.kl * kl
            metrics["kl"] = kl.detach()
        return LossOutput(losses, row_weights(batch, losses), metrics)


class AWM(_OfRollouts):
    """Advantage-weighted matching (arXiv:2509.25050): the denoising error, weighed, stands for -log p of a rollout.

    The loss is -A rho with rho = exp(l_old - l), l the weighted error, plus the distances to the reference and to the
    average of the weights.
    """

    name: str = "awm"
    weighting: Literal["uniform", "t", "t2", "generalised_huber"] = "uniform"
    """l of an error e at time t = timestep / T: e, t e, t^2 e, or t ((e + 1e-10)^p - 1e-10^p) / p with p = 0.25."""
    trust: Literal["none", "clip"] = "clip"
    """clip takes the larger of -A rho and -A clip(rho, 1 - e, 1 + e), as in PPO; without it the loss pushes away from
    bad rollouts without a bound."""
    clip: float = Field(0.2, gt=0, lt=1)
    """e of `trust: clip`."""
    advantage_clip: float = Field(1.0, gt=0)
    """Advantages beyond this count as this."""
    kl: float = Field(3e-3, ge=0)
    """Weight of the squared distance to the reference's noise."""
    ema_kl: float = Field(1.0, ge=0)
    """Weight of the squared distance to the noise of the average of the weights (`optim.ema_decay`)."""

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        asked: dict[FrozenWeights, float] = {"old": 1, "reference": self.kl, "ema": self.ema_kl}
        return tuple(name for name, weight in asked.items() if weight)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no advantages.
        """
        limit = self.advantage_clip
        advantages = _advantages(batch, self.name).clamp(-limit, limit)
        error = prediction.policy_error[:, 0]
        before = self._weighted(prediction, _mean_square(self._difference(prediction, "old")))
        rho = (before - self._weighted(prediction, error)).exp()
        advantages = advantages.to(rho)
        losses = -advantages * rho
        metrics = {"ratio": rho.detach(), "error": error.detach()}
        if self.trust == "clip":
            losses, is_clipped = clipped_surrogate(rho, advantages, self.clip)
            metrics["clipped"] = is_clipped.to(rho)
        for name, weight in (("reference", self.kl), ("ema", self.ema_kl)):
            frozen = prediction.reference if name == "reference" else prediction.others.get(name)
            if weight and frozen is not None:
                distance = _kl(prediction, frozen)
                losses = losses + weight * distance
                metrics["kl" if name == "reference" else "ema_kl"] = distance.detach()
        return LossOutput(losses, row_weights(batch, losses), metrics)

    def _difference(self, prediction: Prediction, name: str) -> Tensor:
        return prediction.difference(prediction.others[name], self.space)[:, 0]

    def _weighted(self, prediction: Prediction, error: Tensor) -> Tensor:
        """l of errors. [N]"""
        time = prediction.noised.timesteps[:, 0].to(error) / prediction.schedule.num_train_timesteps
        if self.weighting == "generalised_huber":
            return time * ((error + 1e-10) ** 0.25 - 1e-10**0.25) / 0.25
        return error * {"uniform": 1.0, "t": time, "t2": time.square()}[self.weighting]
