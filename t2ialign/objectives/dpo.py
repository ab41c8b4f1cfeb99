"""Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import Objective
from t2ialign.types import Batch, LossOutput, Prediction


class PairLoss(NamedTuple):
    loss: Tensor
    """[N]"""
    margin: Tensor
    """The argument of the log-sigmoid: above 0 where the policy prefers the chosen view more than the reference. [N]"""


def diffusion_dpo_loss(policy_error: Tensor, reference_error: Tensor, beta: float | Tensor) -> PairLoss:
    """Per-pair Diffusion-DPO loss (arXiv:2311.12908, Eq. 14).

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        reference_error: the same for the frozen reference. [N, 2]
        beta: beta*T*omega(lambda_t) of Eq. 14; a scalar, or [N] to weigh pairs.

    Raises:
        ValueError: the two errors differ in shape, or are not pairs.
    """
    if policy_error.shape != reference_error.shape or policy_error.ndim != 2 or policy_error.shape[1] != 2:
        raise ValueError(
            f"policy_error is {list(policy_error.shape)} and reference_error {list(reference_error.shape)}; "
            "both must be [N, 2]"
        )
    chosen, rejected = (policy_error - reference_error).unbind(1)
    margin = -0.5 * beta * (chosen - rejected)  # beta/2: the released code folds the 1/2 of the KL bound in here
    return PairLoss(-F.logsigmoid(margin), margin)


class DiffusionDPO(Objective):
    """Prefers the first view to the second, relative to a frozen reference."""

    name: str = "dpo"
    beta: float = Field(gt=0)
    """Strength of the KL bound; beta / 2 multiplies the difference of per-element mean squared errors."""

    views: ClassVar[int | None] = 2
    needs_reference: ClassVar[bool] = True

    def margin_multiplier(self) -> float:
        return self.beta / 2

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        policy_error, reference_error = prediction.policy_error, prediction.reference_error
        loss, margin = diffusion_dpo_loss(policy_error, reference_error, self.beta)
        weights = loss.new_ones(len(loss)) if batch.weights is None else batch.weights.to(loss)
        change = (policy_error - reference_error).detach()
        metrics = {
            # a tie counts one half, so that the accuracy of an untouched policy is 0.5 and not 0
            "implicit_accuracy": (margin.detach() > 0).float() + 0.5 * (margin.detach() == 0).float(),
            "margin": margin.detach(),
            "saturated": (margin.detach().abs() > 5).float(),
            "chosen_change": change[:, 0],
            "rejected_change": change[:, 1],
            "chosen_error": policy_error.detach()[:, 0],
            "rejected_error": policy_error.detach()[:, 1],
            "reference_error": reference_error.mean(1),
        }
        return LossOutput(loss, weights, metrics)
