"""Margin-aware preference optimisation (Hong et al. 2024, arXiv:2406.06424): no reference model.

The released code and the paper's second version are different losses; each has a component of its own.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import Objective, row_weights
from t2ialign.objectives.margins import PairLoss, pair_metrics
from t2ialign.types import Batch, LossOutput, Prediction


def bounded_score(error: Tensor) -> Tensor:
    """error / (exp(error) - 1): 1 where the error is 0, falling to 0, with slope -1/2 at 0.

    Args:
        error: at least 0.
    """
    small = error < 1e-6
    safe = torch.where(small, torch.ones_like(error), error)
    # exp(-x) does not overflow where exp(x) does
    exact = safe * torch.exp(-safe) / -torch.expm1(-safe)
    return torch.where(small, 1 - error / 2, exact)


def mapo_loss(policy_error: Tensor, *, beta: float, error_scale: float, logit_scale: float) -> PairLoss:
    """The released code's loss: L_w - beta * log sigmoid(logit_scale * (phi(L_w) - phi(L_l))), phi of error_scale * L.

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        beta: weight of the margin term beside the chosen view's own error.
        error_scale: s, a constant of 0.5 in the code, where it is called snr_value.
        logit_scale: T, 1000 in the code.
    """
    chosen, rejected = bounded_score(error_scale * policy_error).unbind(1)
    margin = logit_scale * (chosen - rejected)
    return PairLoss(policy_error[:, 0] - beta * F.logsigmoid(margin), margin)


def mapo_v2_loss(policy_error: Tensor, beta: float) -> PairLoss:
    """The paper's second version: L_w - log sigmoid(phi(L_w) - phi(L_l)) / beta, phi(L) = (L / (exp(L) - 1))^beta.

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        beta: exponent of the scores and inverse weight of the margin term; 8 for general preference.
    """
    chosen, rejected = bounded_score(policy_error).pow(beta).unbind(1)
    margin = chosen - rejected
    return PairLoss(policy_error[:, 0] - F.logsigmoid(margin) / beta, margin)


class MaPO(Objective):
    """Fits the first view and widens its margin over the second, as the released code does; no reference."""

    name: str = "mapo"
    beta: float = Field(gt=0)
    """Weight of the margin term beside the chosen view's squared error; 0.1 as released."""
    error_scale: float = Field(0.5, gt=0)
    """s: what errors are multiplied by in the bounded score s*L / (exp(s*L) - 1); the released snr_value."""
    logit_scale: float = Field(1000.0, gt=0)
    """T: what the difference of two bounded scores is multiplied by inside the log-sigmoid."""

    views: ClassVar[int | None] = 2
    margin_key: ClassVar[str] = "logit_scale"

    def margin_multiplier(self) -> float:
        return self.logit_scale * self.error_scale / 2  # the bounded score's slope at small errors is -1/2

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        error = prediction.policy_error
        loss, margin = mapo_loss(error, beta=self.beta, error_scale=self.error_scale, logit_scale=self.logit_scale)
        return LossOutput(loss, row_weights(batch, loss), pair_metrics(margin, error, None))


class MaPOv2(Objective):
    """Fits the first view and widens its margin over the second, as the paper's second version does; no reference."""

    name: str = "mapo_v2"
    beta: float = Field(ge=1)
    """Exponent of the bounded scores, and 1 / weight of the margin term: 8 to 1024 in the paper, by task. Below 1 the
    gradient would be infinite where a score is 0."""

    views: ClassVar[int | None] = 2

    def margin_multiplier(self) -> float:
        return self.beta / 2

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        error = prediction.policy_error
        loss, margin = mapo_v2_loss(error, self.beta)
        return LossOutput(loss, row_weights(batch, loss), pair_metrics(margin, error, None))
