"""A noiser outside of the package inverts by `Sampler`, each row from its clean latent to a timestep of its own."""

from __future__ import annotations

import pytest
import torch
from oracles import ABAR, Oracle

from t2ialign.noisers.base import Noiser
from t2ialign.rng import Draws
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import CLEAN, PredictionType, Schedule, sampling_timesteps
from t2ialign.types import Batch, Conditioning, Denoiser, Noised


class ToyInversion(Noiser):
    """x_t is where DDIM inversion leads; the noise is what x_t holds beside x_0."""

    name: str = "toy_inversion"

    def __call__(self, batch: Batch, policy: Denoiser, schedule: Schedule, draws: Draws) -> Noised:
        x_0, timesteps = batch.latents, draws.timesteps(1, 1000)[:, None].expand(-1, batch.views)
        rows, tau = x_0.flatten(0, 1), timesteps.flatten()
        cond = batch.cond.map(lambda tensor: tensor.expand(len(batch), batch.views, *tensor.shape[2:]).flatten(0, 1))
        sampler = Sampler(sampling_timesteps(schedule, 10, "leading", 1))
        x_t = sampler.sample(policy, rows, cond, start=torch.full_like(tau, CLEAN), stop=tau).x
        alpha, sigma = (value.view(-1, 1, 1, 1).to(x_t) for value in schedule.alpha_sigma(tau))
        return Noised(x_t.view_as(x_0), x_0, ((x_t - alpha * rows) / sigma).view_as(x_0), timesteps)


def network(kind: PredictionType) -> Oracle:
    """One that is not linear."""
    return Oracle(lambda x, _, sigma, token: torch.tanh(sigma * x + token), kind)


def inverted(keys: list[int], kind: PredictionType) -> Noised:
    tanh = network(kind)
    draw = {key: torch.Generator().manual_seed(key) for key in keys}
    x_0 = torch.stack([torch.randn(2, 4, 3, 3, generator=draw[key], dtype=torch.float64) for key in keys])
    cond = Conditioning(torch.tensor(keys, dtype=torch.float64).view(-1, 1, 1) / 10)
    batch = Batch(torch.tensor(keys), torch.tensor(keys), x_0, cond)
    return ToyInversion()(batch, tanh, tanh.schedule, Draws(0, batch.keys))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_x_t_is_alpha_x0_plus_sigma_noise_at_the_timestep_of_each_row(kind: PredictionType):
    found = inverted([3, 8, 21], kind)
    assert len(set(found.timesteps[:, 0].tolist())) == 3
    squared = ABAR[found.timesteps][..., None, None, None]
    torch.testing.assert_close(found.x_t, squared.sqrt() * found.x_0 + (1 - squared).sqrt() * found.noise)
    assert found.noise.abs().max() < 1.5  # of a network whose noise is below 1: no row ended at another's timestep


def test_networks_that_differ_in_parameterisation_alone_invert_equally():
    epsilon, velocity = (inverted([3, 8, 21], kind) for kind in ("epsilon", "v_prediction"))
    torch.testing.assert_close(epsilon.x_t, velocity.x_t, atol=1e-10, rtol=0)
    torch.testing.assert_close(epsilon.noise, velocity.noise, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_permuted_rows_are_inverted_to_permuted_rows(kind: PredictionType):
    found = inverted([3, 8, 21], kind)
    permuted = inverted([21, 3, 8], kind)
    assert torch.equal(permuted.x_t, found.x_t[[2, 0, 1]])
    assert torch.equal(permuted.timesteps, found.timesteps[[2, 0, 1]])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_denoising_by_the_same_sampler_leads_back(kind: PredictionType):
    found, tanh = inverted([3, 8, 21], kind), network(kind)
    schedule = tanh.schedule
    tau = found.timesteps.flatten()
    cond = Conditioning((torch.tensor([3, 3, 8, 8, 21, 21], dtype=torch.float64) / 10)[:, None])
    errors = []
    for steps in (50, 100):
        sampler = Sampler(sampling_timesteps(schedule, steps, "leading", 1))
        clean = torch.full_like(tau, CLEAN)
        x_t = sampler.sample(tanh, found.x_0.flatten(0, 1), cond, start=clean, stop=tau).x
        back = sampler.sample(tanh, x_t, cond, start=tau, stop=clean).x
        errors.append((back - found.x_0.flatten(0, 1)).abs().max().item())
    assert errors[0] < 0.1
    assert errors[1] < 0.7 * errors[0]  # DDIM is of first order
