"""Label smoothing, the SFT term, the winner-preserving scale and the bounded loser, against values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from of_errors import errors, outcome, tensor
from pydantic import ValidationError

from t2ialign.objectives.dpo import DiffusionDPO, diffusion_dpo_loss, preserve_winner, score_weight
from t2ialign.schedules import VPSchedule
from t2ialign.types import Batch, Conditioning, Noised, Prediction

POLICY, REFERENCE = tensor([0.100, 0.120]), tensor([0.101, 0.1195])
"""At beta 2000: margin -1000 * ((0.100 - 0.101) - (0.120 - 0.1195)) = 1.5."""


def test_label_smoothing_by_hand():
    # ln(1 + e^-1.5) = 0.201413, and 1.5 more for the flipped label: 0.9 * 0.201413 + 0.1 * 1.701413
    found = diffusion_dpo_loss(POLICY, REFERENCE, 2000, label_smoothing=0.1)
    expected = 0.9 * math.log1p(math.exp(-1.5)) + 0.1 * math.log1p(math.exp(1.5))
    assert found.loss.item() == pytest.approx(expected)
    assert found.loss.item() == pytest.approx(0.351413, abs=1e-6)


def test_with_label_smoothing_the_loss_is_least_where_the_sigmoid_is_the_share_of_right_labels():
    # d/dm [-(1 - e) ln s(m) - e ln s(-m)] = s(m) - (1 - e): 0 at m = ln((1 - e) / e) = ln 9 for e = 0.1
    change = tensor([-math.log(9), 0.0]).requires_grad_()  # beta 2: the margin is minus the chosen one's change
    loss = diffusion_dpo_loss(change, torch.zeros_like(change), 2.0, label_smoothing=0.1).loss
    (gradient,) = torch.autograd.grad(loss.sum(), change)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_with_label_smoothing_no_pair_is_saturated():
    # margin 10: s(10) - 0.9, a tenth of a unit of loss per unit of margin
    policy = tensor([-10.0, 0.0])
    assert outcome(DiffusionDPO(beta=2), policy, torch.zeros_like(policy)).metrics["saturated"].item() == 1
    smoothed = outcome(DiffusionDPO(beta=2, label_smoothing=0.1), policy, torch.zeros_like(policy))
    assert smoothed.metrics["margin"].item() == 10
    assert smoothed.metrics["saturated"].item() == 0


def test_the_sft_term_adds_the_chosen_error():
    plain = outcome(DiffusionDPO(beta=2000), POLICY, REFERENCE)
    mixed = outcome(DiffusionDPO(beta=2000, sft_weight=3.0), POLICY, REFERENCE)
    torch.testing.assert_close(mixed.losses - plain.losses, torch.tensor([3 * 0.100], dtype=torch.float64))
    assert mixed.metrics["margin"] == plain.metrics["margin"]


def test_a_bounded_loser_adds_no_more_than_its_bound_and_has_no_gradient_beyond():
    # beta 2000: the rejected view adds 1000 * 0.01 = 10 to the margin, bounded by 4; the chosen one 1000 * 0.001 = 1
    policy = tensor([0.100, 0.130]).requires_grad_()
    found = diffusion_dpo_loss(policy, tensor([0.101, 0.120]), 2000, rejected_bound=4.0)
    assert found.margin.item() == pytest.approx(5.0)
    found.loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0, 1] == 0
    assert policy.grad[0, 0].item() == pytest.approx(1000 / (1 + math.exp(5.0)))


def test_below_its_bound_a_loser_is_unbounded():
    free = diffusion_dpo_loss(POLICY, REFERENCE, 2000)  # the rejected view adds 1000 * 0.0005 = 0.5
    torch.testing.assert_close(diffusion_dpo_loss(POLICY, REFERENCE, 2000, rejected_bound=0.6), free)
    bounded = diffusion_dpo_loss(POLICY, REFERENCE, 2000, rejected_bound=0.25)
    assert bounded.margin.item() == pytest.approx(1.5 - 0.5 + 0.25)


def residuals(chosen: list[float], rejected: list[float]) -> torch.Tensor:
    return tensor(chosen, rejected).view(1, 2, 1, 1, -1)


@pytest.mark.parametrize(
    ("rejected", "mu", "scale"),
    [
        ([2.0, 0.0], 0.5, 0.25),  # g_w . g_l = 2, ||g_w||^2 = 1: (1 - 0.5) * 1 / 2
        ([2.0, 5.0], 0.0, 0.5),  # what is orthogonal to g_w does not count: 1 / 2
        ([0.5, 0.0], 0.2, 1.0),  # (1 - 0.2) * 1 / 0.5 = 1.6, at most 1
        ([-3.0, 0.0], 0.9, 1.0),  # the two do not conflict
        ([0.0, 2.0], 0.9, 1.0),
        ([1.0, 0.0], 1.0, 0.0),  # all of the chosen one's descent is kept
    ],
)
def test_the_winner_preserving_scale_by_hand(rejected: list[float], mu: float, scale: float):
    error = tensor([0.3, 0.4]).requires_grad_()
    held = preserve_winner(error, residuals([1.0, 0.0], rejected), mu)
    torch.testing.assert_close(held, error, msg="values stay")
    held.sum().backward()
    torch.testing.assert_close(error.grad, tensor([1.0, scale]))


def test_a_step_in_the_networks_output_leaves_the_winner_its_share():
    # moving the output against the gradient of the whole loss lowers the chosen error by at least mu of what it would
    # fall by alone: d error_w = -2/D r_w . step
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(64, 2, 4, 2, 2, dtype=torch.float64)
    shared = torch.randn(64, 1, 4, 2, 2, generator=generator, dtype=torch.float64)
    policy = (shared + 0.5 * torch.randn(64, 2, 4, 2, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    noised = Noised(target, target, target, torch.zeros(64, 2, dtype=torch.int64))
    schedule = VPSchedule(torch.tensor([0.64], dtype=torch.float64), "epsilon", 1.0)
    made = Prediction(policy, target + 0.1, noised, schedule)
    rows = Batch(torch.arange(64), torch.arange(64), target, Conditioning(torch.zeros(64, 1, 1, 1)))
    kept = {}
    for mu in (None, 0.3):
        output = DiffusionDPO(beta=2.0, winner_preserving=mu)(made, rows)
        (gradient,) = torch.autograd.grad(output.losses.sum(), policy, retain_graph=True)
        # the chosen view's own part, and the rejected view's part moved into the same shared output
        own, other = gradient.unbind(1)
        direction = policy.detach()[:, 0]
        kept[mu] = ((own + other) * direction).flatten(1).sum(1) / (own * direction).flatten(1).sum(1)
    assert kept[None].min() < 0, "without the scale some pairs raise the chosen error"
    assert kept[0.3].min() >= 0.3 - 1e-9


def test_the_winner_preserving_scale_is_a_pairs_own():
    policy, reference = errors(6, 2, seed=0), errors(6, 2, seed=1)
    objective = DiffusionDPO(beta=30.0, winner_preserving=0.5)
    whole = outcome(objective, policy, reference).losses
    rows = [outcome(objective, policy[i : i + 1], reference[i : i + 1]).losses for i in range(6)]
    torch.testing.assert_close(torch.cat(rows), whole)


@pytest.mark.parametrize(
    "key",
    [
        ("label_smoothing", 0.5),
        ("label_smoothing", -0.1),
        ("sft_weight", -1),
        ("rejected_bound", 0),
        ("winner_preserving", 1.5),
        ("beta", 0),
    ],
)
def test_keys_out_of_range_are_refused(key: tuple[str, float]):
    with pytest.raises(ValidationError, match=key[0]):
        DiffusionDPO.model_validate({"beta": 1.0, **dict([key])})


# scores as smoothed labels (SmPO)

PICKSCORE = 0.28201571106910706 - 0.11543526500463486
"""The range of PickScore's cosine by which the released code divides."""


