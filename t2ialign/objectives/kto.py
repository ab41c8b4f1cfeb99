"""Diffusion-KTO (Li et al. 2024, arXiv:2404.04465): single images that were liked or disliked."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ExampleField, FrozenWeights, Objective, row_weights
from t2ialign.objectives.margins import agreement, saturated
from t2ialign.types import Batch, LossOutput, Prediction


class KTOLoss(NamedTuple):
    loss: Tensor
    """[N]"""
    margin: Tensor
    """What goes into the sigmoid: above 0 where the policy moved as the label asks. [N]"""


Baseline = Literal["mismatched", "batch", "original", "sigmoid"]
Utility = Literal["kahneman_tversky", "loss_averse", "risk_seeking"]


def gain_sums(gain: Tensor, weights: Tensor) -> Tensor:
    """(weighted sum of the gains, sum of the weights), without gradient, to be added over processes. [2]

    Args:
        gain: reference error - policy error. [N]
        weights: 0 for rows that do not count. [N]
    """
    return torch.stack([(gain.detach() * weights).sum(), weights.sum()])


def mean_gain(sums: Tensor) -> Tensor:
    """The mean gain over the rows of all processes; 0 where none counts. scalar

    Args:
        sums: of `gain_sums`, over all processes. [2]
    """
    return sums[0] / sums[1].clamp(min=torch.finfo(sums.dtype).tiny)


def kl_baseline(sums: Tensor) -> Tensor:
    """The reference point: the mean gain over the rows of all processes, at least 0. scalar

    A divergence is not negative; an estimate from a few rows can be. Its mean after clamping is above the true mean:
    rows that moved as asked are then held back.

    Args:
        sums: of `gain_sums`, over all processes. [2]
    """
    return mean_gain(sums).clamp(min=0)


def diffusion_kto_loss(
    gain: Tensor, desirable: Tensor, baseline: Tensor | float, beta: float, utility: Utility = "kahneman_tversky"
) -> KTOLoss:
    """Minus a utility of z = +-beta * (gain - baseline) (arXiv:2404.04465; the released code).

    kahneman_tversky is 1 - sigmoid(z), flat on both sides; loss_averse is -log sigmoid(z), flat for large z;
    risk_seeking is log sigmoid(-z), which falls without bound as z grows.

    Args:
        gain: reference error - policy error, of ||noise - noise_theta||^2 / (C*H*W). [N]
        desirable: whether the image was liked. [N] bool
        baseline: the gain that counts as neither win nor loss. scalar
        beta: multiplies the gain; there is no 1/2 here, so 1000 is as strong as Diffusion-DPO's 2000.
    """
    sign = torch.where(desirable, 1.0, -1.0).to(gain)
    margin = sign * beta * (gain - baseline)
    if utility == "loss_averse":
        return KTOLoss(-F.logsigmoid(margin), margin)
    if utility == "risk_seeking":
        return KTOLoss(F.logsigmoid(-margin), margin)
    return KTOLoss(torch.sigmoid(-margin), margin)


class DiffusionKTO(Objective):
    """Moves towards images of label 1 and away from images of label 0, relative to a frozen reference."""

    name: str = "kto"
    beta: float = Field(gt=0)
    """Multiplies a row's difference of per-element mean squared errors; no 1/2, so half of Diffusion-DPO's beta."""
    baseline: Baseline = "mismatched"
    """The reference point, a mean over one micro-batch of all processes, so that these have a part in it. mismatched:
    of another row's prompt on the same x_t, as KTO's theory asks (two more passes without gradient), at least 0;
    original: the same with negative means kept, as released. batch: of the rows themselves, at least 0, as released by
    default; sigmoid: the middle of the means of liked and of disliked rows."""
    utility: Utility = "kahneman_tversky"
    """What the margin is worth: kahneman_tversky, flat on both sides; loss_averse, flat for large gains; risk_seeking,
    flat for large losses."""

    views: ClassVar[int | None] = 1
    reads_reference_error_only: ClassVar[bool] = True
    batch_dependent: ClassVar[bool] = True

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",)

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return ("labels",)

    @property
    def needs_mismatched(self) -> bool:
        return self.baseline in ("mismatched", "original")

    def margin_multiplier(self) -> float:
        return self.beta

    @property
    def initial_loss(self) -> float:
        return {"kahneman_tversky": 0.5, "loss_averse": math.log(2), "risk_seeking": -math.log(2)}[self.utility]

    def context(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The sums behind the reference point; see `gain_sums`. [2], or of liked and of disliked rows [4]

        Raises:
            ValueError: the prediction has none under other prompts, or the batch no labels.
        """
        measured = prediction.mismatched if self.needs_mismatched else prediction
        if measured is None:
            raise ValueError(f"baseline '{self.baseline}' needs predictions under other prompts")
        weights = row_weights(batch, prediction.policy_error)
        gain = (measured.reference_error - measured.policy_error)[:, 0]
        if self.baseline != "sigmoid":
            return gain_sums(gain, weights)
        liked = self._desirable(batch).to(weights)
        return torch.cat([gain_sums(gain, weights * liked), gain_sums(gain, weights * (1 - liked))])

    def _reference_point(self, sums: Tensor) -> Tensor:
        """What counts as neither win nor loss, from the sums over all processes. scalar"""
        if self.baseline == "sigmoid":
            return (mean_gain(sums[:2]) + mean_gain(sums[2:])) / 2
        return mean_gain(sums) if self.baseline == "original" else kl_baseline(sums)

    def _desirable(self, batch: Batch) -> Tensor:
        if batch.scores is None:
            raise ValueError("kto needs labels: batch.scores is None")
        return batch.scores[:, 0] > 0.5

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no labels, or the prediction none under other prompts.
        """
        desirable = self._desirable(batch)
        sums = self.context(prediction, batch) if prediction.context is None else prediction.context
        baseline = self._reference_point(sums)
        weights = row_weights(batch, prediction.policy_error)
        gain = (prediction.reference_error - prediction.policy_error)[:, 0]
        loss, margin = diffusion_kto_loss(gain, desirable, baseline, self.beta, self.utility)
        metrics = {
            "implicit_accuracy": agreement(margin),
            "margin": margin.detach(),
            "saturated": saturated(self._towards_flat(margin)),
            "kl": baseline,
            "desirable": desirable.float(),
            "policy_error": prediction.policy_error.detach()[:, 0],
            "reference_error": prediction.reference_error[:, 0],
        }
        return LossOutput(loss, weights, metrics)

    def _towards_flat(self, margin: Tensor) -> Tensor:
        """The margin, signed so that the loss is flat where it is large."""
        if self.utility == "risk_seeking":
            return -margin
        return margin if self.utility == "loss_averse" else margin.abs()
