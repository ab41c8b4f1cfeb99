"""Schedules against diffusers' schedulers and torch.distributions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ialign.schedules import CLEAN, FINAL, PredictionType, Spacing, VPSchedule, network_timesteps, sampling_timesteps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
STEPS = 20
PREDICTIONS: list[PredictionType] = ["epsilon", "v_prediction"]
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


def test_with_eta_1_a_step_is_ddpms_posterior():
    # arXiv:2006.11239, Eq. 7, of neighbours a, b: mean (b^(1/2) beta x_0 + (1 - beta)^(1/2) (1 - b) x_t) / (1 - a)
    schedule = VPSchedule.from_scheduler(DDIMScheduler(**BETAS))
    x_t, prediction = (
        torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    )
    at = torch.tensor([900, 400, 20])
    step = schedule.sde_step(prediction, x_t, at, at - 1, eta=1.0, x=x_t)
    a, b = (schedule.alpha_sigma(level)[0].square().view(3, 1, 1, 1) for level in (at, at - 1))
    beta, x_0 = 1 - a / b, schedule.to_x0_noise(prediction, x_t, at)[0]
    expected = (b.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - b) * x_t) / (1 - a)
    torch.testing.assert_close(step.mean, expected)
    torch.testing.assert_close(step.std.view(3, 1, 1, 1).square(), (1 - b) / (1 - a) * beta)


def test_epsilon_and_v_of_one_state_make_one_step():
    schedules = [
        VPSchedule.from_scheduler(DDIMScheduler(**BETAS, prediction_type=kind)) for kind in ("epsilon", "v_prediction")
    ]
    x_0, noise = (
        torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    )
    at = torch.tensor([900, 400, 20])
    x_t = schedules[0].add_noise(x_0, noise, at)
    steps = [
        schedule.sde_step(schedule.target(x_0, noise, at), x_t, at, at - 20, eta=0.7, x=x_t) for schedule in schedules
    ]
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other)


def test_sde_step_without_eta_is_the_ddim_step():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, prediction, noise = (normal(2, 4, 8, 8, seed=seed) for seed in range(3))
    timesteps, to = torch.tensor([951, 1]), torch.tensor([901, -1])
    step = schedule.sde_step(prediction, x_t, timesteps, to, eta=0.0, noise=noise)
    torch.testing.assert_close(step.x, schedule.ddim_step(prediction, x_t, timesteps, to))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("start", "to", "eta"),
    [
        (951, 901, 0.0),  # no noise is asked for
        (1, CLEAN, 1.0),  # a clean latent has none
        (0, FINAL, 1.0),  # the same level for this schedule
        (CLEAN, 51, 1.0),  # inversion adds none
        (901, 951, 1.0),
        (951, 951, 1.0),
    ],
)
def test_a_deterministic_step_has_no_log_probability(dtype: torch.dtype, start: int, to: int, eta: float):
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, prediction, noise = (normal(2, 4, 8, 8, seed=seed).to(dtype) for seed in range(3))
    timesteps, destinations = torch.tensor([start, 951]), torch.tensor([to, 901])
    step = schedule.sde_step(prediction, x_t, timesteps, destinations, eta=eta, noise=noise)
    assert step.log_prob.isnan().tolist() == [True, eta == 0]
    torch.testing.assert_close(step.x[:1], schedule.ddim_step(prediction, x_t, timesteps, destinations)[:1])
    scored = schedule.sde_step(prediction, x_t, timesteps, destinations, eta=eta, x=step.x)
    assert scored.log_prob.isnan().tolist() == [True, eta == 0]


def test_noise_that_is_lost_in_rounding_has_no_log_probability():
    schedule = VPSchedule.from_scheduler(scheduler())
    timesteps, to = torch.tensor([951]), torch.tensor([901])
    for dtype, finite in ((torch.float32, False), (torch.float64, True)):
        x_t, prediction, noise = (normal(1, 4, 8, 8, seed=seed).to(dtype) for seed in range(3))
        step = schedule.sde_step(prediction, x_t, timesteps, to, eta=1e-9, noise=noise)
        assert step.log_prob.isfinite().item() is finite


def test_a_deterministic_row_leaves_the_gradient_of_the_others():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, x = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    prediction = normal(2, 4, 8, 8, seed=2).requires_grad_()
    step = schedule.sde_step(prediction, x_t, torch.tensor([1, 951]), torch.tensor([CLEAN, 901]), eta=1.0, x=x)
    step.log_prob[1].backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1].abs().min() > 0


def test_sde_step_wants_noise_or_a_sample():
    schedule = VPSchedule.from_scheduler(scheduler())
    x_t, t = normal(1, 4, 8, 8), torch.tensor([1])
    with pytest.raises(ValueError, match="noise"):
        schedule.sde_step(x_t, x_t, t, t - 1, eta=1.0)


def test_alpha_and_sigma_by_hand():
    # alphas_cumprod = [0.64, 0.36]: alpha = 0.8, 0.6; sigma = 0.6, 0.8; FINAL has alpha^2 0.64, a clean latent 1
    schedule = VPSchedule(torch.tensor([0.64, 0.36], dtype=torch.float64), "epsilon", 0.64)
    alpha, sigma = schedule.alpha_sigma(torch.tensor([0, 1, FINAL, CLEAN]))
    torch.testing.assert_close(alpha, torch.tensor([0.8, 0.6, 0.8, 1.0], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0.6, 0.8, 0.6, 0.0], dtype=torch.float64))
    assert (alpha[3].item(), sigma[3].item()) == (1.0, 0.0)
    # from t = 1 (x_t = 1, noise = 0.5): x_0 = (1 - 0.8 * 0.5) / 0.6 = 1; at t = 0: 0.8 * 1 + 0.6 * 0.5 = 1.1
    one = torch.ones(1, 1, 1, 1)
    torch.testing.assert_close(schedule.ddim_step(0.5 * one, one, torch.tensor([1]), torch.tensor([0])), 1.1 * one)
    # std = sqrt((1 - 0.64) / (1 - 0.36) * (1 - 0.36 / 0.64)) = sqrt(0.5625 * 0.4375) = 0.496078
    std = schedule.transition_std(torch.tensor([1]), torch.tensor([0]), eta=1.0)
    assert std.item() == pytest.approx(math.sqrt(0.5625 * 0.4375))


@pytest.mark.parametrize("wrong", [-3, -20, 2])
def test_a_level_that_does_not_exist_is_an_error(wrong: int):
    schedule = VPSchedule(torch.tensor([0.64, 0.36]), "epsilon", 0.64)
    with pytest.raises(IndexError):
        schedule.alpha_sigma(torch.tensor([0, wrong]))


def test_networks_see_final_and_clean_as_timestep_0():
    assert network_timesteps(torch.tensor([CLEAN, FINAL, 0, 1, 999])).tolist() == [0, 0, 0, 1, 999]


@pytest.mark.parametrize("to", [0, 1, 500, 999])
def test_a_clean_latent_is_its_own_x0_and_equal_networks_invert_it_equally(to: int):
    # v of an epsilon network: noise = alpha v + sigma x, so v = (noise - sigma x) / alpha, at the timestep it is asked
    x, noise = normal(1, 4, 8, 8).double(), normal(1, 4, 8, 8, seed=1).double()
    epsilon, velocity = (VPSchedule.from_scheduler(scheduler(kind)) for kind in PREDICTIONS)
    alpha, sigma = epsilon.alpha_sigma(torch.tensor([0]))
    prediction = {"epsilon": noise, "v_prediction": (noise - sigma * x) / alpha}
    clean, destination = torch.tensor([CLEAN]), torch.tensor([to])
    for schedule in (epsilon, velocity):
        found = schedule.to_x0_noise(prediction[schedule.prediction_type], x, clean)
        torch.testing.assert_close(found, (x, noise), atol=1e-12, rtol=0)
        x_t = schedule.ddim_step(prediction[schedule.prediction_type], x, clean, destination)
        torch.testing.assert_close(x_t, schedule.add_noise(x, noise, destination), atol=1e-12, rtol=0)


LEVELS = st.integers(CLEAN, 999)


@settings(deadline=None, max_examples=60)
@given(at=LEVELS, to=LEVELS, kind=st.sampled_from(PREDICTIONS), final=st.booleans(), seed=st.integers(0, 99))
def test_every_step_with_a_perfect_prediction_lands_on_alpha_x0_plus_sigma_noise(
    at: int, to: int, kind: PredictionType, final: bool, seed: int
):
    schedule = VPSchedule.from_scheduler(scheduler(kind, final))
    x_0, noise = normal(1, 4, 2, 2, seed=seed).double(), normal(1, 4, 2, 2, seed=seed + 100).double()
    start, destination = torch.tensor([at]), torch.tensor([to])
    # what a network says that knows x_0 and noise: of a clean latent, at timestep 0
    asked = torch.tensor([0]) if at == CLEAN else start
    x_t = schedule.add_noise(x_0, noise, start)
    alpha, sigma = schedule.alpha_sigma(asked)
    prediction = noise if kind == "epsilon" else (noise - sigma * x_t) / alpha
    moved = schedule.ddim_step(prediction, x_t, start, destination)
    torch.testing.assert_close(moved, schedule.add_noise(x_0, noise, destination), atol=1e-9, rtol=0)
    for eta in (0.0, 1.0):
        step = schedule.sde_step(prediction, x_t, start, destination, eta=eta, noise=noise)
        assert step.x.isfinite().all()
        is_random = eta > 0 and to < at and bool(schedule.alpha_sigma(destination)[1] > 0)
        is_random &= bool(schedule.alpha_sigma(destination)[0] > schedule.alpha_sigma(start)[0])
        assert step.log_prob.isfinite().item() is is_random


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 30, 50])
def test_sampling_timesteps_equal_diffusers(spacing: Spacing, steps: int):
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


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_as_many_steps_as_timesteps_visit_each_once_as_indices(spacing: Spacing):
    timesteps = sampling_timesteps(VPSchedule.from_scheduler(scheduler()), 1000, spacing, 0)
    assert timesteps.dtype == torch.int64
    assert timesteps.tolist() == [*range(999, -1, -1)]


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="timestep spacing 'even'; known: leading, trailing, linspace"):
        sampling_timesteps(VPSchedule.from_scheduler(scheduler()), 5, "even", 0)  # type: ignore[arg-type]


def test_a_scheduler_that_does_not_say_predicts_epsilon_and_ends_at_its_first_level():
    table = torch.tensor([0.9, 0.5])
    schedule = VPSchedule.from_scheduler(SimpleNamespace(config={}, alphas_cumprod=table))
    assert schedule.prediction_type == "epsilon"
    assert schedule.alpha_sigma(torch.tensor([FINAL]))[0].item() == pytest.approx(math.sqrt(0.9))


def test_zero_terminal_snr_gives_pure_noise_and_its_v_prediction_the_image():
    """At alpha 0 v is -x_0 (Lin et al. 2023, arXiv:2305.08891): x_0 and noise are found without a division by alpha."""
    schedule = VPSchedule(torch.tensor([0.9, 0.0]), "v_prediction", 1.0)
    x_0, noise, last = normal(2, 4, 2, 2), normal(2, 4, 2, 2, seed=1), torch.tensor([1, 1])
    assert torch.equal(schedule.add_noise(x_0, noise, last), noise)
    found = schedule.to_x0_noise(schedule.target(x_0, noise, last), noise, last)
    torch.testing.assert_close(found, (x_0, noise))
