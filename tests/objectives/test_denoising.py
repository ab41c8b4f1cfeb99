"""The denoising loss against values derived by hand."""

from __future__ import annotations

import pytest
import torch

from t2ialign.objectives.denoising import Denoising
from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Batch, Conditioning, Noised, Prediction


@pytest.mark.parametrize(
    ("kind", "target"),
    # x_0 = 2 and noise = 1 at alpha 0.8, sigma 0.6: the target is the noise, or v = 0.8 * 1 - 0.6 * 2 = -0.4
    [("epsilon", 1.0), ("v_prediction", -0.4)],
)
def test_loss_is_the_first_views_mean_square_in_the_networks_own_terms(kind: PredictionType, target: float):
    schedule = VPSchedule(torch.tensor([0.64]), kind, 1.0)
    x_0, noise = torch.full((1, 2, 1, 2, 2), 2.0), torch.ones(1, 2, 1, 2, 2)
    noised = Noised(0.8 * x_0 + 0.6 * noise, x_0, noise, torch.zeros(1, 2, dtype=torch.int64))
    policy = torch.stack([torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 99.0)], dim=1).requires_grad_()
    output = Denoising()(
        Prediction(policy, None, noised, schedule),
        Batch(torch.zeros(1), torch.zeros(1), x_0, Conditioning(torch.zeros(1, 1, 1, 1))),
    )
    torch.testing.assert_close(output.losses, torch.tensor([(0.5 - target) ** 2]))
    output.losses.sum().backward()
    assert policy.grad is not None
    # d/dp of the mean over 4 elements is 2 * (p - target) / 4 in each; the second view has no part in it
    torch.testing.assert_close(policy.grad[0, 0], torch.full((1, 2, 2), (0.5 - target) / 2))
    assert not policy.grad[0, 1].any()


def test_rows_of_weight_0_say_so():
    noised = Noised(*(torch.zeros(3, 1, 1, 1, 1) for _ in range(3)), torch.zeros(3, 1, dtype=torch.int64))
    schedule = VPSchedule(torch.tensor([0.64]), "epsilon", 1.0)
    batch = Batch(
        torch.arange(3),
        torch.arange(3),
        noised.x_0,
        Conditioning(torch.zeros(3, 1, 1, 1)),
        weights=torch.tensor([1.0, 0.0, 1.0]),
    )
    assert Denoising()(Prediction(noised.x_t, None, noised, schedule), batch).weights.tolist() == [1, 0, 1]
