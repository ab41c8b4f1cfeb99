"""MaPO, the released code's loss and the paper's second version, against values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from of_errors import outcome, tensor

from t2ialign.objectives.mapo import MaPO, MaPOv2, bounded_score, mapo_loss, mapo_v2_loss

CODE = {"beta": 0.1, "error_scale": 0.5, "logit_scale": 1000.0}


def test_the_bounded_score_by_hand():
    # x / (e^x - 1) at 0.05 and 0.06: 1 - x/2 + x^2/12 - x^4/720 = 0.9752083 and 0.9703000
    values = torch.tensor([0.0, 0.05, 0.06, 100.0], dtype=torch.float64)
    found = bounded_score(values)
    expected = [1.0, 0.05 / math.expm1(0.05), 0.06 / math.expm1(0.06), 100 / math.expm1(100)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found[1].item() == pytest.approx(0.9752083, abs=1e-7)
    assert found[2].item() == pytest.approx(0.9703000, abs=1e-7)


@pytest.mark.parametrize(("error", "slope"), [(0.001, -0.24996), (0.1, -0.24583), (0.5, -0.22921), (2.0, -0.16935)])
def test_the_slope_of_the_score_at_scale_one_half(error: float, slope: float):
    # s * phi'(s L): at 0 it is -s/2 = -0.25
    value = torch.tensor(error, dtype=torch.float64, requires_grad=True)
    bounded_score(0.5 * value).backward()
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_at_any_error(dtype: torch.dtype):
    error = torch.tensor([[0.0, 100.0], [100.0, 0.0], [1e-7, 2e-6], [1e4, 1e4]], dtype=dtype, requires_grad=True)
    for loss in (mapo_loss(error, **CODE).loss, mapo_v2_loss(error, 1024.0).loss):
        (gradient,) = torch.autograd.grad(loss.sum(), error)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def test_the_released_loss_by_hand():
    # scores 0.9752083 - 0.9703000 = 0.00490834, logit 4.90834, ln sigma = -0.00735758; loss 0.1 + 0.1 * 0.00735758
    found = mapo_loss(tensor([0.10, 0.12]), **CODE)
    assert found.margin.item() == pytest.approx(4.90834, abs=1e-5)
    assert found.loss.item() == pytest.approx(0.1007358, abs=1e-7)
    assert found.loss.item() == pytest.approx(0.1 + 0.1 * math.log1p(math.exp(-found.margin.item())))


def test_the_second_version_by_hand():
    # (0.1 / (e^0.1 - 1))^8 = 0.6680896, of 0.12: 0.6158208; loss 0.1 + ln(1 + e^-0.0522688) / 8 = 0.1834193
    chosen, rejected = (0.1 / math.expm1(0.1)) ** 8, (0.12 / math.expm1(0.12)) ** 8
    assert (chosen, rejected) == pytest.approx((0.6680896, 0.6158208), abs=1e-7)
    found = mapo_v2_loss(tensor([0.10, 0.12]), 8.0)
    assert found.margin.item() == pytest.approx(chosen - rejected)
    assert found.loss.item() == pytest.approx(0.1834193, abs=1e-7)


@pytest.mark.parametrize("error", [0.01, 0.1, 0.7])
def test_equal_errors_leave_ln_2_of_the_margin_term(error: float):
    pair = tensor([error, error])
    assert mapo_loss(pair, **CODE).loss.item() == pytest.approx(error + 0.1 * math.log(2))
    assert mapo_v2_loss(pair, 8.0).loss.item() == pytest.approx(error + math.log(2) / 8)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        # at equal errors of 0.1 the margin pulls with 0.1 * 1000 * 0.245834 / 2 = 12.2917, and SFT with 1
        ([0.1, 0.1], [13.2917, -12.2917]),
        # at 0.10, 0.12 sigma(-4.90834) = 0.00733058 is left of it: 1 + 0.1 * 1000 * 0.245834 * 0.00733058
        ([0.10, 0.12], [1.18021, -0.17960]),
    ],
)
def test_gradients_by_hand(pair: list[float], expected: list[float]):
    error = tensor(pair).requires_grad_()
    mapo_loss(error, **CODE).loss.sum().backward()
    torch.testing.assert_close(error.grad, tensor(expected), atol=1e-4, rtol=0)


def test_the_second_versions_margin_term_pulls_with_a_quarter_at_small_errors():
    # 1/beta * beta * phi^(beta - 1) * 1/2 * sigma(0) = 1/4: 50 times weaker than the released code's 12.5
    error = tensor([1e-9, 1e-9]).requires_grad_()
    mapo_v2_loss(error, 8.0).loss.sum().backward()
    torch.testing.assert_close(error.grad, tensor([1.25, -0.25]), atol=1e-6, rtol=0)


def test_a_vanishing_margin_term_is_fine_tuning_on_the_chosen_view():
    error = tensor([0.3, 0.2]).requires_grad_()
    loss = mapo_loss(error, **{**CODE, "beta": 0.0}).loss
    assert loss.item() == pytest.approx(0.3)
    loss.sum().backward()
    torch.testing.assert_close(error.grad, tensor([1.0, 0.0]))


def test_the_multiplier_is_the_slope_of_the_logit_at_small_errors():
    # 1000 * 0.5 / 2 = 250, and 8 / 2 = 4
    for objective, expected in ((MaPO(beta=0.1), 250), (MaPOv2(beta=8), 4)):
        assert objective.margin_multiplier() == expected
        margin = outcome(objective, tensor([1e-5, 3e-5])).metrics["margin"].item()
        assert margin == pytest.approx(expected * 2e-5, rel=1e-3)


def test_no_reference_is_needed_and_none_is_measured():
    for objective in (MaPO(beta=0.1), MaPOv2(beta=8)):
        assert not objective.required_weights
        metrics = outcome(objective, tensor([0.1, 0.2]), None).metrics
        assert "chosen_change" not in metrics
        assert metrics["implicit_accuracy"].item() == 1


def test_at_the_least_beta_the_second_version_has_a_gradient_at_errors_whose_score_is_0():
    error = torch.tensor([[200.0, 1e4], [0.0, 50.0]], requires_grad=True)  # exp(-200) is 0 in float32
    (gradient,) = torch.autograd.grad(mapo_v2_loss(error, 1.0).loss.sum(), error)
    assert gradient.isfinite().all()
