"""Diffusion-DPO against values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from t2ialign.objectives.dpo import DiffusionDPO, diffusion_dpo_loss
from t2ialign.objectives.margins import saturated
from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Batch, Conditioning, Noised, Prediction

# alpha_t^2 = 0.64, 0.36: (alpha, sigma) = (0.8, 0.6) at t = 0 and (0.6, 0.8) at t = 1
SCHEDULE = {kind: VPSchedule(torch.tensor([0.64, 0.36]), kind, 1.0) for kind in ("epsilon", "v_prediction")}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(count: int, *, kind: PredictionType = "epsilon", offset: Tensor | None = None) -> tuple[Prediction, Batch]:
    """`count` random pairs whose network is off by `offset` [N, 2] in every element, its reference by 0.1."""
    x_0 = normal(count, 2, 1, 2, 2, seed=1)
    noise = normal(count, 1, 1, 2, 2, seed=2).expand_as(x_0)
    timesteps = torch.arange(count)[:, None].expand(-1, 2) % 2
    schedule = SCHEDULE[kind]
    x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten()).view_as(x_0)
    noised = Noised(x_t, x_0, noise, timesteps)
    target = Prediction(x_t, None, noised, schedule).target
    offset = normal(count, 2, seed=3) if offset is None else offset
    policy = (target + offset[:, :, None, None, None]).requires_grad_()
    prediction = Prediction(policy, target + 0.1, noised, schedule)
    return prediction, Batch(torch.arange(count), torch.arange(count), x_0, Conditioning(torch.zeros(count, 1, 1, 1)))


def permuted(prediction: Prediction, batch: Batch, rows: Tensor, views: list[int]) -> tuple[Prediction, Batch]:
    """The same pairs in another order of rows and of views."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor[rows][:, views]

    noised = prediction.noised
    moved = Noised(pick(noised.x_t), pick(noised.x_0), pick(noised.noise), pick(noised.timesteps))
    assert prediction.reference is not None
    return (
        Prediction(pick(prediction.policy), pick(prediction.reference), moved, prediction.schedule),
        Batch(batch.keys[rows], batch.rows[rows], pick(batch.latents), batch.cond),
    )


@pytest.mark.parametrize(
    ("beta", "margin", "loss"),
    [
        # chosen 0.100 - 0.101 = -0.001, rejected 0.120 - 0.1195 = +0.0005, difference -0.0015
        # beta 5000: margin = -2500 * -0.0015 = 3.75, loss = ln(1 + e^-3.75) = 0.0232455
        (5000, 3.75, 0.0232455),
        # beta 2000: margin = -1000 * -0.0015 = 1.5, loss = ln(1 + e^-1.5) = 0.201413
        (2000, 1.5, 0.201413),
        # beta 10000 is beta 5000 without the 1/2: margin 7.5, loss 5.529e-4
        (10000, 7.5, 5.529e-4),
    ],
)
def test_loss_and_margin_by_hand(beta: float, margin: float, loss: float):
    policy = torch.tensor([[0.100, 0.120]], dtype=torch.float64)
    reference = torch.tensor([[0.101, 0.1195]], dtype=torch.float64)
    found = diffusion_dpo_loss(policy, reference, beta)
    torch.testing.assert_close(found.margin, torch.tensor([margin], dtype=torch.float64))
    torch.testing.assert_close(found.loss, torch.tensor([loss], dtype=torch.float64), atol=1e-6, rtol=1e-4)
    assert found.loss.item() == pytest.approx(math.log1p(math.exp(-margin)))


def test_gradient_by_hand():
    # d loss / d chosen error = sigmoid(-margin) * beta / 2 = 2500 / (1 + e^3.75) = 57.4434; the rejected one's is minus
    policy = torch.tensor([[0.100, 0.120]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.101, 0.1195]], dtype=torch.float64)
    diffusion_dpo_loss(policy, reference, 5000).loss.sum().backward()
    assert policy.grad is not None
    expected = torch.tensor([[57.4434, -57.4434]], dtype=torch.float64)
    torch.testing.assert_close(policy.grad, expected, atol=1e-4, rtol=0)


def test_loss_is_log_2_with_a_gradient_of_a_quarter_beta_where_policy_and_reference_agree():
    # margin 0: loss ln 2, and |d loss / d error| = sigmoid(0) * beta / 2 = beta / 4
    errors = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    found = diffusion_dpo_loss(errors, errors.detach(), beta=8.0)
    torch.testing.assert_close(found.loss, torch.full((5,), math.log(2), dtype=torch.float64))
    found.loss.sum().backward()
    torch.testing.assert_close(errors.grad, torch.tensor([[2.0, -2.0]], dtype=torch.float64).expand(5, 2))


