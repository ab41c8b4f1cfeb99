"""Forward-process RL: derived by hand, gradient identities at the old policy, limits, and bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from t2ialign.objectives.forward_rl import AWM, DiffusionNFT, nft_loss, optimality
from t2ialign.schedules import VPSchedule
from t2ialign.types import Batch, Conditioning, LossOutput, Noised, Prediction

N, SHAPE = 5, (2, 3, 3)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SPACES: list[Any] = ["x0", "noise"]


def schedule(kind: Any = "epsilon") -> VPSchedule:
    return VPSchedule((1 - BETAS).cumprod(0), kind, 1.0)


def drawn(seed: int) -> Tensor:
    return torch.randn(N, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(policy: Tensor, old: Tensor, *, kind: Any = "epsilon", timesteps: Tensor | None = None) -> Prediction:
    """Rows with x_0 and noise of their own, and the predictions given; the reference and the average are the old."""
    timesteps = torch.tensor([[50], [300], [501], [801], [999]]) if timesteps is None else timesteps
    x_0, noise, levels = drawn(1), drawn(2), schedule(kind)
    x_t = levels.add_noise(x_0[:, 0], noise[:, 0], timesteps[:, 0])[:, None]
    others = {"old": old.detach(), "ema": old.detach()}
    return Prediction(policy, old.detach(), Noised(x_t, x_0, noise, timesteps), levels, others=others)


def rows(advantages: Tensor, weights: Tensor | None = None) -> Batch:
    cond = Conditioning(torch.zeros(N, 1, 1, 1))
    keys = torch.arange(N)
    return Batch(keys, keys, drawn(1), cond, weights=weights, advantages=advantages)


def gradient(output: LossOutput, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(output.losses.sum(), leaf)
    return found


ADVANTAGES = torch.tensor([-7.0, -1.0, 0.0, 2.0, 9.0], dtype=torch.float64)


def test_optimality_by_hand():
    assert optimality(ADVANTAGES, 5.0).tolist() == pytest.approx([0.0, 0.4, 0.5, 0.7, 1.0])
    assert optimality(torch.tensor([1.0, -0.5, 0.25]), 1.0).tolist() == [1.0, 0.25, 0.625]  # 2w - 1 gives w again


def test_the_loss_by_hand():
    # beta 1/2: plus = (3 + 1) / 2 = 2, minus = 3/2 - 3/2 = 0; r 1/4: (1/4 * 4 + 3/4 * 0) * 2
    policy, old = torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1)
    assert nft_loss(policy, old, torch.tensor([0.25]), 0.5, normalise=False).item() == pytest.approx(2.0)
    # with w: 4 / |2|, and 0 / 1e-5
    assert nft_loss(policy, old, torch.tensor([0.25]), 0.5, normalise=True).item() == pytest.approx(1.0)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_at_the_old_policy_the_gradient_is_2r_minus_1_times_the_weighted_errors(beta: float, space: Any, kind: str):
    policy = drawn(3).requires_grad_()
    objective = DiffusionNFT(beta=beta, space=space, kl=0)
    prediction = made(policy, policy, kind=kind)
    found = gradient(objective(prediction, rows(ADVANTAGES)), policy)
    difference = prediction.difference(policy, space)
    scale = difference.detach().abs().mean(dim=(1, 2, 3, 4)) if space == "x0" else torch.ones(N, dtype=torch.float64)
    r = optimality(ADVANTAGES, 5.0)
    weighted = 5.0 * (2 * r - 1) * difference.square().mean(dim=(1, 2, 3, 4)) / scale
    (expected,) = torch.autograd.grad(weighted.sum(), policy)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_an_indifferent_row_pulls_back_to_the_old_policy_and_a_turned_one_the_other_way():
    old = drawn(3)
    at_old = old.clone().requires_grad_()
    half = torch.zeros(N, dtype=torch.float64)
    objective = DiffusionNFT(space="noise", kl=0)
    assert gradient(objective(made(at_old, old), rows(half)), at_old).abs().max() < 1e-15
    turned = [gradient(objective(made(at_old, old), rows(sign * ADVANTAGES)), at_old) for sign in (1, -1)]
    torch.testing.assert_close(turned[0], -turned[1])
    # away from old: c/beta * 1/2 * (2 beta (plus) - 2 beta (minus)) = 2 c beta (policy - old), over the elements
    away = (old + drawn(4)).requires_grad_()
    found = gradient(objective(made(away, old), rows(half)), away)
    torch.testing.assert_close(found, 2 * 5.0 * (away - old).detach() / math.prod(SHAPE))


def test_as_beta_goes_to_0_the_residual_is_the_old_policys():
    old = drawn(3)
    policy = (old + 0.3 * drawn(4)).requires_grad_()
    objective = DiffusionNFT(beta=1e-7, space="noise", kl=0)
    prediction = made(policy, old)
    found = gradient(objective(prediction, rows(ADVANTAGES)), policy)
    r = optimality(ADVANTAGES, 5.0).view(N, 1, 1, 1, 1)
    expected = 5.0 * (2 * r - 1) * 2 * prediction.difference(old, "noise") / math.prod(SHAPE)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_at_the_old_policy_awm_without_trust_is_nft_with_its_advantages():
    policy = drawn(3).requires_grad_()
    r = optimality(ADVANTAGES, 5.0)
    nft = gradient(DiffusionNFT(space="noise", kl=0)(made(policy, policy), rows(ADVANTAGES)), policy)
    awm = AWM(trust="none", advantage_clip=100, kl=0, ema_kl=0)
    torch.testing.assert_close(gradient(awm(made(policy, policy), rows(5.0 * (2 * r - 1))), policy), nft)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("objective", [DiffusionNFT(), DiffusionNFT(space="noise"), AWM()], ids=["x0", "noise", "awm"])
def test_the_loss_is_finite_at_the_noisiest_timestep(objective: Any, kind: str):
    policy = drawn(3).requires_grad_()
    prediction = made(policy, drawn(4), kind=kind, timesteps=torch.full((N, 1), 999))
    output = objective(prediction, rows(ADVANTAGES))
    assert output.losses.isfinite().all()
    assert gradient(output, policy).isfinite().all()


def test_distances_to_frozen_weights_are_0_at_them_and_of_noise_by_hand():
    old = drawn(3)
    for objective in (DiffusionNFT(kl=0.5), AWM(kl=0.5, ema_kl=0.25)):
        same, apart = (objective(made(policy, old), rows(ADVANTAGES)) for policy in (old, old + 0.1))
        assert same.metrics["kl"].abs().max() == 0
        assert apart.metrics["kl"].tolist() == pytest.approx([0.01] * N)
    awm = [AWM(kl=kl, ema_kl=ema)(made(old + 0.1, old), rows(ADVANTAGES)).losses for kl, ema in ((0, 0), (2, 3))]
    torch.testing.assert_close(awm[1] - awm[0], torch.full_like(awm[0], 5 * 0.01))


def test_a_clipped_row_of_awm_has_no_gradient_and_advantages_are_bounded():
    old = drawn(3)
    noise = drawn(2)
    nearer = (old + 0.5 * (noise - old)).requires_grad_()  # smaller errors: rho > 1
    clipped = AWM(clip=0.05, kl=0, ema_kl=0)(made(nearer, old), rows(ADVANTAGES))
    good = ADVANTAGES > 0
    assert clipped.metrics["ratio"].gt(1.05).all()
    assert clipped.metrics["clipped"].bool().tolist() == good.tolist()
    found = gradient(clipped, nearer)
    assert found[good].abs().max() == 0
    assert found[ADVANTAGES < 0].abs().amax(dim=(1, 2, 3, 4)).min() > 0
    unclipped = AWM(trust="none", kl=0, ema_kl=0)(made(nearer, old), rows(ADVANTAGES))
    assert unclipped.losses[4].item() == pytest.approx(-unclipped.metrics["ratio"][4].item())  # 9 counts as 1


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("uniform", 4.0), ("t", 2.0), ("t2", 1.0), ("generalised_huber", 0.5 * (4.0**0.25 - 1e-10**0.25) / 0.25)],
)
def test_weightings_by_hand(weighting: Any, expected: float):
    policy = drawn(2) + 2  # error 4 at t = 500 of 1000; old is right, so that rho = exp(-l)
    prediction = made(policy, drawn(2), timesteps=torch.full((N, 1), 500))
    output = AWM(weighting=weighting, trust="none", kl=0, ema_kl=0)(prediction, rows(ADVANTAGES))
    assert output.metrics["ratio"].log().neg().tolist() == pytest.approx([expected] * N, rel=1e-6)


def test_required_weights_are_those_that_count():
    assert DiffusionNFT().required_weights == ("old", "reference")
    assert DiffusionNFT(kl=0).required_weights == ("old",)
    assert AWM().required_weights == ("old", "reference", "ema")
    assert AWM(kl=0, ema_kl=0).required_weights == ("old",)
    assert DiffusionNFT().passes(1)[:3] == (2, 1, 1)


@pytest.mark.parametrize("objective", [DiffusionNFT(), AWM()])
def test_rows_permuted_permute_losses_and_rows_without_weight_count_nothing(objective: Any):
    policy, old, order = drawn(3), drawn(4), torch.tensor([3, 0, 4, 1, 2])
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    prediction = made(policy, old)
    output = objective(prediction, rows(ADVANTAGES, weights))
    assert output.weights.tolist() == weights.tolist()
    noised = prediction.noised
    moved = Prediction(
        policy[order], old[order], Noised(*(part[order] for part in (noised.x_t, noised.x_0, noised.noise)),
        noised.timesteps[order]), prediction.schedule, others={"old": old[order], "ema": old[order]},
    )  # fmt: skip
    torch.testing.assert_close(objective(moved, rows(ADVANTAGES[order])).losses, output.losses[order])


@pytest.mark.parametrize("objective", [DiffusionNFT(), AWM()])
def test_a_batch_without_advantages_is_refused(objective: Any):
    keys = torch.arange(N)
    batch = Batch(keys, keys, drawn(1), Conditioning(torch.zeros(N, 1, 1, 1)))
    with pytest.raises(ValueError, match="needs the advantages of rollouts"):
        objective(made(drawn(3), drawn(3)), batch)
