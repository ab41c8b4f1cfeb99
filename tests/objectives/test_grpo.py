"""GRPO's step objective: torch.distributions, the surrogate by hand, clip ranges, gradients and directions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from t2ialign.noisers.transitions import TransitionNoiser
from t2ialign.objectives.grpo import GRPO, clip_range, clipped_surrogate
from t2ialign.rng import Draws
from t2ialign.schedules import VPSchedule
from t2ialign.types import Batch, Conditioning, LossOutput, Noised, Prediction, Transitions

N, SHAPE = 4, (2, 3, 3)
ELEMENTS = math.prod(SHAPE)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
AT, TO = torch.tensor([901, 701, 501, 301]), torch.tensor([801, 601, 401, 201])
ADVANTAGES = torch.tensor([2.0, -1.0, 0.5, -3.0], dtype=torch.float64)


def schedule(kind: Any = "epsilon") -> VPSchedule:
    return VPSchedule((1 - BETAS).cumprod(0), kind, 1.0)


def drawn(seed: int) -> Tensor:
    return torch.randn(N, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sampled(kind: Any = "epsilon", eta: float = 1.0) -> tuple[Tensor, Transitions]:
    """Network outputs, and the steps that were sampled with them."""
    output, x_t = drawn(1), drawn(2)
    step = schedule(kind).sde_step(output, x_t, AT, TO, eta=eta, noise=drawn(3))
    return output, Transitions(x_t, step.x, AT, TO, step.mean, step.log_prob, eta)


def outcome(
    objective: GRPO, output: Tensor, steps: Transitions, *, reference: Tensor | None = None, kind: Any = "epsilon"
) -> LossOutput:
    zero = torch.zeros(N, 1, *SHAPE, dtype=torch.float64)
    noised = Noised(steps.x_t[:, None], zero, zero, AT[:, None])
    frozen = None if reference is None else reference[:, None]
    prediction = Prediction(output[:, None], frozen, noised, schedule(kind))
    keys = torch.arange(N)
    batch = Batch(keys, keys, zero, Conditioning(torch.zeros(N, 1, 1, 1)), advantages=ADVANTAGES, transitions=steps)
    return objective(prediction, batch)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_before_an_update_the_ratio_is_1_and_the_gradient_that_of_the_log_probability(kind: Any, eta: float):
    output, steps = sampled(kind, eta)
    output.requires_grad_()
    found = outcome(GRPO(), output, steps, kind=kind)
    assert found.metrics["ratio"].tolist() == [1.0] * N
    assert found.metrics["clipped"].sum() == 0
    torch.testing.assert_close(found.losses, -ADVANTAGES)
    (gradient,) = torch.autograd.grad(found.losses.sum(), output)
    step = schedule(kind).sde_step(output, steps.x_t, AT, TO, eta=eta, noise=torch.zeros_like(output))
    by_torch = Normal(step.mean, step.std.view(N, 1, 1, 1)).log_prob(steps.x_next).flatten(1).mean(1)
    torch.testing.assert_close(by_torch, steps.log_prob)
    (expected,) = torch.autograd.grad((-ADVANTAGES * by_torch).sum(), output)
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_of_the_mean_is_the_distance_over_d_sigma_squared():
    _, steps = sampled()
    mean = drawn(5).requires_grad_()
    std = schedule().transition_std(AT, TO, 1.0).view(N, 1, 1, 1)
    log_prob = Normal(mean, std).log_prob(steps.x_next).flatten(1).mean(1)
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    torch.testing.assert_close(gradient, (steps.x_next - mean).detach() / (ELEMENTS * std**2))


def test_the_surrogate_by_hand():
    ratio = torch.tensor([1.3, 1.3, 0.6, 0.6, 1.1])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    losses, clipped = clipped_surrogate(ratio, advantages, 0.2)
    assert losses.tolist() == pytest.approx([-2.4, 2.6, -1.2, 1.6, -1.1])
    assert clipped.tolist() == [True, False, False, True, False]


def test_the_clip_range_goes_as_the_noise_of_a_mean():
    assert clip_range(16_384) == 1e-4
    assert clip_range(65_536) == pytest.approx(5e-5)  # SDXL at 1024 px
    assert clip_range(256) == pytest.approx(8e-4)  # Shapes


def test_an_update_raises_the_log_probability_of_what_was_good_and_lowers_that_of_what_was_bad():
    output, steps = sampled()
    leaf = output.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(outcome(GRPO(), leaf, steps).losses.sum(), leaf)
    moved = output - 1e-3 * gradient
    after = schedule().sde_step(moved, steps.x_t, AT, TO, eta=1.0, x=steps.x_next).log_prob
    assert torch.equal((after - steps.log_prob).sign(), ADVANTAGES.sign())


def test_beyond_the_clip_a_row_that_went_far_enough_has_no_gradient():
    output, steps = sampled()
    leaf = output.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(outcome(GRPO(), leaf, steps).losses.sum(), leaf)
    far = (output - 0.5 * gradient / gradient.flatten(1).norm(dim=1).view(N, 1, 1, 1)).requires_grad_()
    found = outcome(GRPO(clip=1e-3), far, steps)
    (after,) = torch.autograd.grad(found.losses.sum(), far)
    assert found.metrics["clipped"].tolist() == [1.0] * N
    assert after.abs().max() == 0
    (without,) = torch.autograd.grad(outcome(GRPO(trust="none"), far, steps).losses.sum(), far)
    assert without.flatten(1).abs().amax(1).min() > 0


def means(output: Tensor, steps: Transitions) -> Tensor:
    return schedule().sde_step(output, steps.x_t, AT, TO, eta=1.0, x=steps.x_next).mean


def test_the_normalised_ratio_is_linear_in_the_policys_mean_and_has_no_bias():
    output, steps = sampled()
    std = schedule().transition_std(AT, TO, 1.0).view(N, 1, 1, 1)
    moved = output + 0.1 * drawn(6)
    # S (log rho + D) = mean (x - mu_old)(mu - mu_old) / S: of the noise z = (x - mu_old) / S it is linear
    expected = ((steps.x_next - steps.mean) * (means(moved, steps) - steps.mean) / std).flatten(1).mean(1)
    found = outcome(GRPO(ratio="normalised", trust="none"), moved, steps)
    torch.testing.assert_close(found.metrics["ratio"].log(), expected)
    torch.testing.assert_close(found.losses, -ADVANTAGES * expected.exp())
    noise = torch.randn(400, N, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logs = {}
    for ratio in ("plain", "normalised"):
        found = [
            outcome(GRPO(ratio=ratio), moved, Transitions(*step, 1.0)).metrics["ratio"].log()  # type: ignore[arg-type]
            for z in noise
            for step in [(steps.x_t, steps.mean + std * z, AT, TO, steps.mean, by_torch(steps.mean, std, z))]
        ]
        logs[ratio] = torch.stack(found)
    error = logs["normalised"].std(0) / 20
    assert (logs["normalised"].mean(0).abs() < 4 * error).all()
    divergence = ((means(moved, steps) - steps.mean).square() / (2 * std**2)).flatten(1).mean(1)
    assert ((logs["plain"].mean(0) + divergence).abs() < 4 * error / std.flatten()).all()
    assert (logs["plain"].mean(0) < -10 * error).any()


def by_torch(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    return Normal(mean, std).log_prob(mean + std * noise).flatten(1).mean(1)


def test_before_an_update_the_normalised_gradient_is_the_plain_one_times_the_steps_standard_deviation():
    output, steps = sampled()
    leaf = output.clone().requires_grad_()
    plain, normalised = (
        torch.autograd.grad(outcome(GRPO(ratio=ratio), leaf, steps).losses.sum(), leaf)[0]  # type: ignore[arg-type]
        for ratio in ("plain", "normalised")
    )
    std = schedule().transition_std(AT, TO, 1.0).view(N, 1, 1, 1)
    torch.testing.assert_close(normalised, std * plain)


def test_dppo_leaves_out_what_went_far_and_would_go_further_and_pulls_back_what_went_astray():
    output, steps = sampled()
    std = schedule().transition_std(AT, TO, 1.0).view(N, 1, 1, 1)
    ahead = 0.01 * ADVANTAGES.sign().view(N, 1, 1, 1) * (steps.x_next - steps.mean) / std  # raises A rho
    coefficient = (means(output + 1, steps) - means(output, steps)).flatten(1).mean(1).view(N, 1, 1, 1)
    objective = GRPO(trust="dppo")
    for way, left_out in ((1, True), (-1, False), (1e-3, False)):
        leaf = (output + way * ahead * std / coefficient).requires_grad_()
        found = outcome(objective, leaf, steps)
        assert (found.metrics["divergence"] >= 1e-5).tolist() == [abs(way) == 1] * N
        assert found.metrics["clipped"].bool().tolist() == [left_out] * N
        (gradient,) = torch.autograd.grad(found.losses.sum(), leaf)
        assert (gradient.flatten(1).abs().amax(1) == 0).tolist() == [left_out] * N
        if not left_out:
            torch.testing.assert_close(found.losses, outcome(GRPO(trust="none"), leaf, steps).losses)


def test_the_divergence_is_torchs_over_the_elements_and_0_at_the_reference():
    output, steps = sampled()
    reference = drawn(7)
    found = outcome(GRPO(kl=0.5), output, steps, reference=reference)
    std = schedule().transition_std(AT, TO, 1.0).view(N, 1, 1, 1)
    means = [
        schedule().sde_step(one, steps.x_t, AT, TO, eta=1.0, noise=torch.zeros_like(one)).mean
        for one in (output, reference)
    ]
    expected = kl_divergence(Normal(means[0], std), Normal(means[1], std)).flatten(1).mean(1)
    torch.testing.assert_close(found.metrics["kl"], expected)
    torch.testing.assert_close(found.losses, -ADVANTAGES + 0.5 * expected)
    assert outcome(GRPO(kl=0.5), output, steps, reference=output).metrics["kl"].abs().max() == 0


def test_the_noiser_states_what_x_t_holds_beside_x_0():
    _, steps = sampled()
    x_0, keys = drawn(9)[:, None], torch.arange(N)
    batch = Batch(keys, keys, x_0, Conditioning(torch.zeros(N, 1, 1, 1)), transitions=steps)
    noised = TransitionNoiser()(batch, None, schedule(), Draws(0, keys))  # type: ignore[arg-type]
    again = schedule().add_noise(noised.x_0[:, 0], noised.noise[:, 0], noised.timesteps[:, 0])
    torch.testing.assert_close(again, steps.x_t)
    assert noised.timesteps[:, 0].tolist() == AT.tolist()


def test_what_is_missing_is_named():
    keys = torch.arange(N)
    batch = Batch(keys, keys, drawn(9)[:, None], Conditioning(torch.zeros(N, 1, 1, 1)))
    zero = torch.zeros(N, 1, *SHAPE)
    prediction = Prediction(zero, None, Noised(zero, zero, zero, AT[:, None]), schedule())
    with pytest.raises(ValueError, match="needs recorded steps"):
        GRPO()(prediction, batch)
    with pytest.raises(ValueError, match="needs the recorded steps"):
        TransitionNoiser()(batch, None, schedule(), Draws(0, keys))  # type: ignore[arg-type]


def test_passes_and_weights_follow_the_keys():
    assert GRPO().required_weights == ()
    assert GRPO(kl=0.1).required_weights == ("reference",)
    assert GRPO().required_fields == ("advantages", "transitions")
