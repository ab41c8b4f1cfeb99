"""IPO against values derived by hand."""

from __future__ import annotations

import pytest
import torch
from of_errors import outcome, tensor

from t2ialign.objectives.ipo import IPO, ipo_loss


def test_loss_is_the_squared_distance_of_the_margin_from_one_half():
    # margin 1.5 as in dpo's test: (1.5 - 0.5)^2 = 1, slope 2 * (1.5 - 0.5) * -1000 for the chosen error
    policy = tensor([0.100, 0.120]).requires_grad_()
    found = ipo_loss(policy, tensor([0.101, 0.1195]), 2000)
    assert found.margin.item() == pytest.approx(1.5)
    assert found.loss.item() == pytest.approx(1.0)
    found.loss.sum().backward()
    torch.testing.assert_close(policy.grad, tensor([-2000.0, 2000.0]))


def test_loss_is_the_papers_times_beta_squared():
    # Eq. 17: (h - 1 / (2 tau))^2, h = -(chosen - rejected change) / 2 where tau = beta
    policy, reference, beta = tensor([0.3, 0.5]), tensor([0.4, 0.45]), 7.0
    h = -0.5 * ((0.3 - 0.4) - (0.5 - 0.45))
    assert ipo_loss(policy, reference, beta).loss.item() == pytest.approx(beta**2 * (h - 1 / (2 * beta)) ** 2)


def test_an_untouched_policy_has_loss_a_quarter_and_pulls_twice_as_hard_as_dpo():
    error = tensor([0.1, 0.2]).requires_grad_()
    loss = ipo_loss(error, error.detach(), 8.0).loss
    assert loss.item() == pytest.approx(0.25)
    loss.sum().backward()
    torch.testing.assert_close(error.grad, tensor([4.0, -4.0]))  # beta / 2; dpo has beta / 4


def test_no_pair_is_saturated_however_large_its_margin():
    output = outcome(IPO(beta=5000), tensor([0.1, 0.9]), tensor([0.9, 0.1]))
    assert output.metrics["margin"].item() == pytest.approx(4000)
    assert output.metrics["saturated"].tolist() == [0]
    assert IPO(beta=5000).margin_multiplier() == 2500
