"""The statistics against numbers worked out by hand."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from unigenbench import statistics as stats


def test_clustered_error_by_hand():
    # clusters [1,1,0,0], [1,1,1,1], [0,0,0,1]: rate 7/12; sums less 4 * 7/12 are -1/3, 5/3, -4/3;
    # squares 1/9 + 25/9 + 16/9 = 42/9; sqrt(3/2 * 42/9) / 12 = sqrt(7) / 12 = 0.220479
    error = stats.clustered_error(np.array([2, 4, 1]), np.array([4, 4, 4]))
    assert error == pytest.approx(sqrt(7) / 12, abs=1e-12)
    assert error == pytest.approx(0.220479, abs=1e-6)


def test_clustered_error_needs_two_clusters_and_leaves_empty_ones_out():
    assert stats.clustered_error(np.array([2, 0]), np.array([4, 0])) is None
    assert stats.clustered_error(np.array([2, 4, 1, 0]), np.array([4, 4, 4, 0])) == pytest.approx(sqrt(7) / 12)


def test_clusters_of_one_test_point_count_and_two_are_enough():
    # 1, 0, 1: rate 2/3, squares 1/9 + 4/9 + 1/9; sqrt(3/2 * 6/9) / 3 = 1/3. 1, 0: sqrt(2 * 1/2) / 2
    assert stats.clustered_error(np.array([1, 0, 1]), np.array([1, 1, 1])) == pytest.approx(1 / 3)
    assert stats.clustered_error(np.array([1, 0]), np.array([1, 1])) == pytest.approx(1 / 2)


def test_a_ratio_over_nothing_is_no_number_whatever_is_above():
    found = stats.ratio(np.array([1.0, 0.0, 2.0]), np.array([0, 0, 4]))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 0.5])


def test_values_without_clusters_stand_alone_and_labels_must_be_as_many():
    sums, sizes = stats.cluster_sums(np.array([2.0, 3.0]))
    assert (sums.tolist(), sizes.tolist()) == ([2, 3], [1, 1])
    with pytest.raises(ValueError, match="3 cluster labels for 2 values"):
        stats.cluster_sums(np.array([2.0, 3.0]), [0, 0, 1])


def test_all_swaps_of_up_to_16_prompts_are_tried_once_and_of_17_some_are_drawn():
    found, exact = stats.swaps(16, 50, seed=0)
    assert exact
    assert len(np.unique(found @ 2.0 ** np.arange(16))) == len(found) == 2**16
    found, exact = stats.swaps(17, 50, seed=0)
    assert not exact
    assert found.shape == (50, 17)


def test_sign_flip_by_hand():
    # four differences of one: of 16 sign patterns 2 sum to +-4, 8 to +-2, 6 to 0; at least |2|: 10/16
    assert stats.sign_flip_p([1, 1, 1, -1, 0]) == 10 / 16


def test_drawn_sign_flips_come_near_to_all_of_them():
    differences = [1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1, -1, 1, 1]  # 20: too many to enumerate
    signs = np.array(list(product((-1, 1), repeat=10)))
    sums = np.add.outer(signs @ differences[:10], signs @ differences[10:])
    exact = (np.abs(sums) >= sum(differences)).mean()
    # the standard error of 10,000 draws at p = 0.012 is 0.0011
    assert stats.sign_flip_p(differences, draws=10_000, seed=1) == pytest.approx(exact, abs=0.004)


def test_no_difference_gives_p_of_one():
    assert stats.sign_flip_p([0.0] * 3) == 1.0
    assert stats.sign_flip_p([0.0] * 40) == 1.0


def test_mcnemar_by_hand():
    # 2 * (1 + 13 + 78 + 286) / 2^13 = 756 / 8192
    assert stats.mcnemar_p(10, 3) == 756 / 8192
    assert stats.mcnemar_p(3, 10) == 756 / 8192
    assert round(stats.mcnemar_p(10, 3), 4) == 0.0923
    assert stats.mcnemar_p(0, 0) == 1.0
    assert stats.mcnemar_p(2, 2) == 1.0


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.4, times 4 3 2 1: 0.04 0.06 0.06 0.4
    assert stats.holm([0.02, 0.4, 0.01, 0.03]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    # 0.015 * 2 = 0.03 would come before 0.02 * 2: adjusted values never fall
    assert stats.holm([0.015, 0.02]) == pytest.approx([0.03, 0.03])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_kappa_by_hand():
    # A = 1 1 0 0 1 0 1 1, B = 1 0 0 0 1 1 1 1: both 4, only A 1, only B 1, neither 2;
    # p_o = 6/8, p_e = (5/8)^2 + (3/8)^2 = 34/64, kappa = (48 - 34) / (64 - 34) = 14/30
    found = stats.agreement(4, 1, 1, 2)
    assert found.observed == 0.75
    assert found.expected == 0.53125
    assert found.kappa == pytest.approx(14 / 30)
    assert round(found.kappa or 0, 6) == 0.466667
    assert found.pabak == 0.5
    assert found.bias == 0.0


def test_kappa_is_undefined_where_both_judges_always_say_the_same():
    assert stats.agreement(8, 0, 0, 0).kappa is None
    assert stats.agreement(0, 0, 0, 8).kappa is None
    assert stats.agreement(0, 0, 0, 0) == (0, 0, 0, 0, None, None, None, None, None)


def test_kappa_of_tables_of_any_shape():
    tables = np.array([[[4, 1, 1, 2], [8, 0, 0, 0]], [[0, 0, 0, 0], [10**6, 1, 0, 0]], [[0, 2, 2, 0], [1, 0, 0, 1]]])
    found = stats.kappas(tables)
    np.testing.assert_allclose(found, [[14 / 30, np.nan], [np.nan, 0], [-1, 1]], rtol=1e-12)


def test_bias_is_the_first_rate_less_the_second():
    assert stats.agreement(2, 3, 1, 4).bias == pytest.approx(0.5 - 0.3)


def test_alpha_of_two_raters_by_hand():
    # Krippendorff 2011: units (0,1) (1,1) (0,1) (0,0) (0,0) (0,1) (0,0) (0,0) (1,0) (0,0): 4 of 10 unequal;
    # 20 answers, 14 zeros and 6 ones: 1 - 19 * (2 * 4) / (2 * 14 * 6) = 1 - 152/168
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    alpha = stats.krippendorff_alpha(np.array([first, second], float))
    assert alpha == pytest.approx(1 - 152 / 168)


def test_alpha_of_four_raters_with_gaps_as_published():
    # the worked example of Krippendorff 2011, nominal: alpha = 0.743
    nan = np.nan
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert stats.krippendorff_alpha(np.array(raters)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_undefined_without_variety():
    assert stats.krippendorff_alpha(np.ones((3, 4))) is None
    assert stats.krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 0.0]])) is None


def test_kendall_tau_by_hand():
    # of six pairs, five in the same order and one in the other: (5 - 1) / 6
    assert stats.kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert stats.kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    # a tie on one side: pairs (+,+) (+,+) (+,0): 2 / sqrt(3 * 2)
    assert stats.kendall_tau([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / sqrt(6))
    assert stats.kendall_tau([1, 1], [1, 2]) is None


def test_rogan_gladen_by_hand():
    # of 100, 40 truly yes: a judge of sensitivity 0.9 and specificity 0.8 says yes 36 + 12 times
    assert stats.rogan_gladen(0.48, 0.9, 0.8) == pytest.approx(0.4)
    assert stats.rogan_gladen(0.1, 0.9, 0.8) == 0.0  # below its rate of false yeses
    assert stats.rogan_gladen(0.95, 0.9, 0.8) == 1.0


def test_rogan_gladen_refuses_a_judge_that_tells_little():
    with pytest.raises(ValueError, match=r"too poorly"):
        stats.rogan_gladen(0.5, 0.6, 0.59)
    assert stats.rogan_gladen(0.5, 0.6, 0.6 + 1e-9) == pytest.approx(0.5, abs=1e-6)


def test_bootstrap_is_what_resampling_prompts_one_by_one_gives():
    rng = np.random.default_rng(3)
    total = rng.integers(0, 5, (12, 4))
    correct = rng.binomial(total, 0.6)
    drawn = stats.multiplicities(12, 50, seed=7)
    assert (drawn.sum(1) == 12).all()
    rates = stats.bootstrap_ratios(drawn, correct, total)
    for draw, row in zip(drawn.astype(int), rates, strict=True):
        picked = np.repeat(np.arange(12), draw)
        np.testing.assert_allclose(row, correct[picked].sum(0) / total[picked].sum(0), rtol=1e-12)


def test_bootstrap_is_reproducible_by_seed_and_covers_the_binomial_spread():
    correct, total = np.tile([[1], [0]], (200, 1)), np.ones((400, 1))
    found, again = (
        stats.interval(stats.bootstrap_ratios(stats.multiplicities(400, 4000, seed=0), correct, total)[:, 0])
        for _ in range(2)
    )
    # 1.96 * sqrt(0.25 / 400) = 0.049
    assert found == pytest.approx((0.451, 0.549), abs=0.004)
    assert again == found


def pooled(sums, sizes, axis=-1):
    return sums.sum(axis) / sizes.sum(axis)


def test_the_bootstrap_of_unequal_clusters_is_that_of_scipy():
    # scipy resamples (sum, size) of each cluster from the same generator, so that even the draws are the same
    rng = np.random.default_rng(5)
    clusters = rng.integers(0, 30, 120)
    values = rng.normal(0.1 * clusters, 1)
    sums, sizes = stats.cluster_sums(values, clusters)
    assert sizes.min() < sizes.max()
    oracle = scipy.stats.bootstrap(
        (sums, sizes), pooled, n_resamples=3000, paired=True, method="percentile", rng=np.random.default_rng(11)
    )
    found = stats.bootstrap_mean(values, clusters, resamples=3000, seed=11)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval), rel=1e-12)
    # the drawn multiplicities of `multiplicities` are other samples: 40,000 of each agree to 2 % of the width
    drawn = stats.multiplicities(30, 40_000, seed=1)
    low, high = stats.interval(stats.bootstrap_ratios(drawn, sums[:, None], sizes[:, None])[:, 0]) or (0, 0)
    width = found.high - found.low
    many = stats.bootstrap_mean(values, clusters, resamples=40_000, seed=1)
    assert (low, high) == pytest.approx((many.low, many.high), abs=0.02 * width)


def test_a_cluster_weighs_what_it_holds():
    # three prompts of 1, 2 and 9 images that score 0, 0 and 1: drawn (1, 1, 9) the mean is 9/11; equal weights give 1/3
    sums, sizes = np.array([[0.0], [0.0], [9.0]]), np.array([[1.0], [2.0], [9.0]])
    drawn = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, 2.0]])
    rates = stats.bootstrap_ratios(drawn, sums, sizes)[:, 0]
    assert rates == pytest.approx([9 / 11, 9 / 13, 9 / 12, 18 / 19])
    found = stats.bootstrap_mean(np.array([0.0] * 3 + [1.0] * 9), [0, 1, 1] + [2] * 9)
    assert (found.mean, found.low, found.high, found.clusters) == (0.75, 0.0, 1.0, 3)


def test_blocks_draw_every_sample_once_and_whole(monkeypatch):
    whole = np.concatenate(list(stats.multiplicity_blocks(7, 50, seed=3)))
    monkeypatch.setattr(stats, "_BLOCK", 30)
    parts = list(stats.multiplicity_blocks(7, 50, seed=3))
    assert [len(part) for part in parts] == [4] * 12 + [2]
    assert (np.concatenate(parts) == whole).all()
    assert (whole.sum(1) == 7).all()


def test_a_sample_without_test_points_is_not_a_zero():
    rates = stats.bootstrap_ratios(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[1], [0]]), np.array([[1], [0]]))
    assert rates[0, 0] == 1.0
    assert np.isnan(rates[1, 0])
    assert stats.interval(rates[:, 0]) == (1.0, 1.0)
    assert stats.mean_of_present(np.array([[0.5, np.nan, 1.0], [np.nan] * 3]))[0] == 0.75
    assert np.isnan(stats.mean_of_present(np.array([[np.nan] * 3]))[0])


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_swapping_the_judges_keeps_kappa_and_turns_the_bias(counts):
    both, first, second, neither = counts
    one, other = stats.agreement(both, first, second, neither), stats.agreement(both, second, first, neither)
    assert one.kappa == pytest.approx(other.kappa)
    if sum(counts):
        assert one.bias == pytest.approx(-(other.bias or 0))
