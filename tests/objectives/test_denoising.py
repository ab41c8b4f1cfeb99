"""The denoising loss against values derived by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from t2ialign.objectives.denoising import Denoising, min_snr_weight, pseudo_huber
from t2ialign.objectives.dpo import DiffusionDPO
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


def at_high_noise(kind: PredictionType, *, difference: float) -> tuple[Prediction, Batch]:
    """A prediction whose noise is wrong by `difference` at alpha 0.6, sigma 0.8; and its batch."""
    schedule = VPSchedule(torch.tensor([0.36], dtype=torch.float64), kind, 1.0)
    x_0, noise = (torch.full((1, 1, 1, 2, 2), value, dtype=torch.float64) for value in (2.0, 1.0))
    x_t = 0.6 * x_0 + 0.8 * noise
    wrong = noise + difference
    # v = (noise - sigma x_t) / alpha of the network that sees this noise in x_t
    policy = wrong if kind == "epsilon" else (wrong - 0.8 * x_t) / 0.6
    noised = Noised(x_t, x_0, noise, torch.zeros(1, 1, dtype=torch.int64))
    return Prediction(policy, None, noised, schedule), Batch(
        torch.zeros(1), torch.zeros(1), x_0, Conditioning(torch.zeros(1, 1, 1, 1))
    )


@pytest.mark.parametrize(
    ("kind", "space", "error"),
    [
        ("epsilon", "network", 0.3),
        ("epsilon", "noise", 0.3),
        ("epsilon", "x0", 0.3 * 0.8 / 0.6),  # sigma / alpha
        ("v_prediction", "network", 0.3 / 0.6),  # 1 / alpha
        ("v_prediction", "noise", 0.3),
        ("v_prediction", "x0", 0.3 * 0.8 / 0.6),
    ],
)
def test_the_space_decides_in_which_terms_the_error_is_squared(kind: PredictionType, space: str, error: float):
    objective = Denoising.model_validate({"space": space})
    assert objective(*at_high_noise(kind, difference=0.3)).losses.item() == pytest.approx(error**2)


def test_pseudo_huber_is_a_parabola_near_0_and_the_distance_far_away():
    d = torch.tensor([1e-5, 0.5, -3.0], dtype=torch.float64)
    found = pseudo_huber(d, 1e-3)
    assert found[0].item() == pytest.approx(1e-10 / 2e-3, rel=1e-4)
    assert found[1].item() == pytest.approx((0.25 + 1e-6) ** 0.5 - 1e-3)
    assert found[2].item() == pytest.approx(3.0, abs=1.001e-3)
    objective = Denoising.model_validate({"loss": "pseudo_huber", "huber_scale": 0.1})
    output = objective(*at_high_noise("epsilon", difference=0.3))
    assert output.losses.item() == pytest.approx((0.09 + 0.01) ** 0.5 - 0.1)
    assert list(output.metrics) == ["pseudo_huber"]


def test_at_zero_terminal_snr_the_networks_own_space_leaves_dpo_a_gradient():
    """alpha 0: x_t is the noise itself, whatever the network says, so in noise space nothing is wrong with it."""
    schedule = VPSchedule(torch.tensor([0.5, 0.0], dtype=torch.float64), "v_prediction", 1.0)
    draw = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(1, 2, 1, 2, 2, dtype=torch.float64, generator=draw) for _ in range(2))
    batch = Batch(torch.zeros(1), torch.zeros(1), x_0, Conditioning(torch.zeros(1, 1, 1, 1)))
    for timestep, spaces in ((1, {"network": True, "noise": False}), (0, {"network": True, "noise": True})):
        timesteps = torch.full((1, 2), timestep)
        x_t = schedule.add_noise(x_0[0], noise[0], timesteps[0])[None]
        for space, has_gradient in spaces.items():
            policy = torch.zeros_like(x_0, requires_grad=True)
            objective = DiffusionDPO.model_validate({"beta": 10, "space": space})
            made = Prediction(
                policy, torch.zeros_like(x_0), Noised(x_t, x_0, noise, timesteps), schedule, space=objective.space
            )
            (gradient,) = torch.autograd.grad(objective(made, batch).losses.sum(), policy)
            assert bool(gradient.any()) is has_gradient, (timestep, space)


def test_under_v_prediction_the_error_of_the_network_is_the_noises_over_alpha_squared():
    made, _ = at_high_noise("v_prediction", difference=0.3)
    network, noise = (replace(made, reference=0 * made.policy, space=space) for space in ("network", "noise"))
    torch.testing.assert_close(network.policy_error, noise.policy_error / 0.36)
    torch.testing.assert_close(network.reference_error, noise.reference_error / 0.36)


@pytest.mark.parametrize("space", ["network", "noise", "x0"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_is_one_loss_in_whatever_terms(kind: PredictionType, space: str):
    """SNR 0.36 / 0.64 = 0.5625: below a gamma of 5 it is the weight of x_0's error, above one of 0.2 gamma is."""
    of_x0 = (0.3 * 0.8 / 0.6) ** 2
    for gamma, weight in ((5.0, 0.5625), (0.2, 0.2)):
        output = Denoising.model_validate({"space": space, "min_snr_gamma": gamma})(
            *at_high_noise(kind, difference=0.3)
        )
        assert output.losses.item() == pytest.approx(weight * of_x0)
        plain = Denoising.model_validate({"space": space})(*at_high_noise(kind, difference=0.3))
        assert output.metrics["mse"] == plain.losses


@pytest.mark.parametrize(("kind", "more"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_has_the_weights_of_the_paper_in_the_networks_own_terms(kind: PredictionType, more: int):
    alphas_cumprod = torch.linspace(0.999, 0.005, 50, dtype=torch.float64)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    found = min_snr_weight(VPSchedule(alphas_cumprod, kind, 1.0), torch.arange(50), 5.0, "network")
    torch.testing.assert_close(found, snr.clamp(max=5) / (snr + more))


def test_min_snr_counts_the_last_timestep_of_zero_terminal_snr():
    schedule = VPSchedule(torch.tensor([0.5, 0.0]), "v_prediction", 1.0)
    last = torch.tensor([1])
    assert min_snr_weight(schedule, last, 5.0, "noise").tolist() == [1]  # of an error that is 0 there
    assert min_snr_weight(schedule, last, 5.0, "network").tolist() == [0]
