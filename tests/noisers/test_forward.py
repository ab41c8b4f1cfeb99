"""The forward process."""

from __future__ import annotations

import pytest
import torch

from t2ialign.draws import Draws
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Batch, Conditioning, Noised


def noised(keys: list[int], *, views: int = 2, kind: PredictionType = "epsilon", seed: int = 0) -> Noised:
    x_0 = torch.stack([torch.randn(views, 4, 3, 3, generator=torch.Generator().manual_seed(key)) for key in keys])
    batch = Batch(torch.tensor(keys), x_0, Conditioning(torch.zeros(len(keys), 1, 2, 3)))
    schedule = VPSchedule(torch.linspace(0.999, 0.005, 1000), kind, 1.0)
    return ForwardNoiser()(batch, None, schedule, Draws(seed, batch.keys))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_x_t_is_alpha_x_0_plus_sigma_noise(kind: PredictionType):
    found = noised([3, 8, 21], kind=kind)
    squared = torch.linspace(0.999, 0.005, 1000).double()[found.timesteps][..., None, None, None]
    expected = squared.sqrt() * found.x_0.double() + (1 - squared).sqrt() * found.noise.double()
    torch.testing.assert_close(found.x_t.double(), expected, atol=1e-6, rtol=1e-6)


def test_views_of_an_example_share_noise_and_timestep_and_examples_do_not():
    found = noised([0, 1, 2])
    torch.testing.assert_close(found.noise[:, 0], found.noise[:, 1], rtol=0, atol=0)
    assert torch.equal(found.timesteps[:, 0], found.timesteps[:, 1])
    assert not torch.equal(found.noise[0], found.noise[1])
    assert len(set(found.timesteps[:, 0].tolist())) == 3  # of 1000, with this seed


def test_a_row_does_not_depend_on_its_company():
    together, alone = noised([5, 6, 7]), noised([6])
    assert torch.equal(together.x_t[1], alone.x_t[0])
    assert torch.equal(together.timesteps[1], alone.timesteps[0])


def test_shapes_are_the_latents():
    found = noised([1, 2], views=3)
    assert found.x_t.shape == found.noise.shape == found.x_0.shape == (2, 3, 4, 3, 3)
    assert found.timesteps.shape == (2, 3)


def test_another_seed_gives_other_noise():
    assert not torch.equal(noised([1]).noise, noised([1], seed=1).noise)
