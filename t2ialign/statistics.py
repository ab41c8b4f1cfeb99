"""Intervals that go beside every measured number, and how many prompts a difference needs to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from unigenbench.statistics import bootstrap_mean, cluster_sums, sign_flip_p

Z_95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


class Difference(NamedTuple):
    """aligned - base, with a 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """What was resampled: clusters, or rows where there are none."""


class Proportion(NamedTuple):
    """A share in [0, 1], with a 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    base: Sequence[float] | np.ndarray,
    aligned: Sequence[float] | np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | np.ndarray | None = None,
) -> Difference:
    """The mean difference of paired measurements and its 95 % percentile-bootstrap interval.

    Args:
        base: one finite number per pair. [n]
        aligned: the same pairs, measured on the aligned model. [n]
        resamples: bootstrap samples.
        seed: of the resampling; the same numbers give the same interval.
        clusters: what a pair belongs to (its prompt), where several pairs are not independent; whole clusters are
            resampled, and each pair keeps its weight. [n]

    Raises:
        ValueError: lengths differ, there is nothing to compare, or a number is not finite. A failed measurement has no
            number: leave its pair out and say how many were.
    """
    return Difference(*bootstrap_mean(_paired(base, aligned), clusters, resamples=resamples, seed=seed))


def paired_p(
    base: Sequence[float] | np.ndarray,
    aligned: Sequence[float] | np.ndarray,
    *,
    draws: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | np.ndarray | None = None,
) -> float:
    """Two-sided p-value of a mean difference of 0: base and aligned are exchanged, cluster by cluster.

    Args:
        base, aligned, clusters: as of `paired_bootstrap`. [n]
        draws: permutations; of up to 16 clusters all are tried, and the value is exact.

    Raises:
        ValueError: as `paired_bootstrap`.
    """
    sums, _ = cluster_sums(_paired(base, aligned), clusters)
    return sign_flip_p(sums, draws=draws, seed=seed)


def _paired(base: Sequence[float] | np.ndarray, aligned: Sequence[float] | np.ndarray) -> np.ndarray:
    before, after = np.asarray(base, np.float64), np.asarray(aligned, np.float64)
    if before.ndim != 1 or before.shape != after.shape or before.size == 0:
        raise ValueError(f"base has shape {before.shape} and aligned {after.shape}; give two equal, non-empty lists")
    failed = int((~np.isfinite(before) | ~np.isfinite(after)).sum())
    if failed:
        raise ValueError(f"{failed} of {before.size} pairs hold a number that is not finite; leave them out")
    return after - before


def wilson(successes: int, n: int) -> Proportion:
    """The share successes / n and its Wilson score interval, 95 % (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the normal interval it stays inside [0, 1] and has a width at 0 and at n successes.

    Raises:
        ValueError: not 0 <= successes <= n with n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    share, spread = successes / n, Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * (share * (1 - share) / n + spread / (4 * n)) ** 0.5
    # the bounds at 0 and n are exact; rounding would miss them by 1e-17
    return Proportion(share, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half, n)


def prompts_for_mean(difference: float, sd: float, power: float) -> int:
    """Prompts with which a paired difference of means shows: its two-sided 95 % interval lies above zero.

    n = ((z_0.975 + z_power) sd / difference)^2, the normal approximation.

    Args:
        difference: the true one, above 0.
        sd: of the prompts' differences.
        power: how often it is to show, in (0.5, 1).
    """
    return math.ceil(((Z_95 + NormalDist().inv_cdf(power)) * sd / difference) ** 2)


def prompts_for_share(better: float, worse: float, power: float) -> int:
    """The same of a paired share, tested by its discordant prompts (Connor 1987, doi:10.2307/2531961).

    n = ((z_0.975 sqrt(b + w) + z_power sqrt(b + w - (b - w)^2)) / (b - w))^2

    Args:
        better: b, share of prompts that only the aligned model gets right; above `worse`.
        worse: w, share of prompts that only the base gets right.
        power: how often the difference is to show, in (0.5, 1).
    """
    discordant, difference = better + worse, better - worse
    spread = Z_95 * discordant**0.5 + NormalDist().inv_cdf(power) * (discordant - difference**2) ** 0.5
    return math.ceil((spread / difference) ** 2)
