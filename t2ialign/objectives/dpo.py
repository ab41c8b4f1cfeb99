"""Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908), and what keeps it honest."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import FrozenWeights, Objective, row_weights
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

    views: ClassVar[int | None] = 2
    required_weights: ClassVar[tuple[FrozenWeights, ...]] = ("reference",)

    def margin_multiplier(self) -> float:
        return self.beta / 2

    @property
    def initial_loss(self) -> float | None:
        return None if self.sft_weight else math.log(2)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        policy_error, reference_error = prediction.policy_error, prediction.reference_error
        compared = policy_error
        if self.winner_preserving is not None:
            residual = prediction.policy - prediction.target
            compared = preserve_winner(policy_error, residual, self.winner_preserving)
        loss, margin = diffusion_dpo_loss(
            compared,
            reference_error,
            self.beta,
            label_smoothing=self.label_smoothing,
            rejected_bound=self.rejected_bound,
        )
        if self.sft_weight:
            loss = loss + self.sft_weight * policy_error[:, 0]
        metrics = pair_metrics(margin, policy_error, reference_error)
        if self.label_smoothing:
            metrics["saturated"] = loss.new_zeros(len(loss))  # beyond its least point the loss rises again
        return LossOutput(loss, row_weights(batch, loss), metrics)
