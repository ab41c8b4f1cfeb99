"""The forward process."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from t2ialign.errors import InputError
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.rng import Draws
from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Batch, Conditioning, Noised


def noised(
    keys: list[int],
    *,
    views: int = 2,
    kind: PredictionType = "epsilon",
    seed: int = 0,
    noiser: ForwardNoiser = ForwardNoiser(),
) -> Noised:
    x_0 = torch.stack([torch.randn(views, 4, 3, 3, generator=torch.Generator().manual_seed(key)) for key in keys])
    batch = Batch(torch.tensor(keys), torch.tensor(keys), x_0, Conditioning(torch.zeros(len(keys), 1, 2, 3)))
    schedule = VPSchedule(torch.linspace(0.999, 0.005, 1000), kind, 1.0)
    return noiser(batch, None, schedule, Draws(seed, batch.keys))


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


def test_timesteps_come_evenly_from_the_range_asked_for():
    found = noised(list(range(2000)), views=1, noiser=ForwardNoiser(min_timestep=250, max_timestep=750)).timesteps
    assert 250 <= found.min() < 255
    assert 745 <= found.max() < 750
    spread = 500 / 12**0.5  # standard deviation of a uniform draw
    assert abs(found.float().mean() - 499.5) < 4 * spread / 2000**0.5


def test_ranges_that_hold_no_timestep_are_refused():
    with pytest.raises(ValidationError, match="min_timestep 500 is not below max_timestep 500"):
        ForwardNoiser(min_timestep=500, max_timestep=500)
    for noiser in (ForwardNoiser(max_timestep=1001), ForwardNoiser(min_timestep=1000)):
        with pytest.raises(InputError, match=r"noiser: timesteps from .* and the model has 1000"):
            noised([1], noiser=noiser)


def test_listed_timesteps_alone_are_drawn_as_often_as_they_are_listed():
    turbo = ForwardNoiser(timesteps=[249, 499, 749, 999])
    found = noised(list(range(400)), noiser=turbo).timesteps
    assert torch.equal(found[:, 0], found[:, 1])
    counts = [int((found[:, 0] == timestep).sum()) for timestep in (249, 499, 749, 999)]
    assert sum(counts) == 400
    assert min(counts) > 60
    twice = noised(list(range(400)), noiser=ForwardNoiser(timesteps=[10, 10, 20])).timesteps[:, 0]
    assert 220 < int((twice == 10).sum()) < 310
    with pytest.raises(InputError, match=r"timesteps \[5, 1000\] are asked for, and the model has 1000"):
        ForwardNoiser(timesteps=[5, 1000]).check(1000)
    with pytest.raises(ValidationError, match="either timesteps or their bounds"):
        ForwardNoiser(timesteps=[5], min_timestep=1)
    for wrong in ([], [-1]):
        with pytest.raises(ValidationError, match="timesteps"):
            ForwardNoiser(timesteps=wrong)