def smoothed(**keys: object) -> DiffusionDPO:
    return DiffusionDPO.model_validate({"beta": 2000, "score_weight": {"score_range": PICKSCORE, **keys}})


@pytest.mark.parametrize(
    ("gap", "weight"),
    [(0.002, 0.060), (0.005, 0.150), (0.01, 0.300), (0.02, 0.600), (0.0334, 1.0), (0.05, 1.490), (0.1, 2.915)],
)
def test_a_pair_counts_by_how_far_apart_its_scores_are(gap: float, weight: float):
    assert score_weight(tensor([0.2 + gap, 0.2]), 10, PICKSCORE).item() == pytest.approx(weight, abs=3e-3)


def test_the_weight_is_ten_times_twice_a_softmax_less_one():
    scores = tensor([0.21, 0.18], [0.15, 0.27], [0.2, 0.2])
    p = ((scores - 0.11543526500463486) / PICKSCORE).softmax(1)[:, 0]
    found = score_weight(scores, 10, PICKSCORE)
    torch.testing.assert_close(found, 10 * (2 * p - 1))
    torch.testing.assert_close(score_weight(scores.flip(1), 10, PICKSCORE), -found)
    assert score_weight(tensor([0.28201571106910706, 0.11543526500463486]), 10, PICKSCORE).item() == pytest.approx(
        4.6212, abs=1e-4
    )


