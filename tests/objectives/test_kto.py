"""Diffusion-KTO against values derived by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from of_errors import batch, errors, outcome, prediction, tensor

from t2ialign.objectives.kto import DiffusionKTO, diffusion_kto_loss, gain_sums, kl_baseline, mean_gain

ONES = torch.ones(2, dtype=torch.float64)
LABELS = tensor([1.0], [0.0])


def test_loss_by_hand():
    # changes -0.001 of a liked and +0.0005 of a disliked image: gains 0.001 and -0.0005, mean 0.00025;
    # beta 1000: 1000 * (0.001 - 0.00025) = 0.75 and -1000 * (-0.0005 - 0.00025) = 0.75; 1 - sigma(0.75) = 0.320821
    gain = torch.tensor([0.001, -0.0005], dtype=torch.float64)
    baseline = kl_baseline(gain_sums(gain, ONES))
    assert baseline.item() == pytest.approx(0.00025)
    found = diffusion_kto_loss(gain, torch.tensor([True, False]), baseline, 1000)
    torch.testing.assert_close(found.margin, torch.full((2,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(found.loss, torch.full((2,), 0.320821, dtype=torch.float64), atol=1e-6, rtol=0)


def test_an_untouched_policy_has_loss_one_half_and_accuracy_one_half():
    policy = errors(4, 1, seed=0)
    output = outcome(DiffusionKTO(beta=1000, baseline="batch"), policy, policy, scores=tensor([1], [0], [1], [0]))
    torch.testing.assert_close(output.losses, torch.full((4,), 0.5, dtype=torch.float64))
    assert output.metrics["kl"] == 0
    assert output.metrics["implicit_accuracy"].tolist() == [0.5] * 4
    assert output.metrics["desirable"].tolist() == [1, 0, 1, 0]


def test_the_baseline_is_never_negative_has_no_gradient_and_skips_what_does_not_count():
    gain = torch.tensor([-3.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert kl_baseline(gain_sums(gain, ONES)).item() == 0
    counted = kl_baseline(gain_sums(gain, torch.tensor([0.0, 1.0], dtype=torch.float64)))
    assert counted.item() == 1
    assert not counted.requires_grad
    assert kl_baseline(gain_sums(gain, 0 * ONES)).item() == 0


def test_the_mismatched_baseline_comes_from_other_prompts():
    policy, reference = tensor([0.10], [0.20]), tensor([0.11], [0.20])
    other = (tensor([0.30], [0.40]), tensor([0.31], [0.43]))  # gains 0.01 and 0.03 under the wrong prompts
    output = outcome(DiffusionKTO(beta=10), policy, reference, scores=LABELS, mismatched=other)
    assert output.metrics["kl"].item() == pytest.approx(0.02)
    # 10 * (0.01 - 0.02) and -10 * (0 - 0.02)
    torch.testing.assert_close(output.metrics["margin"], torch.tensor([-0.1, 0.2], dtype=torch.float64))


def test_turning_the_label_turns_the_loss():
    # 1 - sigma(-z) = sigma(z)
    gain, baseline = torch.tensor([0.2, -0.3, 0.05], dtype=torch.float64), 0.04
    liked = diffusion_kto_loss(gain, torch.tensor([True] * 3), baseline, 7.0).loss
    disliked = diffusion_kto_loss(gain, torch.tensor([False] * 3), baseline, 7.0).loss
    torch.testing.assert_close(liked + disliked, torch.ones(3, dtype=torch.float64))


def test_a_constant_added_to_all_gains_changes_nothing_while_their_mean_stays_above_0():
    policy, reference = tensor([0.10], [0.12]), tensor([0.11], [0.14])
    objective = DiffusionKTO(beta=100, baseline="batch")
    losses = outcome(objective, policy, reference, scores=LABELS).losses
    torch.testing.assert_close(outcome(objective, policy, reference + 0.05, scores=LABELS).losses, losses)
    lower = outcome(objective, policy, reference - 0.05, scores=LABELS).losses  # the mean is below 0 now
    assert (lower - losses).abs().min() > 0.01


def test_a_liked_images_error_sinks_and_a_disliked_ones_rises():
    policy = errors(2, 1, seed=1).requires_grad_()
    output = outcome(DiffusionKTO(beta=3, baseline="batch"), policy, errors(2, 1, seed=2), scores=LABELS)
    output.losses.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0] > 0
    assert policy.grad[1] < 0


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_a_liked_and_a_disliked_twin_cancel_whatever_the_baseline(baseline: float):
    # margins z and -z: a sigmoid is equally steep there, beta * s(z) * s(-z), and the two pull against each other
    gain = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    diffusion_kto_loss(gain, torch.tensor([True, False]), baseline, 4.0).loss.sum().backward()
    z = 4.0 * (0.1 - baseline)
    slope = 4.0 * math.exp(-z) / (1 + math.exp(-z)) ** 2
    torch.testing.assert_close(gain.grad, torch.tensor([-slope, slope], dtype=torch.float64))


def test_saturated_is_what_lies_on_either_flat_side_of_the_sigmoid():
    # beta 10 and no baseline (the mean gain is below 0): margins 10 * (0.4, -0.6, -0.4, 0.6) of liked images
    policy, reference = tensor([0.1], [1.1], [0.9], [0.1]), tensor([0.5], [0.5], [0.5], [0.7])
    output = outcome(DiffusionKTO(beta=10, baseline="batch"), policy, reference, scores=torch.ones(4, 1))
    assert output.metrics["kl"] == 0
    assert output.metrics["saturated"].tolist() == [0, 1, 0, 1]


def test_the_multiplier_is_beta_without_one_half():
    assert DiffusionKTO(beta=1000).margin_multiplier() == 1000


def test_what_is_missing_is_said():
    policy = errors(2, 1, seed=0)
    with pytest.raises(ValueError, match="labels"):
        outcome(DiffusionKTO(beta=1), policy, policy)
    with pytest.raises(ValueError, match="other prompts"):
        outcome(DiffusionKTO(beta=1), policy, policy, scores=LABELS)


def test_the_baseline_comes_from_the_sums_of_all_processes_where_the_step_hands_them_in():
    # this process: gains 1 and 2; all of them: (1 + 2 + 6) / 3
    policy, reference = tensor([1.0], [2.0]), tensor([2.0], [4.0])
    objective = DiffusionKTO(beta=1, baseline="batch")
    made = replace(prediction(policy, reference), context=torch.tensor([9.0, 3.0], dtype=torch.float64))
    made.__dict__.update(policy_error=policy, reference_error=reference)
    assert objective(made, batch(2, 1, scores=LABELS)).metrics["kl"] == 3
    torch.testing.assert_close(objective.context(made, batch(2, 1)), torch.tensor([3.0, 2.0], dtype=torch.float64))


def test_the_original_baseline_keeps_a_negative_mean():
    policy, reference = tensor([0.10], [0.20]), tensor([0.11], [0.20])
    other = (tensor([0.31], [0.43]), tensor([0.30], [0.40]))  # gains -0.01 and -0.03 under the wrong prompts
    clamped = outcome(DiffusionKTO(beta=10), policy, reference, scores=LABELS, mismatched=other)
    original = outcome(DiffusionKTO(beta=10, baseline="original"), policy, reference, scores=LABELS, mismatched=other)
    assert clamped.metrics["kl"].item() == 0
    assert original.metrics["kl"].item() == pytest.approx(-0.02)
    # 10 * (0.01 + 0.02) and -10 * (0 + 0.02)
    torch.testing.assert_close(original.metrics["margin"], torch.tensor([0.3, -0.2], dtype=torch.float64))
    with pytest.raises(ValueError, match="baseline 'original' needs predictions under other prompts"):
        outcome(DiffusionKTO(beta=10, baseline="original"), policy, reference, scores=LABELS)


def test_the_sigmoid_baseline_is_the_middle_of_both_kinds_however_many_there_are():
    reference = tensor([0.5], [0.5], [0.5])
    policy = reference - tensor([0.02], [0.04], [-0.01])  # gains of two liked and one disliked image
    output = outcome(DiffusionKTO(beta=10, baseline="sigmoid"), policy, reference, scores=tensor([1], [1], [0]))
    assert output.metrics["kl"].item() == pytest.approx((0.03 - 0.01) / 2)
    one_kind = outcome(DiffusionKTO(beta=10, baseline="sigmoid"), policy, reference, scores=tensor([1], [1], [1]))
    assert one_kind.metrics["kl"].item() == pytest.approx((0.05 / 3) / 2)


def test_the_mean_of_nothing_is_0():
    assert mean_gain(torch.zeros(2)).item() == 0


@pytest.mark.parametrize(
    ("utility", "loss", "slope"),
    [
        # at margin 0.75: sigma(0.75) = 0.679179
        ("kahneman_tversky", 0.320821, -0.679179 * 0.320821),
        ("loss_averse", 0.386871, -0.320821),
        ("risk_seeking", -1.136871, -0.679179),
    ],
)
def test_utilities_by_hand(utility: str, loss: float, slope: float):
    gain = torch.tensor([0.00075, -0.00075], dtype=torch.float64, requires_grad=True)
    found = diffusion_kto_loss(gain, torch.tensor([True, False]), 0.0, 1000, utility)  # type: ignore[arg-type]
    torch.testing.assert_close(found.loss, torch.full((2,), loss, dtype=torch.float64), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(found.loss.sum(), gain)
    torch.testing.assert_close(gradient / 1000, torch.tensor([slope, -slope], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("utility", ["kahneman_tversky", "loss_averse", "risk_seeking"])
def test_an_untouched_policy_has_the_loss_that_the_objective_states(utility: str):
    objective = DiffusionKTO.model_validate({"beta": 1000, "baseline": "batch", "utility": utility})
    policy = errors(2, 1, seed=0)
    found = outcome(objective, policy, policy, scores=LABELS).losses
    torch.testing.assert_close(found, torch.full_like(found, objective.initial_loss))


def test_saturated_is_where_the_utility_is_flat():
    reference = tensor([0.5], [0.5])
    policy = reference - tensor([0.1], [0.1])  # beta 100: margins +10 of the liked and -10 of the disliked image
    for utility, flat in (("kahneman_tversky", [1, 1]), ("loss_averse", [1, 0]), ("risk_seeking", [0, 1])):
        objective = DiffusionKTO.model_validate({"beta": 100, "utility": utility})
        same = (reference, reference)  # under other prompts nothing changed: the baseline is 0
        found = outcome(objective, policy, reference, scores=LABELS, mismatched=same)
        assert found.metrics["saturated"].tolist() == flat
