"""Win rates and advantages by hand: strict orders, ties, missing verdicts, scales, several rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2ialign.config.online import AdvantageConfig
from t2ialign.rollouts.advantages import (
    advantages,
    best_and_worst,
    combine,
    global_moments,
    standard_deviation,
    strict_order_std,
    win_rates,
    win_rates_of_verdicts,
)

NAN = float("nan")
PAPER = torch.tensor([[0.3457, 0.3530, 0.3496, 0.3494]], dtype=torch.float64)


def config(**keys: Any) -> AdvantageConfig:
    return AdvantageConfig.model_validate(keys)


def test_win_rates_of_three_images_by_hand():
    # 1 > 2 twice, 1 ~ 3, 2 < 3: (1 + 1/2) / 2, 0 / 2, (1/2 + 1) / 2
    verdicts = torch.tensor([[[NAN, 1.0, 0.5], [0.0, NAN, 0.0], [0.5, 1.0, NAN]]])
    assert win_rates_of_verdicts(verdicts).tolist() == [[0.75, 0.0, 0.75]]
    assert win_rates(torch.tensor([[3.0, 1.0, 3.0]])).tolist() == [[0.75, 0.0, 0.75]]


def test_an_image_without_any_verdict_has_no_win_rate_and_is_nobodys_loss():
    verdicts = torch.full((1, 3, 3), NAN)
    verdicts[0, 0, 1], verdicts[0, 1, 0] = 0.9, 0.1
    found = win_rates_of_verdicts(verdicts)
    assert found[0, :2].tolist() == pytest.approx([0.9, 0.1])
    assert found[0, 2].isnan()
    assert win_rates(torch.tensor([[3.0, 1.0, NAN]]))[0, :2].tolist() == [1.0, 0.0]


def test_scores_within_the_margin_are_ties():
    assert win_rates(torch.tensor([[0.0, 0.1, 1.0]]), tie_margin=0.5).tolist() == [[0.25, 0.25, 1.0]]


@given(st.integers(2, 16))
def test_a_strict_order_has_the_stated_standard_deviation(images: int):
    rates = win_rates(torch.arange(images, dtype=torch.float64)[None])
    assert rates.mean().item() == pytest.approx(0.5)
    assert rates.std(correction=0).item() == pytest.approx(strict_order_std(images))


def test_the_papers_group_has_its_z_scores():
    # Pref-GRPO's example: HPS scores, and the judge's win rates of the same images
    found = advantages(PAPER, config(scale="group_std", epsilon=1e-12), are_win_rates=False)
    assert [round(value, 2) for value in found[0].tolist()] == [-1.44, 1.38, 0.07, -0.01]
    rates = torch.tensor([[0.0, 2 / 3, 1.0, 1 / 3]], dtype=torch.float64)
    found = advantages(rates, config(of="win_rate", scale="group_std", epsilon=1e-12), are_win_rates=True)
    assert [round(value, 2) for value in found[0].tolist()] == [-1.34, 0.45, 1.34, -0.45]


def test_global_std_keeps_an_indifferent_group_small():
    scores = torch.tensor([[0.0, 1.0], [0.5, 0.5001]], dtype=torch.float64)
    found = advantages(scores, config(scale="global_std"), are_win_rates=False)
    deviation = scores.std(correction=0).item()
    assert found[0].tolist() == pytest.approx([-0.5 / (deviation + 1e-4), 0.5 / (deviation + 1e-4)])
    assert found[1].abs().max() < 2e-4
    by_group = advantages(scores, config(scale="group_std", epsilon=1e-9), are_win_rates=False)
    assert by_group.abs().flatten().tolist() == pytest.approx([1.0] * 4, rel=1e-4)


def test_moments_of_processes_add_up():
    scores = torch.tensor([[0.0, 1.0, NAN], [4.0, 2.0, 5.0]])
    parts = global_moments(scores[:1]) + global_moments(scores[1:])
    assert parts.tolist() == global_moments(scores).tolist()
    assert standard_deviation(parts) == pytest.approx(torch.tensor([0.0, 1, 4, 2, 5]).std(correction=0).item())
    assert standard_deviation(torch.zeros(3)) == 0
    whole = advantages(scores, config(), are_win_rates=False)
    alone = advantages(scores[1:], config(), are_win_rates=False, moments=parts)
    torch.testing.assert_close(whole[1:], alone)


def test_a_fixed_scale_of_one_half_gives_2w_minus_1_and_the_default_a_strict_orders():
    rates = torch.tensor([[1.0, 0.25, NAN]])
    found = advantages(rates, config(of="win_rate", scale="fixed", fixed_scale=0.5), are_win_rates=True)
    assert found[0, :2].tolist() == [1.0, -0.5]
    found = advantages(rates, config(of="win_rate", scale="fixed"), are_win_rates=True)
    assert found[0, 0].item() == pytest.approx(0.5 / strict_order_std(3))


@pytest.mark.parametrize("scale", ["group_std", "global_std", "fixed"])
def test_equal_values_have_no_advantage_and_missing_ones_stay_missing(scale: str):
    keys = {"scale": scale, "of": "win_rate"} if scale == "fixed" else {"scale": scale}
    found = advantages(torch.tensor([[0.5, 0.5, NAN], [NAN, NAN, 0.5]]), config(**keys), are_win_rates=True)
    assert found[0, :2].tolist() == [0.0, 0.0]
    assert found[0, 2].isnan()
    assert found[1].isnan().all()  # nothing to compare with


@given(
    st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=4),
    st.permutations(range(4)),
    st.sampled_from(["group_std", "global_std"]),
)
def test_advantages_sum_to_0_are_bounded_and_follow_a_permutation(rows: list, order: list, scale: str):
    scores = torch.tensor(rows, dtype=torch.float64)
    keys = config(scale=scale, clip=1e6)
    found = advantages(scores, keys, are_win_rates=False)
    assert found.sum(1).abs().max() < 1e-6
    torch.testing.assert_close(advantages(scores[:, order], keys, are_win_rates=False), found[:, order])
    assert advantages(scores, config(scale=scale, clip=0.5), are_win_rates=False).abs().max() <= 0.5


def test_several_rewards_are_averaged_by_weight_after_each_is_normalised():
    first, second = torch.tensor([[1.0, -1.0, NAN]]), torch.tensor([[0.5, 0.5, 1.0]])
    found = combine([first, second], [3.0, -1.0])
    assert found[0, :2].tolist() == [0.75 - 0.125, -0.75 - 0.125]
    assert found[0, 2].isnan()


def test_a_reward_without_a_say_in_a_group_does_not_count_there():
    first, second = torch.tensor([[1.0, -1.0], [NAN, NAN]]), torch.tensor([[NAN, NAN], [NAN, NAN]])
    found = combine([first, second], [3.0, -1.0])
    assert found[0].tolist() == [1.0, -1.0]
    assert found[1].isnan().all()


def test_a_fixed_scale_of_scores_must_be_stated_and_belongs_to_fixed():
    with pytest.raises(ValueError, match="needs fixed_scale, in their units"):
        config(scale="fixed")
    with pytest.raises(ValueError, match="fixed_scale is of scale: fixed, and scale is group_std"):
        config(scale="group_std", fixed_scale=1.0)
    assert isinstance(advantages(PAPER, config(scale="fixed", fixed_scale=0.01), are_win_rates=False), Tensor)


def test_the_best_and_the_worst_of_a_group_by_hand():
    group = torch.tensor([[0.3, -1.0, 2.0, 0.1, -0.5, 0.2]])
    assert sorted(best_and_worst(group, 4)[0].tolist()) == [0, 1, 2, 4]
    assert best_and_worst(group, 6)[0].tolist() == [1, 4, 3, 5, 0, 2]


@given(st.lists(st.one_of(st.just(NAN), st.integers(-3, 3)), min_size=2, max_size=9), st.data())
def test_nothing_that_is_left_out_is_better_than_the_best_or_worse_than_the_worst(values: list, data: st.DataObject):
    count = 2 * data.draw(st.integers(1, len(values) // 2))
    group = torch.tensor([values], dtype=torch.float64)
    places = best_and_worst(group, count)[0]
    assert len(set(places.tolist())) == count
    left = torch.ones(len(values), dtype=torch.bool)
    left[places] = False
    rest, taken = group[0, left], group[0, places]
    found = rest[rest.isfinite()]
    if len(found):  # then no missing one was taken
        assert taken.isfinite().all()
        assert taken[: count // 2].max() <= found.min()
        assert taken[count // 2 :].min() >= found.max()
