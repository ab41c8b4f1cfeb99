"""Statistics of a reward's scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from t2ialign.rewards.base import Score


class ScoreSummary(NamedTuple):
    """Statistics of scores. A failed image has no number, so it is in `failed` and nowhere else."""

    images: int
    scored: int
    failed: int
    mean: float | None
    """None if nothing was scored."""
    standard_error: float | None
    """Of the mean, prompts being the independent units; None below two prompts."""
    low: float | None
    """The smallest score."""
    high: float | None
    """The largest score."""


def summarise_scores(scores: Sequence[Score], prompts: Sequence[str]) -> ScoreSummary:
    """Mean, standard error and coverage of scores.

    Images of one prompt resemble each other, so the standard error is the cluster-robust one of a ratio of prompt
    totals: sqrt(P / (P - 1) * sum_p (S_p - mean * n_p)^2) / N, with S_p the sum and n_p the number of prompt p's
    scores. With one image a prompt it is the usual s / sqrt(N).
    """
    known = [(score, prompt) for score, prompt in zip(scores, prompts, strict=True) if score is not None]
    values = [score for score, _ in known]
    if not values:
        return ScoreSummary(len(scores), 0, len(scores), None, None, None, None)
    mean = statistics.fmean(values)
    residuals: dict[str, float] = {}
    for score, prompt in known:
        residuals[prompt] = residuals.get(prompt, 0.0) + score - mean
    clusters, error = len(residuals), None
    if clusters > 1:
        error = math.sqrt(clusters / (clusters - 1) * sum(r * r for r in residuals.values())) / len(values)
    return ScoreSummary(len(scores), len(values), len(scores) - len(values), mean, error, min(values), max(values))


def shared_value(scores: Sequence[Score]) -> float | None:
    """The one value that all scores share, if there are two or more and they do; else None.

    A constant reward teaches nothing; usually an exception was swallowed inside it, or its weights are not loaded.
    """
    values = {score for score in scores if score is not None}
    return values.pop() if len(values) == 1 and sum(score is not None for score in scores) > 1 else None
