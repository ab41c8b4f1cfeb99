"""Intervals, tests and agreement for measurements that come in clusters: what belongs to one prompt moves together.

One bootstrap serves both packages: whole clusters are drawn with replacement, and a rate is the ratio of the drawn
sums, so that a cluster weighs as much as it holds.

Shapes: P prompts (or other clusters), G groups of test points (a criterion, a dimension, a theme, ...), B bootstrap
samples, R permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb
from typing import NamedTuple

import numpy as np

ENUMERATED = 16
"""Up to so many prompts, all 2^P swaps are tried and the p-value is exact."""
LEAST_YOUDEN = 0.2
"""Below this sensitivity + specificity - 1 a judge tells too little for its rate to be corrected."""

_TIE = 1e-12
"""Sums of the same numbers in another order are equal up to this."""
_BLOCK = 2_000_000
"""Drawn indices held in memory at once, whatever the number of clusters."""


def multiplicities(n: int, draws: int, seed: int) -> np.ndarray:
    """How often each of n clusters occurs in each bootstrap sample of n, drawn with replacement. [draws, n]"""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def multiplicity_blocks(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """The same from drawn indices, as scipy draws them: other samples of the same distribution, in bounded memory.

    Yields:
        [b, n], whose b add up to `draws`.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n)
    for start in range(0, draws, rows):
        picked = rng.integers(0, n, (min(rows, draws - start), n))
        cells = picked + n * np.arange(len(picked))[:, None]
        yield np.bincount(cells.ravel(), minlength=picked.size).reshape(picked.shape).astype(np.float64)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def bootstrap_ratios(drawn: np.ndarray, numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Ratios of sums over each bootstrap sample: one matrix product. NaN where a sample holds nothing of a group.

    Args:
        drawn: how often each cluster occurs in each sample, as `multiplicities`. [B, P]
        numerators: of each cluster in each group, for example test points met. [P, G]
        denominators: what each cluster holds of each group, for example test points judged; its weight. [P, G]

    Returns:
        [B, G]
    """
    groups = numerators.shape[1]
    sums = drawn @ np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    return ratio(sums[:, :groups], sums[:, groups:])


class MeanInterval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    clusters: int
    """what was resampled"""


def bootstrap_mean(
    values: np.ndarray, clusters: Sequence[object] | np.ndarray | None = None, *, resamples: int = 10_000, seed: int = 0
) -> MeanInterval:
    """The mean of some values and its percentile interval; whole clusters are resampled, each value keeps its weight.

    Args:
        values: finite, at least one. [N]
        clusters: what each value belongs to; None makes each value a cluster of its own. [N]
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: the number of labels is not that of the values.
    """
    sums, sizes = cluster_sums(values, clusters)
    replicates = [
        bootstrap_ratios(drawn, sums[:, None], sizes[:, None])
        for drawn in multiplicity_blocks(len(sums), resamples, seed)
    ]
    low, high = np.quantile(np.concatenate(replicates), (0.025, 0.975))
    return MeanInterval(float(values.mean()), float(low), float(high), len(sums))


def cluster_sums(
    values: np.ndarray, clusters: Sequence[object] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(sum of the values, number of values) of each cluster; a value alone where there are no clusters. [N] -> [P], [P]

    Raises:
        ValueError: the number of labels is not that of the values.
    """
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} cluster labels for {len(values)} values")
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(labels, weights=values), np.bincount(labels).astype(np.float64)


