"""Intervals, against closed forms and by simulation."""

import math

import numpy as np
import pytest

from t2ialign.statistics import Z_95, paired_bootstrap, prompts_for_mean, prompts_for_share, wilson


def test_interval_of_differences_equals_the_normal_one_on_large_samples():
    # the bootstrap's standard error tends to std / sqrt(n), so the bounds tend to mean -+ 1.96 std / sqrt(n)
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.3, 4000)
    aligned = base + rng.normal(0.05, 0.2, 4000)
    difference = paired_bootstrap(base, aligned)
    half = Z_95 * (aligned - base).std() / math.sqrt(4000)
    assert difference.mean == pytest.approx((aligned - base).mean())
    # 10,000 resamples place a 2.5 % quantile to about 2 % of the half width
    assert difference.low == pytest.approx(difference.mean - half, abs=0.06 * half)
    assert difference.high == pytest.approx(difference.mean + half, abs=0.06 * half)
    assert difference.n == 4000


def test_interval_of_two_pairs_by_hand():
    # differences 0 and 1: resampled means are 0, 1/2, 1 with 1/4, 1/2, 1/4, so both 2.5 % quantiles are the extremes
    assert paired_bootstrap([0.0, 0.0], [0.0, 1.0]) == (0.5, 0.0, 1.0, 2)


def test_a_constant_difference_has_no_width():
    mean, low, high, n = paired_bootstrap([0.25, 0.5, 1.0], [0.5, 0.75, 1.25])
    assert (mean, low, high, n) == (0.25, 0.25, 0.25, 3)


def test_pairing_removes_what_prompts_have_in_common():
    # prompts differ by 0.5, models by 0.01 +- 0.01: paired, the interval excludes 0; shuffled, it does not
    rng = np.random.default_rng(1)
    base = rng.normal(0, 0.5, 500)
    aligned = base + rng.normal(0.01, 0.01, 500)
    assert paired_bootstrap(base, aligned).low > 0
    assert paired_bootstrap(base, rng.permutation(aligned)).low < 0


def test_images_of_one_prompt_are_resampled_together():
    # 50 prompts with 4 identical images each: the interval of 50, not of 200, so twice as wide
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 1, 50).repeat(4)
    prompts = np.arange(50).repeat(4)
    clustered = paired_bootstrap(np.zeros(200), differences, clusters=prompts)
    once = paired_bootstrap(np.zeros(50), differences[::4])
    assert clustered == pytest.approx(once)
    naive = paired_bootstrap(np.zeros(200), differences)
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(2, abs=0.1)


def test_unequal_clusters_weigh_by_their_pairs():
    # one prompt with three images that gained 1, one with a single image that lost 1: mean (3 - 1) / 4;
    # resampled: (3, 3) -> 1, (1, 1) -> -1
    difference = paired_bootstrap([0] * 4, [1, 1, 1, -1], clusters=["a", "a", "a", "b"])
    assert difference == (0.5, -1.0, 1.0, 2)


def test_a_small_prompt_moves_the_interval_less_than_a_large_one():
    # 10 prompts with 19 images that gain 1, 10 with a single image that loses 1: a sample with k of the first kind has
    # the mean (19 k - (20 - k)) / (19 k + 20 - k), and k ~ binomial(20, 1/2) has its 2.5 % points at 6 and 14
    values = np.array([1.0] * 190 + [-1.0] * 10)
    prompts = np.concatenate([np.repeat(np.arange(10), 19), np.arange(10, 20)])
    difference = paired_bootstrap(np.zeros(200), values, clusters=prompts)
    means = [(19 * k - (20 - k)) / (19 * k + 20 - k) for k in (6, 14)]
    assert (difference.low, difference.high) == pytest.approx(means)


def test_the_95_percent_interval_covers_the_truth_about_95_percent_of_the_time():
    rng = np.random.default_rng(3)
    covered = 0
    for run in range(400):
        base = rng.random(60) < 0.6
        aligned = np.where(rng.random(60) < 0.3, rng.random(60) < 0.8, base)  # true difference 0.3 * (0.8 - 0.6)
        low, high = paired_bootstrap(base, aligned, resamples=400, seed=run)[1:3]
        covered += low <= 0.06 <= high
    assert 0.91 <= covered / 400 <= 0.98  # 0.95 +- 3 standard errors (0.011), less what a percentile interval loses


def test_the_same_numbers_give_the_same_interval():
    base, aligned = np.random.default_rng(4).random((2, 30))
    assert paired_bootstrap(base, aligned) == paired_bootstrap(list(base), list(aligned))
    assert paired_bootstrap(base, aligned, seed=1) != paired_bootstrap(base, aligned, seed=2)


@pytest.mark.parametrize(
    ("base", "aligned", "message"),
    [
        ([], [], "non-empty"),
        ([1.0], [1.0, 2.0], "equal"),
        ([[1.0], [2.0]], [[1.0], [3.0]], "two equal, non-empty lists"),
        ([1.0, math.nan, 2.0], [1.0, 2.0, math.inf], "2 of 3 pairs"),
    ],
)
def test_what_cannot_be_compared_is_refused(base, aligned, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(base, aligned)


def test_as_many_samples_are_drawn_as_asked_for():
    base, aligned = np.zeros(40), np.random.default_rng(0).normal(size=40)
    few, more = (paired_bootstrap(base, aligned, resamples=count) for count in (10, 1000))
    assert (few.low, few.high) != (more.low, more.high)


def test_wilson_bounds_solve_the_score_equation():
    # the bounds are the two p with |share - p| = z sqrt(p (1 - p) / n)
    for successes, n in [(1, 10), (7, 10), (412, 1000), (999, 1000)]:
        share, low, high, _ = wilson(successes, n)
        for bound in (low, high):
            assert abs(share - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / n), rel=1e-9)


def test_wilson_at_the_ends_by_hand():
    # 0 of n: p = z^2 / (n + z^2) is the upper bound
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, Z_95**2 / (10 + Z_95**2), 10))
    assert wilson(10, 10) == pytest.approx((1.0, 10 / (10 + Z_95**2), 1.0, 10))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, n)


def test_prompts_for_a_mean_by_hand():
    # (1.96 + 0.8416) * 0.3 / 0.05 = 16.81; squared 282.6
    assert prompts_for_mean(0.05, 0.3, power=0.8) == 283


def test_prompts_for_a_share_by_hand():
    # (1.96 sqrt 0.15 + 0.8416 sqrt 0.1475) / 0.05 = 21.65; squared 468.5
    assert prompts_for_share(0.10, 0.05, power=0.8) == 469


def test_the_promised_power_is_met():
    rng = np.random.default_rng(0)
    n = prompts_for_mean(0.1, 0.5, power=0.9)
    drawn = rng.normal(0.1, 0.5, (4000, n))
    shown = drawn.mean(1) > 1.96 * drawn.std(1, ddof=1) / n**0.5
    assert 0.88 < shown.mean() < 0.92  # 4000 draws: standard error 0.005


def test_the_promised_power_is_met_for_a_share():
    better, worse = 0.10, 0.05
    n = prompts_for_share(better, worse, power=0.9)
    counts = np.random.default_rng(0).multinomial(n, [better, worse, 1 - better - worse], 20000)
    won, lost = counts[:, 0], counts[:, 1]
    shown = (won - lost) / np.sqrt(won + lost) > 1.96  # McNemar's test, which Connor's formula is for
    assert 0.90 < shown.mean() < 0.915  # 20,000 draws: standard error 0.002; the formula errs on the safe side
