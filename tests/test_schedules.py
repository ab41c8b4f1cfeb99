"""Schedules against diffusers' schedulers and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from t2ialign.schedules import VPSchedule, sampling_timesteps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
STEPS = 20
PREDICTIONS = ["epsilon", "v_prediction"]
# diffusers computes in float32 from a float32 table, we from the same table in float64: rounding, amplified by
# 1 / alpha_t = 14.6 at t = 999
TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scheduler(prediction_type: str = "epsilon", set_alpha_to_one: bool = False, **options) -> DDIMScheduler:
    ddim = DDIMScheduler(
        **BETAS, steps_offset=1, prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one, **options
    )
    ddim.set_timesteps(STEPS)
    return ddim


def steps_of(ddim: DDIMScheduler) -> list[tuple[int, int]]:
    """(from, to) of the first, a middle and the last step."""
    visited = [*ddim.timesteps.tolist(), -1]
    return [(visited[k], visited[k + 1]) for k in (0, STEPS // 2, STEPS - 1)]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_ddim_step_equals_diffusers(prediction_type, set_alpha_to_one):
    ddim = scheduler(prediction_type, set_alpha_to_one)
    schedule = VPSchedule.from_scheduler(ddim)
    x_t, prediction = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    for timestep, to in steps_of(ddim):
        expected = ddim.step(prediction, timestep, x_t).prev_sample
        ours = schedule.ddim_step(prediction, x_t, torch.tensor([timestep] * 2), torch.tensor([to] * 2))
        torch.testing.assert_close(ours, expected, **TOLERANCE)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_inverse_step_equals_diffusers(prediction_type, set_alpha_to_one):
    inverse = DDIMInverseScheduler(
        **BETAS, steps_offset=1, prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one
    )
    inverse.set_timesteps(STEPS)
    schedule = VPSchedule.from_scheduler(inverse)
    x_t, prediction = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    stride = inverse.config.num_train_timesteps // STEPS
    for to in inverse.timesteps[[0, STEPS // 2, -1]].tolist():
        expected = inverse.step(prediction, to, x_t).prev_sample
        start = max(to - stride, -1)  # the first inverse step leaves the clean end
        ours = schedule.ddim_step(prediction, x_t, torch.tensor([start] * 2), torch.tensor([to] * 2))
        torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_inversion_undoes_a_ddim_step_of_the_same_noise():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, noise = normal(1, 4, 8, 8).double(), normal(1, 4, 8, 8, seed=1).double()
    late, early = torch.tensor([501]), torch.tensor([451])
    there = schedule.ddim_step(noise, x_t, late, early)
    torch.testing.assert_close(schedule.ddim_step(noise, there, early, late), x_t, atol=1e-12, rtol=0)


def test_add_noise_and_v_target_equal_diffusers():
    ddim = scheduler("v_prediction")
    schedule = VPSchedule.from_scheduler(ddim)
    x_0, noise, timesteps = normal(4, 4, 8, 8), normal(4, 4, 8, 8, seed=1), torch.tensor([0, 1, 500, 999])
    torch.testing.assert_close(schedule.add_noise(x_0, noise, timesteps), ddim.add_noise(x_0, noise, timesteps))
    torch.testing.assert_close(schedule.target(x_0, noise, timesteps), ddim.get_velocity(x_0, noise, timesteps))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_perfect_prediction_gives_back_x0_and_noise(prediction_type):
    schedule = VPSchedule.from_scheduler(scheduler(prediction_type))
    x_0, noise = normal(4, 4, 8, 8).double(), normal(4, 4, 8, 8, seed=1).double()
    timesteps = torch.tensor([0, 1, 500, 999])
    prediction = schedule.target(x_0, noise, timesteps)
    found = schedule.to_x0_noise(prediction, schedule.add_noise(x_0, noise, timesteps), timesteps)
    assert found[0].dtype == torch.float64
    torch.testing.assert_close(found, (x_0, noise), atol=1e-10, rtol=0)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sde_step_equals_diffusers_ddim_with_eta(prediction_type, set_alpha_to_one, eta):
    ddim = scheduler(prediction_type, set_alpha_to_one)
    schedule = VPSchedule.from_scheduler(ddim)
    x_t, prediction, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    for timestep, to in steps_of(ddim):
        expected = ddim.step(prediction, timestep, x_t, eta=eta, variance_noise=noise).prev_sample
        step = schedule.sde_step(
            prediction, x_t, torch.tensor([timestep] * 2), torch.tensor([to] * 2), eta=eta, noise=noise
        )
        torch.testing.assert_close(step.x, expected, **TOLERANCE)


def test_log_prob_equals_torch_distributions_and_scoring_equals_sampling():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, prediction, noise = (normal(2, 4, 8, 8, seed=seed).double() for seed in range(3))
    timesteps, to = torch.tensor([951, 51]), torch.tensor([901, 1])
    step = schedule.sde_step(prediction, x_t, timesteps, to, eta=1.0, noise=noise)
    expected = torch.distributions.Normal(step.mean, step.std.view(2, 1, 1, 1)).log_prob(step.x).mean(dim=(1, 2, 3))
    torch.testing.assert_close(step.log_prob, expected)
    scored = schedule.sde_step(prediction, x_t, timesteps, to, eta=1.0, x=step.x)
    torch.testing.assert_close(scored.log_prob, step.log_prob)


def test_sde_step_without_eta_is_the_ddim_step():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, prediction, noise = (normal(2, 4, 8, 8, seed=seed) for seed in range(3))
    timesteps, to = torch.tensor([951, 1]), torch.tensor([901, -1])
    step = schedule.sde_step(prediction, x_t, timesteps, to, eta=0.0, noise=noise)
    torch.testing.assert_close(step.x, schedule.ddim_step(prediction, x_t, timesteps, to))


def test_sde_step_wants_noise_or_a_sample():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, t = normal(1, 4, 8, 8), torch.tensor([1])
    with pytest.raises(ValueError, match="noise"):
        schedule.sde_step(x_t, x_t, t, t - 1, eta=1.0)


def test_alpha_and_sigma_by_hand():
    # alphas_cumprod = [0.64, 0.36]: alpha = 0.8, 0.6; sigma = 0.6, 0.8; the clean end has alpha 1
    schedule = VPSchedule(torch.tensor([0.64, 0.36], dtype=torch.float64), "epsilon", 1.0)
    alpha, sigma = schedule.alpha_sigma(torch.tensor([0, 1, -1, -20]))
    torch.testing.assert_close(alpha, torch.tensor([0.8, 0.6, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64))
    # from t = 1 (x_t = 1, noise = 0.5): x_0 = (1 - 0.8 * 0.5) / 0.6 = 1; at t = 0: 0.8 * 1 + 0.6 * 0.5 = 1.1
    one = torch.ones(1, 1, 1, 1)
    torch.testing.assert_close(schedule.ddim_step(0.5 * one, one, torch.tensor([1]), torch.tensor([0])), 1.1 * one)
    # std = sqrt((1 - 0.64) / (1 - 0.36) * (1 - 0.36 / 0.64)) = sqrt(0.5625 * 0.4375) = 0.496078
    std = schedule.transition_std(torch.tensor([1]), torch.tensor([0]), eta=1.0)
    assert std.item() == pytest.approx(math.sqrt(0.5625 * 0.4375))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 30, 50])
def test_sampling_timesteps_equal_diffusers(spacing, steps):
    ddim = DDIMScheduler(**BETAS, steps_offset=1, timestep_spacing=spacing)
    ddim.set_timesteps(steps)
    schedule = VPSchedule.from_scheduler(ddim)
    assert sampling_timesteps(schedule, steps, spacing, 1).tolist() == ddim.timesteps.tolist()


@pytest.mark.parametrize(("steps", "offset"), [(0, 0), (1001, 0), (1000, 1)])
def test_impossible_numbers_of_steps_are_refused(steps, offset):
    with pytest.raises(ValueError, match="sampling steps"):
        sampling_timesteps(VPSchedule.from_scheduler(scheduler()), steps, "leading", offset)


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="sample"):
        VPSchedule(torch.tensor([0.5]), "sample", 1.0)  # type: ignore[arg-type]
