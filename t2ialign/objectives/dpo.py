"""Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908), and what keeps it honest."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from t2ialign.config.component import Section
from t2ialign.objectives.base import ExampleField, FrozenWeights, Objective, row_weights
from t2ialign.objectives.margins import PairLoss, pair_margin, pair_metrics
from t2ialign.types import Batch, LossOutput, Prediction


def diffusion_dpo_loss(
    policy_error: Tensor,
    reference_error: Tensor,
    beta: float | Tensor,
    *,
    label_smoothing: float = 0.0,
    rejected_bound: float | None = None,
) -> PairLoss:
    """Per-pair Diffusion-DPO loss (arXiv:2311.12908, Eq. 14), for labels that are right with 1 - label_smoothing.

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        reference_error: the same for the frozen reference. [N, 2]
        beta: beta*T*omega(lambda_t) of Eq. 14; a scalar, or [N] to weigh pairs.
        label_smoothing: share of labels that are wrong, in [0, 0.5): cDPO (Mitchell 2023,
            https://ericmitchell.ai/cdpo.pdf, Eq. 3).
        rejected_bound: the rejected view adds no more than this to the margin, as TPO (arXiv:2509.25771) clips the
            negative term; the form of the bound is ours.

    Raises:
        ValueError: the two errors differ in shape, or are not pairs.
    """
    margin = pair_margin(policy_error, reference_error, beta, rejected_bound)
    right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return PairLoss((1 - label_smoothing) * right + label_smoothing * wrong, margin)


def preserve_winner(policy_error: Tensor, residual: Tensor, mu: float) -> Tensor:
    """The errors, the rejected view's gradient scaled so that a step cannot raise the chosen one's error. [N, 2]

    Diffusion-SDPO (Fu et al. 2025, arXiv:2511.03317). With g_w and g_l the gradients of the two errors with respect to
    the network's output, the step g_w - lambda * g_l keeps at least the share mu of the chosen view's descent where
    g_w . (g_w - lambda * g_l) >= mu * ||g_w||^2, so lambda = (1 - mu) * ||g_w||^2 / (g_w . g_l), at most 1; 1 where the
    two do not pull against each other. Values are unchanged. The released code has one lambda a local micro-batch; here
    it is one a pair, the same at a local batch of 1, so that micro-batches do not change what is learnt.

    Args:
        policy_error: views (chosen, rejected). [N, 2]
        residual: prediction - target, of which the errors are the mean squares up to a factor a row. [N, 2, C, H, W]
        mu: share in [0, 1].
    """
    chosen, rejected = residual.detach().flatten(2).unbind(1)
    conflict = (chosen * rejected).sum(1)
    # the gradients are the residuals times one factor, which cancels
    scale = (1 - mu) * chosen.square().sum(1) / conflict.clamp(min=torch.finfo(conflict.dtype).tiny)
    scale = torch.where(conflict > 0, scale.clamp(max=1), torch.ones_like(scale))
    held = policy_error[:, 1].detach()
    return torch.stack([policy_error[:, 0], held + scale * (policy_error[:, 1] - held)], dim=1)


def score_weight(scores: Tensor, gamma: float, score_range: float) -> Tensor:
    """SmPO's coefficient gamma * (2p - 1) of beta (arXiv:2506.02698; the released code). [N]

    p is the two-way softmax of the scores after they are scaled to [0, 1], so 2p - 1 = tanh of half their difference.

    Args:
        scores: of the two views, in any unit. [N, 2]
        gamma: 10 as released.
        score_range: what the scores are divided by: largest minus smallest score of the data.
    """
    first, second = scores.unbind(1)
    return gamma * torch.tanh((first - second) / (2 * score_range))


class ScoreWeight(Section):
    """SmPO's smoothed labels: each pair counts by how far apart the scores of its two images are."""

    gamma: float = Field(10.0, gt=0)
    """Multiplies beta times (2p - 1); 10 as released."""
    score_range: float = Field(gt=0)
    """Largest minus smallest score, which `t2ialign data relabel` prints; 0.16658044 as released, for PickScore's
    cosine."""
    winner: Literal["score", "label"] = "score"
    """Which view is preferred: that of the higher score, as released, or that which the data calls chosen."""


class DiffusionDPO(Objective):
    """Prefers the first view to the second, relative to a frozen reference."""

    name: str = "dpo"
    beta: float = Field(gt=0)
    """Strength of the KL bound; beta / 2 multiplies the difference of per-element mean squared errors."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels taken to be wrong (cDPO); above 0 the loss is least at a finite margin."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the chosen view's own squared error, added to the loss; at margin 0 dpo itself pulls with beta / 4."""
    winner_preserving: float | None = Field(None, ge=0, le=1)
    """mu of Diffusion-SDPO: share of the chosen view's descent that the rejected one must leave; off if empty."""
    rejected_bound: float | None = Field(None, gt=0)
    """The rejected view adds at most this to the margin (a bounded loser, for text pairs); unbounded if empty. TPO
    (arXiv:2509.25771) clips the negative term; the form of the bound is ours."""

    score_weight: ScoreWeight | None = None
    """SmPO's smoothed labels, from the scores of both images; every pair counts alike if empty."""

    views: ClassVar[int | None] = 2
    reads_reference_error_only: ClassVar[bool] = True

    @model_validator(mode="after")
    def _bounded_by_beta_alone(self) -> Self:
        if self.score_weight is not None and self.rejected_bound is not None:
            raise ValueError("rejected_bound is a bound under one beta for all pairs; leave it or score_weight out")
        return self

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",)

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return () if self.score_weight is None else ("scores",)

    def margin_multiplier(self) -> float:
        return self.beta / 2

    @property
    def initial_loss(self) -> float | None:
        return None if self.sft_weight else math.log(2)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: pairs are weighted by their scores, and the batch has none.
        """
        policy_error, reference_error = prediction.policy_error, prediction.reference_error
        order, beta = self._weighted(batch)
        if order is not None:
            policy_error, reference_error = policy_error.gather(1, order), reference_error.gather(1, order)
        compared = policy_error
        if self.winner_preserving is not None:
            residual = prediction.policy - prediction.target
            if order is not None:
                residual = residual.take_along_dim(order[..., None, None, None], 1)
            compared = preserve_winner(policy_error, residual, self.winner_preserving)
        loss, margin = diffusion_dpo_loss(
            compared,
            reference_error,
            beta,
            label_smoothing=self.label_smoothing,
            rejected_bound=self.rejected_bound,
        )
        if self.sft_weight:
            loss = loss + self.sft_weight * policy_error[:, 0]
        metrics = pair_metrics(margin, policy_error, reference_error)
        if self.label_smoothing:
            metrics["saturated"] = loss.new_zeros(len(loss))  # beyond its least point the loss rises again
        if isinstance(beta, Tensor):
            metrics["score_weight"] = beta / self.beta
        return LossOutput(loss, row_weights(batch, loss), metrics)

    def _weighted(self, batch: Batch) -> tuple[Tensor | None, float | Tensor]:
        """(The views of each pair in order of preference [N, 2], or None for the data's; beta of all pairs, or [N])."""
        smoothed = self.score_weight
        if smoothed is None:
            return None, self.beta
        if batch.scores is None:
            raise ValueError("score_weight needs scores: batch.scores is None")
        weight = score_weight(batch.scores, smoothed.gamma, smoothed.score_range)
        swapped = (weight < 0).long()
        order = torch.stack([swapped, 1 - swapped], dim=1) if smoothed.winner == "score" else None
        return order, self.beta * weight.abs()
