"""Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036) on denoising errors."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import FrozenWeights, Objective, row_weights
from t2ialign.objectives.margins import PairLoss, pair_margin, pair_metrics
from t2ialign.types import Batch, LossOutput, Prediction


def ipo_loss(policy_error: Tensor, reference_error: Tensor, beta: float | Tensor) -> PairLoss:
    """Squared distance of the margin from 1/2 (arXiv:2310.12036, Eq. 17, times tau^2).

    Eq. 17 is (h - 1 / (2 tau))^2 with h the difference of log-ratios; tau * h is Diffusion-DPO's margin. The factor
    makes the gradient of dpo's order: -1 per unit of margin at margin 0, where dpo has -1/2.

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        reference_error: the same for the frozen reference. [N, 2]
        beta: as in Diffusion-DPO.

    Raises:
        ValueError: the two errors differ in shape, or are not pairs.
    """
    margin = pair_margin(policy_error, reference_error, beta)
    return PairLoss((margin - 0.5).square(), margin)


class IPO(Objective):
    """Brings the margin of each pair to one half and no further, so that labels cannot be learnt by heart."""

    name: str = "ipo"
    beta: float = Field(gt=0)
    """Strength of the KL bound; beta / 2 multiplies the difference of per-element mean squared errors."""

    views: ClassVar[int | None] = 2
    reads_reference_error_only: ClassVar[bool] = True

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",)

    def margin_multiplier(self) -> float:
        return self.beta / 2

    @property
    def initial_loss(self) -> float:
        return 0.25

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        errors = (prediction.policy_error, prediction.reference_error)
        loss, margin = ipo_loss(*errors, self.beta)
        metrics = pair_metrics(margin, *errors)
        metrics["saturated"] = loss.new_zeros(len(loss))  # a parabola is nowhere flat
        return LossOutput(loss, row_weights(batch, loss), metrics)