def mean_of_present(rates: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the rates that are not NaN; NaN where there is none. [..., G] -> [...]"""
    present = ~np.isnan(rates)
    return ratio(np.where(present, rates, 0.0).sum(-1), present.sum(-1))


def interval(replicates: np.ndarray) -> tuple[float, float] | None:
    """The 2.5 % and 97.5 % points of the replicates that are not NaN; None where there is none. [B]"""
    finite = replicates[~np.isnan(replicates)]
    if finite.size == 0:
        return None
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def clustered_error(correct: np.ndarray, total: np.ndarray) -> float | None:
    """Standard error of the pooled rate sum(correct) / sum(total) where whole clusters were sampled.

    sqrt(C / (C - 1) * sum_g (correct_g - rate * total_g)^2) / sum(total), over the C clusters with anything counted.

    Args:
        correct, total: sums over each cluster. [C]

    Returns:
        None for fewer than two clusters: one says nothing of the spread between them.
    """
    return linear_error((correct - correct.sum() / max(total.sum(), 1) * total) / max(total.sum(), 1), total > 0)


def linear_error(influence: np.ndarray, counted: np.ndarray) -> float | None:
    """Standard error of a statistic from each cluster's influence on it (their sum is 0), C / (C - 1) corrected.

    Args:
        influence: of each cluster. [C]
        counted: which clusters hold anything. [C]
    """
    clusters = int(counted.sum())
    if clusters < 2:
        return None
    return float(np.sqrt(clusters / (clusters - 1) * (influence[counted] ** 2).sum()))


def swaps(n: int, draws: int, seed: int) -> tuple[np.ndarray, bool]:
    """Which of n prompts change sides in each permutation, 0 or 1, and whether these are all there are. [R, n]"""
    if n <= ENUMERATED:
        return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64), True
    return np.random.default_rng(seed).integers(0, 2, (draws, n)).astype(np.float64), False


def two_sided_p(observed: float, permuted: np.ndarray, *, exact: bool) -> float:
    """The share of permuted differences at least as far from 0 as the observed one.

    Drawn permutations count the observed one too: (1 + hits) / (1 + R), never 0 (Phipson and Smyth 2010).
    """
    hits = int((np.abs(permuted) >= abs(observed) - _TIE).sum())
    return hits / len(permuted) if exact else (1 + hits) / (1 + len(permuted))


def sign_flip_p(differences: Sequence[float] | np.ndarray, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a mean of paired differences being 0, by flipping their signs. [P]"""
    values = np.asarray(differences, np.float64)
    swapped, exact = swaps(len(values), draws, seed)
    return two_sided_p(values.sum(), (1 - 2 * swapped) @ values, exact=exact)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having looked at all of them (Holm 1979): never smaller, in the given order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact binomial p of two counts of disagreement being alike (McNemar 1947); 1 where there are none.

    Takes verdicts as independent, which those of one prompt are not: a description, not a test.
    """
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


class Agreement(NamedTuple):
    """How two judges answered the same test points; rates are shares in [0, 1]."""

    both: int
    only_first: int
    only_second: int
    neither: int
    observed: float | None
    """share of equal verdicts"""
    expected: float | None
    """share of equal verdicts if each judge said yes at its own rate, by chance"""
    kappa: float | None
    """Cohen's; None where chance alone explains full agreement"""
    pabak: float | None
    """2 observed - 1"""
    bias: float | None
    """the first judge's rate of yes less the second's"""


def agreement(both: int, only_first: int, only_second: int, neither: int) -> Agreement:
    """Cohen's kappa and its kin from the four counts of a 2 x 2 table."""
    n = both + only_first + only_second + neither
    if n == 0:
        return Agreement(0, 0, 0, 0, None, None, None, None, None)
    observed = (both + neither) / n
    first, second = (both + only_first) / n, (both + only_second) / n
    expected = first * second + (1 - first) * (1 - second)
    kappa = float(kappas(np.array([[both, only_first, only_second, neither]]))[0])
    return Agreement(
        both, only_first, only_second, neither, observed, expected,
        None if np.isnan(kappa) else kappa, 2 * observed - 1, first - second,
    )  # fmt: skip


def kappas(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa of many tables; NaN where chance agreement is 1.

    Args:
        counts: both yes, only the first, only the second, neither. [..., 4]

    Returns:
        [...]
    """
    both, first, second, neither = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    n = both + first + second + neither
    chance = (both + first) * (both + second) + (neither + first) * (neither + second)  # n^2 times p_e
    return ratio(n * (both + neither) - chance, n * n - chance)  # of whole numbers: exactly 0 where p_e is 1


def krippendorff_alpha(values: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal values, any number of raters, with gaps (Krippendorff 2011).

    Args:
        values: each rater's answer for each unit, NaN where there is none. [raters, units]

    Returns:
        None where fewer than two answers can be compared, or all of them are the same.
    """
    categories = np.unique(values[~np.isnan(values)])
    counts = (values[:, :, None] == categories).sum(0)  # [units, categories]
    answers = counts.sum(1)
    counts, answers = counts[answers > 1], answers[answers > 1]
    unequal = ((answers**2 - (counts**2).sum(1)) / (answers - 1)).sum()
    totals = counts.sum(0)
    n = int(totals.sum())
    chance = n * n - int((totals**2).sum())
    return None if chance == 0 else float(1 - (n - 1) * unequal / chance)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings of the same things; None where one of them ranks nothing."""
    x, y = (np.sign(np.subtract.outer(values, values)) for values in (np.asarray(first), np.asarray(second)))
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return None if scale == 0 else float((x * y).sum() / scale)


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float:
    """The rate of true yeses behind a judge's rate of yes, in [0, 1] (Rogan and Gladen 1978).

    Args:
        rate: share of yes the judge gave.
        sensitivity: share of yes it gives where yes is right.
        specificity: share of no it gives where no is right.

    Raises:
        ValueError: sensitivity + specificity - 1 < 0.2; the correction would blow up every error.
    """
    youden = sensitivity + specificity - 1
    if youden < LEAST_YOUDEN:
        raise ValueError(
            f"sensitivity {sensitivity:.3f} + specificity {specificity:.3f} - 1 = {youden:.3f}, below {LEAST_YOUDEN}: "
            "the judge tells right from wrong too poorly for its rate to be corrected"
        )
    return min(1.0, max(0.0, (rate + specificity - 1) / youden))
