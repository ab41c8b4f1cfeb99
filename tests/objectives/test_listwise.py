"""Plackett-Luce and LiPO-lambda against values derived by hand; two views against dpo."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from of_errors import errors, outcome, tensor

from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.objectives.listwise import DiffusionLPO, LiPO, lipo_loss, plackett_luce_loss, relative_labels


def differences(scores: torch.Tensor) -> torch.Tensor:
    """s_j - s_k. [N, K, K]"""
    return scores[:, :, None] - scores[:, None, :]


SCORES = tensor([2.0, 0.5, -1.0])
MARGINS = differences(SCORES)
LABELS = tensor([1.0, 0.5, 0.0])
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_plackett_luce_by_hand():
    # ln(1 + e^-1.5 + e^-3) + ln(1 + e^-1.5) + 0
    expected = math.log(1 + math.exp(-1.5) + math.exp(-3)) + math.log1p(math.exp(-1.5))
    assert plackett_luce_loss(MARGINS, ALL).item() == pytest.approx(expected)
    assert expected == pytest.approx(0.442725, abs=1e-6)


def test_plackett_luce_is_a_distribution_over_rankings():
    scores = tensor([0.3, -1.2, 2.0, 0.7])
    mask = torch.ones(1, 4, dtype=torch.bool)
    rankings = [differences(scores[:, list(order)]) for order in itertools.permutations(range(4))]
    total = sum(math.exp(-plackett_luce_loss(margins, mask).item()) for margins in rankings)
    assert total == pytest.approx(1)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_equal_scores_leave_the_logarithm_of_the_number_of_rankings(views: int):
    loss = plackett_luce_loss(torch.zeros(1, views, views), torch.ones(1, views, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(math.factorial(views)), rel=1e-6)


def test_lipo_by_hand():
    # gains 2^psi - 1 = 1, 0.414214, 0; discounts 1/ln 2, 1/ln 3, 1/ln 4 = 1.442695, 0.910239, 0.721348
    found = lipo_loss(MARGINS, LABELS, ALL)
    gains, discounts = [1.0, math.sqrt(2) - 1, 0.0], [1 / math.log(1 + place) for place in (1, 2, 3)]
    expected = {
        (i, j): abs(gains[i] - gains[j]) * abs(discounts[i] - discounts[j]) for i, j in ((0, 1), (0, 2), (1, 2))
    }
    assert list(expected.values()) == pytest.approx([0.311905, 0.721348, 0.078242], abs=1e-6)
    for (i, j), weight in expected.items():
        assert found.weights[0, i, j].item() == pytest.approx(weight)
        assert found.weights[0, j, i] == 0
    steps = {(0, 1): 1.5, (0, 2): 3.0, (1, 2): 1.5}
    total = sum(weight * math.log1p(math.exp(-steps[pair])) for pair, weight in expected.items())
    assert found.loss.item() == pytest.approx(total)
    assert total == pytest.approx(0.113629, abs=1e-6)


def test_places_follow_the_scores_and_not_the_labels():
    # reversed scores: the best label stands third, so the outer pair keeps its weight and the inner ones change places
    found = lipo_loss(differences(SCORES.flip(1)), LABELS, ALL).weights[0]
    discounts = [1 / math.log(4), 1 / math.log(3), 1 / math.log(2)]
    root = math.sqrt(2)
    assert found[0, 1].item() == pytest.approx((2 - root) * (discounts[1] - discounts[0]))
    assert found[0, 2].item() == pytest.approx(1 * (discounts[2] - discounts[0]))
    assert found[1, 2].item() == pytest.approx((root - 1) * (discounts[2] - discounts[1]))


def test_equal_scores_are_placed_as_the_views_are():
    ordered = lipo_loss(MARGINS, LABELS, ALL).weights
    torch.testing.assert_close(lipo_loss(torch.zeros_like(MARGINS), LABELS, ALL).weights, ordered)


def test_absent_views_take_no_place():
    # the absent view has the highest score; the other three are placed as without it
    margins = differences(tensor([2.0, 0.5, -1.0, 9.0]))
    mask = torch.tensor([[True, True, True, False]])
    found = lipo_loss(margins, tensor([1.0, 0.5, 0.0, 0.0]), mask).weights
    torch.testing.assert_close(found[:, :3, :3], lipo_loss(MARGINS, LABELS, ALL).weights)
    assert not found[:, 3].any()
    assert not found[:, :, 3].any()


def test_normalised_weights_add_up_to_one():
    found = lipo_loss(MARGINS, LABELS, ALL, normalise=True)
    plain = lipo_loss(MARGINS, LABELS, ALL)
    assert found.weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found.loss, plain.loss / plain.weights.sum())


def test_labels_are_brought_to_0_and_1_within_a_list():
    labels = tensor([7.0, 5.0, 3.0, 99.0], [2.0, 2.0, 2.0, 2.0])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    assert relative_labels(labels, mask).tolist() == [[1, 0.5, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1.0, 40.0, 4000.0])
def test_two_views_are_dpo_to_the_bit(beta: float, dtype: torch.dtype):
    # margins of -30 to 30, and of errors as networks have them; softplus and log-sigmoid part ways above 20
    margins = torch.linspace(-30, 30, 241, dtype=torch.float64)
    wide = torch.stack([0.3 - margins / beta, 0.3 + margins / beta], 1)
    policy = torch.cat([wide, errors(16, 2, seed=3)]).to(dtype).requires_grad_()
    reference = torch.cat([torch.full_like(wide, 0.3), errors(16, 2, seed=4)]).to(dtype)
    scores = torch.tensor([[0.9, 0.3]], dtype=dtype).expand(len(policy), 2)
    expected = outcome(DiffusionDPO(beta=beta), policy, reference)
    (gradient,) = torch.autograd.grad(expected.losses.sum(), policy)
    assert expected.metrics["margin"].max() > 29
    for objective in (DiffusionLPO(beta=beta), LiPO(beta=beta)):
        found = outcome(objective, policy, reference, scores=scores)
        assert torch.equal(found.losses, expected.losses)
        assert torch.equal(torch.autograd.grad(found.losses.sum(), policy)[0], gradient)
        for key, value in found.metrics.items():
            torch.testing.assert_close(value, expected.metrics[key].to(value), msg=key)


def test_the_papers_sum_of_two_views_is_dpo_times_their_weight():
    # labels 1 and 0: |1 - 0| * (1/ln 2 - 1/ln 3) = 0.532455
    policy, reference = errors(4, 2, seed=3), errors(4, 2, seed=4)
    scores = tensor([0.9, 0.3]).expand(4, 2)
    found = outcome(LiPO(beta=20, normalise=False), policy, reference, scores=scores).losses
    expected = outcome(DiffusionDPO(beta=20), policy, reference).losses
    torch.testing.assert_close(found, (1 / math.log(2) - 1 / math.log(3)) * expected)


@pytest.mark.parametrize("objective", [DiffusionLPO(beta=20), LiPO(beta=20), LiPO(beta=20, normalise=False)])
def test_absent_views_change_nothing(objective: DiffusionLPO | LiPO):
    policy, reference, labels = errors(3, 3, seed=0), errors(3, 3, seed=1), tensor([3.0, 2.0, 1.0]).expand(3, 3)
    padded = [
        torch.cat([values, values.new_full((3, 2), filler)], 1) for values, filler in ((policy, 9.0), (labels, 0))
    ]
    padded[0].requires_grad_()
    mask = torch.tensor([[True] * 3 + [False] * 2] * 3)
    wide = torch.cat([reference, torch.zeros(3, 2)], 1)
    expected = outcome(objective, policy, reference, scores=labels)
    found = outcome(objective, padded[0], wide, scores=padded[1], mask=mask)
    torch.testing.assert_close(found.losses, expected.losses)
    for key, value in expected.metrics.items():
        torch.testing.assert_close(found.metrics[key], value, msg=key)
    (gradient,) = torch.autograd.grad(found.losses.sum(), padded[0])
    assert gradient.isfinite().all()
    assert not gradient[:, 3:].any()
    assert gradient[:, :3].all()


def test_lists_of_several_lengths_share_a_batch():
    policy, reference = errors(2, 3, seed=0), errors(2, 3, seed=1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = outcome(DiffusionLPO(beta=20), policy, reference, mask=mask).losses
    three = outcome(DiffusionLPO(beta=20), policy[:1], reference[:1]).losses
    two = outcome(DiffusionLPO(beta=20), policy[1:, :2], reference[1:, :2]).losses
    torch.testing.assert_close(found, torch.cat([three, two]))


def test_a_list_whose_labels_are_all_equal_does_not_count():
    output = outcome(
        LiPO(beta=20), errors(2, 3, seed=0), errors(2, 3, seed=1), scores=tensor([1.0, 1.0, 1.0], [3.0, 2.0, 1.0])
    )
    assert output.weights.tolist() == [0, 1]
    assert output.losses[0] == 0


def test_the_best_view_is_pulled_down_and_the_worst_pushed_up():
    for objective in (DiffusionLPO(beta=3), LiPO(beta=3)):
        policy = errors(5, 4, seed=5).requires_grad_()
        labels = tensor([4.0, 3.0, 2.0, 1.0]).expand(5, 4)
        outcome(objective, policy, errors(5, 4, seed=6), scores=labels).losses.sum().backward()
        assert policy.grad is not None
        assert (policy.grad[:, 0] > 0).all()
        assert (policy.grad[:, -1] < 0).all()


def test_lipo_without_scores_says_so():
    with pytest.raises(ValueError, match="needs scores"):
        outcome(LiPO(beta=1), errors(1, 3, seed=0), errors(1, 3, seed=1))
