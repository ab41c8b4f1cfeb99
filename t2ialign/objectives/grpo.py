"""Policy gradients on the steps of a stochastic sampler (DDPO, arXiv:2305.13301; DanceGRPO, 2505.07818; Pref-GRPO)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ExampleField, FrozenWeights, Objective, row_weights
from t2ialign.schedules import Step
from t2ialign.types import Batch, LossOutput, Prediction, Transitions

PUBLISHED_CLIP, PUBLISHED_ELEMENTS = 1e-4, 16_384
"""Of the released recipes, whose latents have 4 x 64 x 64 elements."""


def clip_range(elements: int) -> float:
    """1e-4 (16,384 / D)^(1/2): the noise of a mean over D elements goes with D^(-1/2), and with it the ratio's."""
    return PUBLISHED_CLIP * (PUBLISHED_ELEMENTS / elements) ** 0.5


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(max(-A rho, -A clip(rho, 1 - e, 1 + e)), whether the second is larger): PPO (arXiv:1707.06347, Eq. 7). [N] each

    Args:
        ratio: rho. [N]
        advantages: A. [N]
        clip: e.
    """
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return plain.maximum(clipped), clipped > plain


class GRPO(Objective):
    """The clipped surrogate of one step of each rollout, with the group's advantage as the advantage of every step.

    Log-probabilities are means over the latent's elements, so the ratio is the D-th root of the true one, and stays
    within about 1e-4 of 1. The step is scored as it was sampled: with the rollout's guidance and eta.
    """

    name: str = "grpo"
    ratio: Literal["plain", "normalised"] = "plain"
    """normalised removes from log rho its bias below 0, which grows as the policy moves, and multiplies it by the
    step's standard deviation, so that all steps clip alike (GRPO-Guard)."""
    trust: Literal["clip", "dppo", "none"] = "clip"
    """clip takes the larger of -A rho and -A clip(rho, 1 - e, 1 + e), as in PPO. dppo leaves rows out whose step lies
    `max_divergence` or more away from the one sampled and would go further. none leaves the ratio as it is."""
    clip: float | None = Field(None, gt=0, lt=1)
    """e; default: 1e-4 (16,384 / D)^(1/2) for latents of D elements, as published for D = 16,384."""
    max_divergence: float = Field(1e-5, gt=0)
    """Of `trust: dppo`: KL divergence from the step sampled, averaged over the elements; 1e-5 as published."""
    kl: float = Field(0.0, ge=0)
    """Weight of the step's KL divergence from the reference's, averaged over the elements; off as published."""

    views: ClassVar[int | None] = 1

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",) if self.kl else ()

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return ("advantages", "transitions")

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no recorded steps, or no advantages.
        """
        steps, advantages = batch.transitions, batch.advantages
        if steps is None or advantages is None:
            raise ValueError("objective 'grpo' needs recorded steps of rollouts and their advantages")
        step = _score(prediction, prediction.policy, steps)
        log_ratio = step.log_prob - steps.log_prob
        divergence = step_kl(step, steps.mean)
        ratio = (normalised(log_ratio, divergence, step.std) if self.ratio == "normalised" else log_ratio).exp()
        advantages = advantages.to(ratio)
        losses = -advantages * ratio
        metrics = {
            "ratio": ratio.detach(),
            "ratio_deviation": (ratio.detach() - 1).abs(),
            "approximate_kl": log_ratio.detach().square() / 2,
            "divergence": divergence.detach(),
        }
        if self.trust == "clip":
            losses, is_clipped = clipped_surrogate(ratio, advantages, self.clip or clip_range(steps.x_t[0].numel()))
            metrics["clipped"] = is_clipped.to(ratio)
        elif self.trust == "dppo":
            is_clipped = (divergence >= self.max_divergence) & ((ratio - 1) * advantages > 0)
            losses = losses.masked_fill(is_clipped, 0)
            metrics["clipped"] = is_clipped.to(ratio)
        if self.kl and prediction.reference is not None:
            kl = step_kl(step, _score(prediction, prediction.reference, steps).mean)
            losses = losses + self.kl * kl
            metrics["kl"] = kl.detach()
        return LossOutput(losses, row_weights(batch, losses), metrics)


def step_kl(step: Step, mean: Tensor) -> Tensor:
    """KL divergence of a normal step from one of the same standard deviation, averaged over the elements. [N]

    Args:
        mean: of the other step. [N, C, H, W]
    """
    return (step.mean - mean).square().flatten(1).mean(1) / (2 * step.std.to(mean).square())


def normalised(log_ratio: Tensor, divergence: Tensor, std: Tensor) -> Tensor:
    """S (log rho + D), whose mean over the noise of the step is 0 wherever the policy is. [N]

    log rho is -D plus a normal number of standard deviation (2 D / elements)^(1/2), D the divergence (GRPO-Guard).

    Args:
        log_ratio: log rho. [N]
        divergence: of the policy's step from the one sampled; see `step_kl`. [N]
        std: S, of the step. [N]
    """
    return std.to(log_ratio) * (log_ratio + divergence)


def _score(prediction: Prediction, guided: Tensor, steps: Transitions) -> Step:
    return prediction.schedule.sde_step(guided[:, 0], steps.x_t, steps.at, steps.to, eta=steps.eta, x=steps.x_next)
