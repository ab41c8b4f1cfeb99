"""The margin between views of an example, and what is read off it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SATURATED = 5.0
"""Above this margin a log-sigmoid passes on less than sigmoid(-5) = 0.7 % of its gradient."""


class PairLoss(NamedTuple):
    loss: Tensor
    """[N]"""
    margin: Tensor
    """What the loss is a function of: above 0 where the policy prefers the chosen view more than the reference. [N]"""


def pair_margin(
    policy_error: Tensor, reference_error: Tensor, beta: float | Tensor, rejected_bound: float | None = None
) -> Tensor:
    """beta / 2 * (change of the rejected view's error - change of the chosen one's). [N]

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        reference_error: the same for the frozen reference. [N, 2]
        beta: beta*T*omega(lambda_t) of arXiv:2311.12908, Eq. 14; a scalar, or [N] to weigh pairs.
        rejected_bound: the rejected view adds no more than this to the margin, and no gradient beyond. TPO
            (arXiv:2509.25771) clips the negative term; that it is done by a minimum is ours.

    Raises:
        ValueError: the two errors differ in shape, or are not pairs.
    """
    if policy_error.shape != reference_error.shape or policy_error.ndim != 2 or policy_error.shape[1] != 2:
        raise ValueError(
            f"policy_error is {list(policy_error.shape)} and reference_error {list(reference_error.shape)}; "
            "both must be [N, 2]"
        )
    chosen, rejected = (policy_error - reference_error).unbind(1)
    if rejected_bound is not None:
        rejected = torch.minimum(rejected, torch.as_tensor(2 * rejected_bound / beta).to(rejected))
    return -0.5 * beta * (chosen - rejected)  # beta/2: the released code folds the 1/2 of the KL bound in here


def agreement(margin: Tensor) -> Tensor:
    """1 where the policy orders as the labels do, else 0; a tie counts one half, so an untouched policy has 0.5."""
    return (margin.detach() > 0).float() + 0.5 * (margin.detach() == 0).float()


def saturated(margin: Tensor) -> Tensor:
    """1 where -log sigmoid(margin) is flat, else 0: far below 0, where the order is wrong, it is steepest."""
    return (margin.detach() > SATURATED).float()


def pair_metrics(margin: Tensor, policy_error: Tensor, reference_error: Tensor | None) -> dict[str, Tensor]:
    """What docs/dpo-metrics.md explains, detached; the changes only where there is a reference. [N] each

    Args:
        margin: [N]
        policy_error: views (chosen, rejected). [N, 2]
        reference_error: [N, 2]
    """
    errors = policy_error.detach()
    metrics = {
        "implicit_accuracy": agreement(margin),
        "margin": margin.detach(),
        "saturated": saturated(margin),
        "chosen_error": errors[:, 0],
        "rejected_error": errors[:, 1],
    }
    if reference_error is not None:
        change = errors - reference_error
        metrics |= {
            "chosen_change": change[:, 0],
            "rejected_change": change[:, 1],
            "reference_error": reference_error.mean(1),
        }
    return metrics
