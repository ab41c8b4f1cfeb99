"""The tensors that travel."""

from __future__ import annotations

import pytest
import torch

from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Batch, Conditioning, Noised, Prediction


def test_moving_a_batch_keeps_every_field():
    batch = Batch(
        keys=torch.tensor([4, 5]),
        rows=torch.tensor([1, 0]),
        latents=torch.ones(2, 3, 4, 2, 2),
        cond=Conditioning(torch.ones(2, 1, 5, 6), torch.ones(2, 1, 7)),
        geometry=torch.ones(2, 3, 6),
        weights=torch.tensor([1.0, 0.0]),
    )
    moved = batch.to("meta")
    assert len(moved) == 2
    assert moved.views == 3
    tensors = (
        moved.keys,
        moved.rows,
        moved.latents,
        moved.cond.tokens,
        moved.cond.pooled,
        moved.geometry,
        moved.weights,
    )
    assert [tensor.device.type for tensor in tensors if tensor is not None] == ["meta"] * 7
    assert moved.scores is None
    assert moved.mask is None


def test_conditionings_concatenate_with_and_without_pooled_text():
    plain = Conditioning(torch.zeros(1, 2, 3))
    assert Conditioning.cat([plain, plain]).tokens.shape == (2, 2, 3)
    assert Conditioning.cat([plain]).pooled is None
    pooled = Conditioning(torch.zeros(1, 2, 3), torch.zeros(1, 4))
    both = Conditioning.cat([pooled, pooled, pooled])
    assert both.pooled is not None
    assert both.pooled.shape == (3, 4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_network_has_no_error_and_finds_x_0(kind: PredictionType):
    schedule = VPSchedule(torch.linspace(0.99, 0.1, 10), kind, 1.0)
    drawn = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(2, 3, 4, 2, 2, generator=drawn, dtype=torch.float64) for _ in range(2))
    timesteps = torch.tensor([[0, 5, 9], [9, 1, 1]])
    x_t = schedule.add_noise(x_0.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten()).view_as(x_0)
    noised = Noised(x_t, x_0, noise, timesteps)
    perfect = Prediction(Prediction(x_t, None, noised, schedule).target, None, noised, schedule)
    torch.testing.assert_close(perfect.policy_error, torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(perfect.policy_x0, x_0)
