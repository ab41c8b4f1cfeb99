"""Predictions whose errors are given, so that objectives can be tested without a network."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ialign.objectives.base import Objective
from t2ialign.schedules import VPSchedule
from t2ialign.types import Batch, Conditioning, LossOutput, Noised, Prediction

SCHEDULE = VPSchedule(torch.tensor([0.64, 0.36]), "epsilon", 1.0)


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def errors(count: int, views: int, *, seed: int) -> Tensor:
    """Positive errors of the size that networks have. [count, views] float64"""
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.2 * torch.rand(count, views, generator=generator, dtype=torch.float64)


def prediction(
    policy_error: Tensor, reference_error: Tensor | None, mismatched: Prediction | None = None
) -> Prediction:
    """A prediction with these errors [N, V]; one element a view, the policy too high, the reference as well."""
    shape = (*policy_error.shape, 1, 1, 1)
    zero = torch.zeros(shape, dtype=policy_error.dtype)
    noised = Noised(zero, zero, zero, torch.zeros(policy_error.shape, dtype=torch.int64))
    made = Prediction(policy_error.sqrt().view(shape), zero, noised, SCHEDULE, mismatched)
    # set, not computed, so that the errors are the leaves that gradients are asked for
    made.__dict__["policy_error"] = policy_error
    made.__dict__["reference_error"] = reference_error
    return made


def batch(
    count: int, views: int, *, scores: Tensor | None = None, mask: Tensor | None = None, weights: Tensor | None = None
) -> Batch:
    latents = torch.zeros(count, views, 1, 1, 1)
    cond = Conditioning(torch.zeros(count, 1, 1, 1))
    return Batch(torch.arange(count), torch.arange(count), latents, cond, scores=scores, mask=mask, weights=weights)


def outcome(
    objective: Objective,
    policy_error: Tensor,
    reference_error: Tensor | None = None,
    *,
    scores: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    mismatched: tuple[Tensor, Tensor] | None = None,
) -> LossOutput:
    """The objective of rows with these errors. [N, V] each"""
    other = None if mismatched is None else prediction(*mismatched)
    rows = batch(*policy_error.shape, scores=scores, mask=mask, weights=weights)
    return objective(prediction(policy_error, reference_error, other), rows)
