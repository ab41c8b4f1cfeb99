"""Statistics of scores, by hand."""

from __future__ import annotations

import math

import pytest

from t2ialign.feedback.summary import shared_value, summarise_scores


def test_the_standard_error_of_single_images_is_the_usual_one():
    scores = [1.0, 2.0, 4.0]  # mean 7/3, s^2 = ((16 + 1 + 25) / 9) / 2 = 7/3; s / sqrt(3) = sqrt(7) / 3
    summary = summarise_scores(scores, ["a", "b", "c"])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.standard_error == pytest.approx(math.sqrt(7) / 3)
    assert (summary.low, summary.high, summary.scored, summary.failed) == (1.0, 4.0, 3, 0)


def test_copies_of_an_image_do_not_make_the_standard_error_smaller():
    once = summarise_scores([1.0, 2.0, 4.0], ["a", "b", "c"])
    twice = summarise_scores([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], ["a", "a", "b", "b", "c", "c"])
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_failed_images_are_counted_and_left_out_of_the_mean():
    summary = summarise_scores([1.0, None, 3.0, None], ["a", "b", "c", "d"])
    assert (summary.mean, summary.images, summary.scored, summary.failed) == (2.0, 4, 2, 2)
    nothing = summarise_scores([None, None], ["a", "b"])
    assert (nothing.mean, nothing.standard_error, nothing.failed) == (None, None, 2)


def test_a_constant_reward_is_recognised():
    assert shared_value([0.2, 0.2, None, 0.2]) == 0.2
    assert shared_value([0.2, 0.3]) is None
    assert shared_value([0.2]) is None
    assert shared_value([None, None]) is None
