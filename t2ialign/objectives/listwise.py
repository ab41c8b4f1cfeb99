"""Rankings of several images of a prompt: Plackett-Luce (Diffusion-LPO) and LiPO-lambda (RankDPO's loss)."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ExampleField, FrozenWeights, Objective, row_weights
from t2ialign.objectives.margins import agreement, saturated
from t2ialign.types import Batch, LossOutput, Prediction

ABSENT = -1e30
"""Stands for -inf, whose gradient would be NaN."""


def list_margins(policy_error: Tensor, reference_error: Tensor, beta: float) -> Tensor:
    """s_j - s_k of every two views, s = -beta / 2 * (policy error - reference error) the implicit reward. [N, K, K]"""
    change = policy_error - reference_error
    return -0.5 * beta * _differences(change)  # differences first, as in dpo, so that two views are dpo to the bit


def _differences(values: Tensor) -> Tensor:
    """v_j - v_k. [N, K, K]"""
    return values[:, :, None] - values[:, None, :]


def plackett_luce_loss(margins: Tensor, mask: Tensor) -> Tensor:
    """-log P(ranking) under Plackett-Luce, summed over places (Bai et al. 2025, arXiv:2510.01540). [N]

    Place j adds log sum_{k >= j} exp(s_k - s_j) = -log sigmoid(-log sum_{k > j} exp(s_k - s_j)); for two views this is
    Diffusion-DPO's loss to the bit.

    Args:
        margins: s_j - s_k of implicit rewards, best view first. [N, K, K]
        mask: False where a list has no view; absent views stand last. [N, K] bool
    """
    later = _in_order(mask)
    behind = torch.logsumexp((-margins).masked_fill(~later, ABSENT), dim=2)
    return torch.where(later.any(2), -F.logsigmoid(-behind), torch.zeros_like(behind)).sum(1)


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
    """What multiplies the pairs with label i above label j, else 0. [N, K, K]"""


def lipo_loss(margins: Tensor, labels: Tensor, mask: Tensor, *, normalise: bool = False) -> LambdaLoss:
    """The LiPO-lambda loss (Liu et al. 2024, arXiv:2402.01878; on diffusion models RankDPO, arXiv:2410.18013).

    The sum over pairs with label_i > label_j of Delta_ij * -log sigmoid(s_i - s_j), where
    Delta_ij = |G_i - G_j| * |1 / D(tau_i) - 1 / D(tau_j)|, G = 2^label - 1, D(r) = ln(1 + r), and tau are the places of
    the views by score, 1 for the highest, without gradient. Equal scores, as at the start, are placed as the views are.

    Args:
        margins: s_i - s_j of implicit rewards. [N, K, K]
        labels: in [0, 1]. [N, K]
        mask: False where a list has no view. [N, K] bool
        normalise: divide the weights of a list by their sum; for two views this is Diffusion-DPO's loss to the bit.
    """
    discount = 1 / torch.log1p(_places(margins.detach(), mask).to(margins))
    gain = torch.exp2(labels.to(margins)) - 1
    preferred = (_differences(labels) > 0) & mask[:, :, None] & mask[:, None, :]
    weights = _differences(gain).abs() * _differences(discount).abs() * preferred
    if normalise:
        total = weights.sum((1, 2), keepdim=True)
        weights = weights / total.where(total > 0, torch.ones_like(total))
    return LambdaLoss((weights * -F.logsigmoid(margins)).sum((1, 2)), weights)


def _places(margins: Tensor, mask: Tensor) -> Tensor:
    """1 for the view of the highest score, 2 for the next; views of equal score in their order. [N, K]"""
    count = mask.shape[1]
    earlier = torch.ones(count, count, dtype=torch.bool, device=mask.device).tril(diagonal=-1)
    ahead = (margins < 0) | ((margins == 0) & earlier)  # [N, i, j]: j is placed before i
    return 1 + (ahead & mask[:, None, :]).sum(2)


class Listwise(Objective):
    """What objectives over ranked views share: the best view first, all relative to a frozen reference."""

    beta: float = Field(gt=0)
    """Strength of the KL bound; beta / 2 multiplies the difference of per-element mean squared errors."""

    reads_reference_error_only: ClassVar[bool] = True

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",)

    def margin_multiplier(self) -> float:
        return self.beta / 2

    def margins_and_mask(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Differences of the views' implicit rewards [N, K, K], and which views there are [N, K]."""
        margins = list_margins(prediction.policy_error, prediction.reference_error, self.beta)
        mask = torch.ones_like(prediction.policy_error, dtype=torch.bool) if batch.mask is None else batch.mask
        return margins, mask


def list_metrics(margins: Tensor, mask: Tensor, prediction: Prediction) -> dict[str, Tensor]:
    """Means over all pairs of a list, as docs/dpo-metrics.md explains them; changes of its best and worst view. [N]"""
    pairs = _in_order(mask)
    margins = margins.detach()
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
        margins, mask = self.margins_and_mask(prediction, batch)
        loss = plackett_luce_loss(margins, mask)
        return LossOutput(loss, row_weights(batch, loss), list_metrics(margins, mask, prediction))


class LiPO(Listwise):
    """Orders the views by their scores, pairs weighted by what their exchange would cost."""

    name: str = "lipo"
    normalise: bool = True
    """Divide a list's pair weights by their sum: two views are then exactly dpo, and rates carry over. false is the
    papers' sum, whose weights are often near 0.1."""

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return ("scores",)

    @property
    def initial_loss(self) -> float | None:
        return math.log(2) if self.normalise else None

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no scores.
        """
        if batch.scores is None:
            raise ValueError("lipo needs scores: batch.scores is None")
        margins, mask = self.margins_and_mask(prediction, batch)
        labels = relative_labels(batch.scores, mask)
        loss, pair_weights = lipo_loss(margins, labels, mask, normalise=self.normalise)
        has_pairs = (pair_weights > 0).any(2).any(1)
        return LossOutput(loss, row_weights(batch, loss) * has_pairs, list_metrics(margins, mask, prediction))