def test_an_untouched_policy_has_accuracy_one_half_and_still_a_gradient():
    prediction, batch = pairs(4, offset=torch.full((4, 2), 0.1, dtype=torch.float64))
    output = DiffusionDPO(beta=5000)(prediction, batch)
    torch.testing.assert_close(output.losses, torch.full((4,), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(output.metrics["implicit_accuracy"], torch.full((4,), 0.5))
    output.losses.sum().backward()
    gradient = prediction.policy.grad
    assert gradient is not None
    # the error's own slope is 2 * 0.1 / 4 elements; times beta / 4: the chosen view falls, the rejected one rises
    torch.testing.assert_close(gradient[:, 0], torch.full_like(gradient[:, 0], 1250 * 2 * 0.1 / 4))
    torch.testing.assert_close(gradient[:, 1], -gradient[:, 0])


def test_swapping_a_pair_flips_the_margin_and_adds_it_to_the_loss():
    # ln(1 + e^m) - ln(1 + e^-m) = m
    prediction, batch = pairs(6)
    swapped, swapped_batch = permuted(prediction, batch, torch.arange(6), [1, 0])
    objective = DiffusionDPO(beta=3.0)
    output, other = objective(prediction, batch), objective(swapped, swapped_batch)
    torch.testing.assert_close(other.metrics["margin"], -output.metrics["margin"])
    torch.testing.assert_close(other.losses - output.losses, output.metrics["margin"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_permutation_of_rows_permutes_the_losses(kind: PredictionType):
    prediction, batch = pairs(6, kind=kind)
    rows = torch.tensor([4, 0, 5, 2, 1, 3])
    objective = DiffusionDPO(beta=3.0)
    moved = objective(*permuted(prediction, batch, rows, [0, 1])).losses
    torch.testing.assert_close(moved, objective(prediction, batch).losses[rows])


def test_a_constant_added_to_both_errors_changes_nothing():
    policy, reference = normal(4, 2, seed=0).abs(), normal(4, 2, seed=1).abs()
    found = diffusion_dpo_loss(policy + 0.3, reference, 7.0).loss
    torch.testing.assert_close(found, diffusion_dpo_loss(policy, reference, 7.0).loss)


def test_identical_views_teach_nothing():
    shared = normal(3, 1, seed=0).abs().requires_grad_()
    diffusion_dpo_loss(shared.expand(3, 2), torch.full((3, 2), 0.2, dtype=torch.float64), 50.0).loss.sum().backward()
    torch.testing.assert_close(shared.grad, torch.zeros(3, 1, dtype=torch.float64))


def test_beta_per_row_weighs_pairs():
    policy, reference = normal(3, 2, seed=0), normal(3, 2, seed=1)
    beta = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    rows = [diffusion_dpo_loss(policy[i : i + 1], reference[i : i + 1], float(beta[i])).loss for i in range(3)]
    torch.testing.assert_close(diffusion_dpo_loss(policy, reference, beta).loss, torch.cat(rows))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gradients_are_exact(kind: PredictionType):
    prediction, batch = pairs(3, kind=kind)

    def losses(policy: Tensor) -> Tensor:
        return DiffusionDPO(beta=4.0)(
            Prediction(policy, prediction.reference, prediction.noised, prediction.schedule), batch
        ).losses

    assert torch.autograd.gradcheck(losses, (prediction.policy,))


def test_beta_means_the_same_for_v_prediction():
    # a v off by d in every element is a noise off by alpha * d: at t = 0, 1 alpha^2 = 0.64, 0.36
    offset = torch.tensor([[0.5, 0.2], [0.5, 0.2]], dtype=torch.float64)
    prediction, _ = pairs(2, kind="v_prediction", offset=offset)
    expected = torch.tensor([[0.64 * 0.25, 0.64 * 0.04], [0.36 * 0.25, 0.36 * 0.04]], dtype=torch.float64)
    torch.testing.assert_close(prediction.policy_error, expected)
    reference = torch.tensor([[0.64, 0.64], [0.36, 0.36]], dtype=torch.float64) * 0.01
    torch.testing.assert_close(prediction.reference_error, reference)


def test_changes_are_measured_against_the_reference():
    # errors 0.5^2 = 0.25 and 0.2^2 = 0.04 against the reference's 0.1^2 = 0.01; margin = -1.5 * (0.24 - 0.03) = -0.315
    offset = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    metrics = DiffusionDPO(beta=3.0)(*pairs(1, offset=offset)).metrics
    for key, value in {
        "chosen_change": 0.24,
        "rejected_change": 0.03,
        "margin": -0.315,
        "implicit_accuracy": 0.0,
        "saturated": 0.0,
        "chosen_error": 0.25,
        "rejected_error": 0.04,
        "reference_error": 0.01,
    }.items():
        assert metrics[key].item() == pytest.approx(value), key
        assert not metrics[key].requires_grad, key


def test_the_batch_says_which_pairs_count():
    prediction, batch = pairs(3)
    assert DiffusionDPO(beta=1.0)(prediction, batch).weights.tolist() == [1, 1, 1]
    weighted = Batch(batch.keys, batch.rows, batch.latents, batch.cond, weights=torch.tensor([1, 0, 1]))
    output = DiffusionDPO(beta=1.0)(prediction, weighted)
    assert output.weights.tolist() == [1, 0, 1]
    assert output.weights.dtype == output.losses.dtype


@pytest.mark.parametrize("shapes", [((2, 2), (1, 2)), ((2, 3), (2, 3)), ((2,), (2,))])
def test_what_is_no_pair_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    with pytest.raises(ValueError, match=r"both must be \[N, 2\]"):
        diffusion_dpo_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 1.0)


def test_a_prediction_without_reference_is_refused():
    prediction, batch = pairs(1)
    bare = Prediction(prediction.policy, None, prediction.noised, prediction.schedule)
    with pytest.raises(ValueError, match="required_weights"):
        DiffusionDPO(beta=1.0)(bare, batch)


def test_only_pairs_that_are_rightly_ordered_saturate():
    # beta 2: margins 6, 4 and -6; at -6 the loss is steepest
    policy = torch.tensor([[-6.0, 0.0], [-4.0, 0.0], [6.0, 0.0]], dtype=torch.float64)
    assert saturated(diffusion_dpo_loss(policy, torch.zeros_like(policy), 2.0).margin).tolist() == [1, 0, 0]


def test_the_multiplier_is_half_of_beta():
    assert DiffusionDPO(beta=5000).margin_multiplier() == 2500
