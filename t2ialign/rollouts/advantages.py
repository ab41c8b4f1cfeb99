"""From the rewards of groups of images to advantages. Missing numbers are NaN, and stay so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2ialign.config.online import AdvantageConfig


def win_rates(scores: Tensor, tie_margin: float = 0.0) -> Tensor:
    """The share of its group's other images that each image beats; ties count half. [P, G] in [0, 1], or NaN

    Args:
        scores: of P groups of G images; NaN is missing. [P, G]
        tie_margin: scores that differ by no more are a tie.
    """
    difference = scores[:, :, None] - scores[:, None, :]
    verdicts = (difference > tie_margin).to(scores) + 0.5 * (difference.abs() <= tie_margin).to(scores)
    return win_rates_of_verdicts(verdicts.where(difference.isfinite(), torch.nan))


def win_rates_of_verdicts(verdicts: Tensor) -> Tensor:
    """The mean over the others that an image was compared with. [P, G] in [0, 1], NaN of an image without a verdict

    Args:
        verdicts: how probably image i is better than image j; NaN is missing, the diagonal is not read. [P, G, G]
    """
    own = torch.eye(verdicts.shape[1], dtype=torch.bool, device=verdicts.device)
    return verdicts.masked_fill(own, torch.nan).nanmean(2)


def strict_order_std(images: int) -> float:
    """Standard deviation of the win rates of `images` images in a strict order: ((G + 1) / (12 (G - 1)))^(1/2)."""
    return ((images + 1) / (12 * (images - 1))) ** 0.5


def global_moments(values: Tensor) -> Tensor:
    """Number, sum and sum of squares of what is not missing, to be summed over processes. [3] float64"""
    found = values.double().masked_select(values.isfinite())
    return torch.stack([found.new_tensor(len(found)), found.sum(), found.square().sum()])


def standard_deviation(moments: Tensor) -> float:
    """Of all values behind `global_moments`, as of a population; 0 where there are none."""
    count, total, squares = moments.tolist()
    return max(0.0, squares / count - (total / count) ** 2) ** 0.5 if count else 0.0


def advantages(
    values: Tensor, config: AdvantageConfig, *, are_win_rates: bool, moments: Tensor | None = None
) -> Tensor:
    """How much better each image is than its group: the distance from the mean, for win rates from 1/2, over a scale.

    Args:
        values: scores or win rates of P groups; NaN is missing. [P, G]
        config: which scale; advantages are cut at its `clip`.
        are_win_rates: of `values`.
        moments: of all processes' values; default: of these.

    Returns:
        [P, G], NaN where a value is missing, or all others of its group.
    """
    present = values.isfinite()
    alone = present.sum(1, keepdim=True) < 2
    mean = values.nanmean(1, keepdim=True)
    centre = torch.full_like(mean, 0.5) if are_win_rates and config.scale == "fixed" else mean
    distance = values - centre
    if config.scale == "fixed":
        # in a config without the key values are win rates
        scale = torch.tensor(config.fixed_scale or strict_order_std(values.shape[1]))
    elif config.scale == "global_std":
        found = standard_deviation(global_moments(values) if moments is None else moments)
        scale = torch.tensor(found + config.epsilon)
    else:
        variance = (values - mean).square().nanmean(1, keepdim=True)  # of the population
        scale = variance.sqrt() + config.epsilon
    cut = (distance / scale.to(values)).clamp(-config.clip, config.clip)
    return cut.masked_fill(alone, torch.nan)


def combine(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of several rewards' advantages. [P, G]

    A reward that has nothing to say of a whole group, such as one of another kind of prompt, does not count there; an
    image that lacks what others of its group have is missing.

    Args:
        parts: a reward's advantages each. [P, G]
        weights: one a reward, below 0 where low scores are preferred; the absolute values of those that count sum to 1.
    """
    every = torch.stack(list(parts))
    says = every.isfinite().any(2, keepdim=True)
    weight = torch.tensor(weights).to(every).view(-1, 1, 1) * says
    total = weight.abs().sum(0)
    mean = (every.where(says, 0) * weight).sum(0) / total
    return mean.masked_fill(total == 0, torch.nan)


def best_and_worst(advantages: Tensor, count: int) -> Tensor:
    """The places of a group's count / 2 lowest and count / 2 highest advantages. [P, count] int64

    Missing ones are taken where there are not enough others.

    Args:
        advantages: NaN is missing. [P, G]
        count: even, at most G.
    """
    present = advantages.isfinite()
    rank = advantages.argsort(dim=1, stable=True).argsort(1)  # missing ones have the highest
    middle = present.sum(1, keepdim=True) // 2 - 0.5
    order = rank.where(present, middle).argsort(dim=1, stable=True)
    return torch.cat([order[:, : count // 2], order[:, -(count // 2) :]], 1)
