"""Diffusion-KTO (Li et al. 2024, arXiv:2404.04465): single images that were liked or disliked."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
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


def gain_sums(gain: Tensor, weights: Tensor) -> Tensor:
    """(weighted sum of the gains, sum of the weights), without gradient, to be added over processes. [2]

    Args:
        gain: reference error - policy error. [N]
        weights: 0 for rows that do not count. [N]
    """
    return torch.stack([(gain.detach() * weights).sum(), weights.sum()])


def kl_baseline(sums: Tensor) -> Tensor:
    """The reference point: the mean gain over the rows of all processes, at least 0. scalar

    A divergence is not negative; an estimate from a few rows can be.

    Args:
        sums: of `gain_sums`, over all processes. [2]
    """
    return (sums[0] / sums[1].clamp(min=torch.finfo(sums.dtype).tiny)).clamp(min=0)


def diffusion_kto_loss(gain: Tensor, desirable: Tensor, baseline: Tensor | float, beta: float) -> KTOLoss:
    """1 - sigmoid(+-beta * (gain - baseline)), the Kahneman-Tversky utility (arXiv:2404.04465; the released code).

    Args:
        gain: reference error - policy error, of ||noise - noise_theta||^2 / (C*H*W). [N]
        desirable: whether the image was liked. [N] bool
        baseline: the gain that counts as neither win nor loss. scalar
        beta: multiplies the gain; there is no 1/2 here, so 1000 is as strong as Diffusion-DPO's 2000.
    """
    sign = torch.where(desirable, 1.0, -1.0).to(gain)
    margin = sign * beta * (gain - baseline)
    return KTOLoss(torch.sigmoid(-margin), margin)


class DiffusionKTO(Objective):
    """Moves towards images of label 1 and away from images of label 0, relative to a frozen reference."""

    name: str = "kto"
    beta: float = Field(gt=0)
    """Multiplies a row's difference of per-element mean squared errors; no 1/2, so half of Diffusion-DPO's beta."""
    baseline: Literal["mismatched", "batch"] = "mismatched"
    """Where the reference point comes from: another row's prompt on the same x_t, as KTO's theory asks (two more passes
    without gradient), or the rows themselves, as the released code does by default. A mean over one micro-batch of all
    processes, so micro-batch and processes have a part in it."""

    views: ClassVar[int | None] = 1
    required_weights: ClassVar[tuple[FrozenWeights, ...]] = ("reference",)
    batch_dependent: ClassVar[bool] = True

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        return ("labels",)

    @property
    def needs_mismatched(self) -> bool:
        return self.baseline == "mismatched"

    def margin_multiplier(self) -> float:
        return self.beta

    @property
    def initial_loss(self) -> float:
        return 0.5

    def context(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The sums behind the reference point; see `gain_sums`. [2]

        Raises:
            ValueError: the prediction has none under other prompts.
        """
        measured = prediction.mismatched if self.needs_mismatched else prediction
        if measured is None:
            raise ValueError("baseline 'mismatched' needs predictions under other prompts")
        weights = row_weights(batch, prediction.policy_error)
        return gain_sums((measured.reference_error - measured.policy_error)[:, 0], weights)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """
        Raises:
            ValueError: the batch has no labels, or the prediction none under other prompts.
        """
        if batch.scores is None:
            raise ValueError("kto needs labels: batch.scores is None")
        sums = self.context(prediction, batch) if prediction.context is None else prediction.context
        baseline = kl_baseline(sums)
        weights = row_weights(batch, prediction.policy_error)
        gain = (prediction.reference_error - prediction.policy_error)[:, 0]
        desirable = batch.scores[:, 0] > 0.5
        loss, margin = diffusion_kto_loss(gain, desirable, baseline, self.beta)
        metrics = {
            "implicit_accuracy": agreement(margin),
            "margin": margin.detach(),
            "saturated": saturated(margin.abs()),  # a sigmoid is flat on both sides
            "kl": baseline,
            "desirable": desirable.float(),
            "policy_error": prediction.policy_error.detach()[:, 0],
            "reference_error": prediction.reference_error[:, 0],
        }
        return LossOutput(loss, weights, metrics)
