"""What the images of an iteration are worth: every reward's verdicts, its advantages, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from t2ialign.config.online import AdvantageConfig
from t2ialign.rewards.base import PairwiseReward
from t2ialign.rollouts.advantages import advantages, combine, global_moments, win_rates, win_rates_of_verdicts
from t2ialign.rollouts.judging import Group, Judge


class Judged(NamedTuple):
    """Images with advantages."""

    advantages: Tensor
    """NaN where an image has none. [P, G]"""
    values: dict[str, Tensor]
    """Of each reward its scores, of a pairwise one the win rates; NaN is missing. [P, G]"""
    metrics: dict[str, float]
    """Over all processes: the mean score of each reward that gives scores; first_shown_wins/NAME of each
    that compares, a half for a fair judge; rollout/failed, the share of images without
    an advantage; rollout/spread, the mean size of an advantage; rollout/flat_groups, the share of groups without any
    difference."""


def estimate(
    judges: Sequence[Judge],
    groups: Sequence[Group],
    config: AdvantageConfig,
    add_up: Callable[[Tensor], Tensor],
) -> Judged:
    """What the verdicts of every reward on every group, which were asked for before, come to.

    Args:
        add_up: the sum of a tensor over all processes.
    """
    parts: list[Tensor] = []
    every: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    for judge in judges:
        scores = judge.verdicts(groups)
        is_pairwise = isinstance(judge.reward, PairwiseReward)
        if not is_pairwise:
            count, total, _ = add_up(global_moments(scores)).tolist()
            if count:
                metrics[f"reward/{judge.reward.name}"] = total / count
        values, are_win_rates = scores, is_pairwise or config.of == "win_rate"
        if is_pairwise:
            values = win_rates_of_verdicts(scores)
            answered, first = add_up(judge.first_shown_wins(groups)).tolist()
            metrics |= {f"first_shown_wins/{judge.reward.name}": first / answered} if answered else {}
        every[judge.reward.name] = values
        if not is_pairwise and are_win_rates:
            values = win_rates(scores, config.tie_margin)
        moments = add_up(global_moments(values))
        parts.append(advantages(values, config, are_win_rates=are_win_rates, moments=moments))
    found = combine(parts, [judge.reward.weight for judge in judges])
    return Judged(found, every, metrics | _describe(found, add_up))


def _describe(found: Tensor, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
    size = found.nan_to_num().abs()
    sums = [found.new_tensor(found.numel()), found.isnan().sum(), size.sum(), (size == 0).all(1).sum()]
    images, missing, spread, flat = add_up(torch.stack(sums).double()).tolist()
    return {
        "rollout/failed": missing / images,
        "rollout/spread": spread / images,
        "rollout/flat_groups": flat / (images / found.shape[1]),
    }