def test_a_gap_of_two_hundredths_by_hand():
    # weight 0.59959, inside 1.5 * 0.59959 = 0.899386, loss ln(1 + e^-0.899386) = 0.341331
    output = outcome(smoothed(), POLICY, REFERENCE, scores=tensor([0.22, 0.20]))
    assert output.metrics["score_weight"].item() == pytest.approx(0.59959, abs=1e-5)
    assert output.metrics["margin"].item() == pytest.approx(0.899386, abs=1e-5)
    assert output.losses.item() == pytest.approx(0.341331, abs=1e-6)


def test_equal_scores_teach_nothing():
    policy = POLICY.clone().requires_grad_()
    output = outcome(smoothed(), policy, REFERENCE, scores=tensor([0.2, 0.2]))
    assert output.losses.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(output.losses.sum(), policy)
    assert not gradient.any()


def test_each_pair_has_the_weight_of_its_own_scores():
    policy, reference = errors(4, 2, seed=1), errors(4, 2, seed=2)
    scores = 0.1 * errors(4, 2, seed=3)
    whole = outcome(smoothed(), policy, reference, scores=scores).losses
    alone = [
        outcome(smoothed(), policy[row : row + 1], reference[row : row + 1], scores=scores[row : row + 1]).losses
        for row in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))
    order = [2, 0, 3, 1]
    shuffled = outcome(smoothed(), policy[order], reference[order], scores=scores[order]).losses
    torch.testing.assert_close(shuffled, whole[order])


def test_the_winner_is_that_of_the_score_or_that_of_the_label():
    against = tensor([0.20, 0.22])
    by_score = outcome(smoothed(), POLICY, REFERENCE, scores=against)
    by_label = outcome(smoothed(winner="label"), POLICY, REFERENCE, scores=against)
    agreeing = outcome(smoothed(), POLICY, REFERENCE, scores=against.flip(1))
    # the loss of a swapped pair exceeds the pair's by its margin
    assert by_score.losses.item() == pytest.approx(0.341331 + 0.899386, abs=1e-5)
    torch.testing.assert_close(by_label.losses, agreeing.losses)
    exchanged = outcome(smoothed(), POLICY.flip(1), REFERENCE.flip(1), scores=against.flip(1))
    torch.testing.assert_close(by_score.losses, exchanged.losses)
    for name, values in by_score.metrics.items():
        torch.testing.assert_close(values, exchanged.metrics[name], msg=name)


def test_by_score_the_preserved_winner_is_the_scores_too():
    policy, reference = errors(3, 2, seed=1).requires_grad_(), errors(3, 2, seed=2)
    objective = DiffusionDPO.model_validate(
        {"beta": 50, "winner_preserving": 0.2, "sft_weight": 0.3, "score_weight": {"score_range": 1}}
    )
    scores = tensor([0.1, 0.9], [0.2, 0.8], [0.3, 0.7])
    (one,) = torch.autograd.grad(outcome(objective, policy, reference, scores=scores).losses.sum(), policy)
    swapped = policy.detach().flip(1).requires_grad_()
    (other,) = torch.autograd.grad(
        outcome(objective, swapped, reference.flip(1), scores=scores.flip(1)).losses.sum(), swapped
    )
    torch.testing.assert_close(one, other.flip(1))


def test_smoothed_labels_need_scores_and_one_bound():
    assert smoothed().required_fields == ("scores",)
    with pytest.raises(ValueError, match=r"batch\.scores is None"):
        outcome(smoothed(), POLICY, REFERENCE)
    with pytest.raises(ValidationError, match="score_range"):
        DiffusionDPO.model_validate({"beta": 1, "score_weight": {"gamma": 10}})
    with pytest.raises(ValidationError, match="leave it or score_weight out"):
        DiffusionDPO.model_validate({"beta": 1, "rejected_bound": 4, "score_weight": {"score_range": 1}})
