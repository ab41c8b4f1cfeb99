"""Rankings of several images of a prompt: Plackett-Luce (Diffusion-LPO) and LiPO-lambda (RankDPO's loss)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import Objective, row_weights
from t2ialign.objectives.margins import agreement, saturated
from t2ialign.types import Batch, LossOutput, Prediction

ABSENT = -1e30
"""Stands for -inf, whose gradient would be NaN."""


def list_scores(policy_error: Tensor, reference_error: Tensor, beta: float) -> Tensor:
    """Implicit rewards of the views: -beta / 2 * (policy error - reference error). [N, K]"""
    return -0.5 * beta * (policy_error - reference_error)


def plackett_luce_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """-log P(ranking) under Plackett-Luce, summed over places (Bai et al. 2025, arXiv:2510.01540). [N]

    Place j adds log sum_{k >= j} exp(s_k - s_j) = softplus(log sum_{k > j} exp(s_k - s_j)); for two views this is
    Diffusion-DPO's loss to the bit.

    Args:
        scores: implicit rewards, best view first. [N, K]
        mask: False where a list has no view; absent views stand last. [N, K] bool
    """
    lead = scores[:, None, :] - scores[:, :, None]  # [N, j, k]: s_k - s_j
    later = _in_order(mask)
    behind = torch.logsumexp(lead.masked_fill(~later, ABSENT), dim=2)
    return torch.where(later.any(2), F.softplus(behind), torch.zeros_like(behind)).sum(1)


def _in_order(mask: Tensor) -> Tensor:
    """Whether views j and k are both there and k stands behind j. [N, j, k] bool"""
    return (mask[:, :, None] & mask[:, None, :]).triu(diagonal=1)


def relative_labels(labels: Tensor, mask: Tensor) -> Tensor:
    """Labels brought to [0, 1] within each list: 1 for its best view, 0 for its worst; 0 where all are equal. [N, K]"""
    low = labels.masked_fill(~mask, math.inf).amin(1, keepdim=True)
    high = labels.masked_fill(~mask, -math.inf).amax(1, keepdim=True)
    spread = high - low
    return torch.where(mask & (spread > 0), (labels - low) / spread.where(spread > 0, torch.ones_like(spread)), 0.0)


class LambdaLoss(NamedTuple):
    loss: Tensor
    """[N]"""
    weights: Tensor
    """Delta_ij of the pairs with label i above label j, else 0. [N, K, K]"""


def lipo_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> LambdaLoss:
    """The LiPO-lambda loss (Liu et al. 2024, arXiv:2402.01878; on diffusion models RankDPO, arXiv:2410.18013).

    The sum over pairs with label_i > label_j of Delta_ij * softplus(-(s_i - s_j)), where
    Delta_ij = |G_i - G_j| * |1 / D(tau_i) - 1 / D(tau_j)|, G = 2^label - 1, D(r) = ln(1 + r), and tau are the places of
    the views by score, 1 for the highest, without gradient. Equal scores, as at the start, are placed as the views are.

    Args:
        scores: implicit rewards. [N, K]
        labels: in [0, 1]. [N, K]
        mask: False where a list has no view. [N, K] bool
    """
    order = scores.detach().masked_fill(~mask, ABSENT).argsort(dim=1, descending=True, stable=True)
    tau = order.argsort(dim=1) + 1
    discount = 1 / torch.log1p(tau.to(scores))
    gain = torch.exp2(labels.to(scores)) - 1
    preferred = (labels[:, :, None] > labels[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    weights = _distances(gain) * _distances(discount) * preferred
    pairs = F.softplus(scores[:, None, :] - scores[:, :, None])  # [N, i, j]: softplus(-(s_i - s_j))
    return LambdaLoss((weights * pairs).sum((1, 2)), weights)


def _distances(values: Tensor) -> Tensor:
    """|v_i - v_j|. [N, K, K]"""
    return (values[:, :, None] - values[:, None, :]).abs()


class Listwise(Objective):
    """What objectives over ranked views share: the best view first, all relative to a frozen reference."""

    beta: float = Field(gt=0)
    """Strength of the KL bound; beta / 2 multiplies the difference of per-element mean squared errors."""

    needs_reference: ClassVar[bool] = True

    def margin_multiplier(self) -> float:
        return self.beta / 2

    def scores_and_mask(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Implicit rewards of the views, and which views there are. [N, K] both"""
        scores = list_scores(prediction.policy_error, prediction.reference_error, self.beta)
        mask = torch.ones_like(scores, dtype=torch.bool) if batch.mask is None else batch.mask
        return scores, mask


def list_metrics(scores: Tensor, mask: Tensor, prediction: Prediction) -> dict[str, Tensor]:
    """Means over all pairs of a list, as docs/dpo-metrics.md explains them; changes of its best and worst view. [N]"""
    pairs = _in_order(mask)
    margins = scores.detach()[:, :, None] - scores.detach()[:, None, :]
    count = pairs.sum((1, 2)).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return (values * pairs).sum((1, 2)) / count

    change = (prediction.policy_error - prediction.reference_error).detach()
    last = mask.sum(1, keepdim=True) - 1
    return {
        "implicit_accuracy": mean(agreement(margins)),
        "margin": mean(margins),
        "saturated": mean(saturated(margins)),
        "chosen_change": change[:, 0],
        "rejected_change": change.gather(1, last)[:, 0],
        "reference_error": (prediction.reference_error * mask).sum(1) / mask.sum(1),
    }


class DiffusionLPO(Listwise):
    """Makes the given order of the views the likely one (Plackett-Luce); two views are exactly dpo."""

    name: str = "lpo"

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        scores, mask = self.scores_and_mask(prediction, batch)
        loss = plackett_luce_loss(scores, mask)
        return LossOutput(loss, row_weights(batch, loss), list_metrics(scores, mask, prediction))


class LiPO(Listwise):
    """Orders the views by their scores, pairs weighted by what their exchange would cost."""

    name: str = "lipo"
    normalise: bool = True
    """Divide a list's pair weights by their sum: two views are then exactly dpo, and rates carry over. false is the
    papers' sum, whose weights are often near 0.1."""

    reads: ClassVar[Literal["scores", "labels"] | None] = "scores"

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no scores.
        """
        if batch.scores is None:
            raise ValueError("lipo needs scores: batch.scores is None")
        scores, mask = self.scores_and_mask(prediction, batch)
        loss, pair_weights = lipo_loss(scores, relative_labels(batch.scores, mask), mask)
        total = pair_weights.sum((1, 2))
        has_pairs = total > 0
        if self.normalise:
            loss = loss / total.where(has_pairs, torch.ones_like(total))
        return LossOutput(loss, row_weights(batch, loss) * has_pairs, list_metrics(scores, mask, prediction))
