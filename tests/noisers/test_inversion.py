"""Inversion: to each row's own timestep, of the stated order, and on the released grids as the released code."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import Oracle
from pydantic import ValidationError
from torch import Tensor
from toys import batch as toy_batch
from toys import lora_policy

from t2ialign.errors import InputError
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.noisers.inversion import InversionNoiser
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.sampling.inversion import InversionPath, evaluations, inversion_path, invert
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import CLEAN, FINAL
from t2ialign.training.offline import compute_loss
from t2ialign.types import Batch, Conditioning, Noised, Prediction


def rows(count: int, *, views: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(0)
    x_0 = torch.randn(count, views, 4, 3, 3, generator=draw, dtype=torch.float64)
    keys = torch.arange(count)
    return Batch(keys, keys, x_0, Conditioning(torch.zeros(count, 1, 1, 1, dtype=torch.float64)))


def at(noiser: InversionNoiser, oracle: Oracle, batch: Batch, taus: list[int], monkeypatch: Any) -> Noised:
    """What the noiser makes of rows whose timesteps are these."""
    monkeypatch.setattr(Draws, "timesteps", lambda *_: torch.tensor(taus))
    return noiser(batch, oracle, oracle.schedule, Draws(0, batch.keys))


@pytest.mark.parametrize("corrections", [0, 1, 3])
@pytest.mark.parametrize("steps", [1, 5, 10])
def test_a_constant_network_finds_its_own_noise_at_every_timestep(steps: int, corrections: int, monkeypatch: Any):
    taus = [0, 1, 5, 99, 100, 101, 500, 999]
    batch = rows(len(taus))
    oracle = Oracle(lambda x, *_: torch.full_like(x, 0.7))
    found = at(InversionNoiser(steps=steps, corrections=corrections), oracle, batch, taus, monkeypatch)
    torch.testing.assert_close(found.noise, torch.full_like(found.noise, 0.7), atol=1e-11, rtol=0)
    assert found.timesteps[:, 0].tolist() == taus


@pytest.mark.parametrize(("tau", "noise"), [(50, 0.6101), (300, 0.6756), (900, 0.6976)])
def test_a_start_from_the_level_of_timestep_0_biases_the_noise(tau: int, noise: float):
    """The released code takes a clean latent for one at timestep 0; numbers derived from the schedule."""
    oracle = Oracle(lambda x, *_: torch.full_like(x, 0.7))
    levels = torch.tensor([[FINAL, tau]])
    path = InversionPath(levels, torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    x_0 = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    x_t = invert(oracle, x_0, Conditioning(torch.zeros(1, 1)), path)
    found = oracle.schedule.noise_between(x_0, x_t, torch.tensor([tau]))
    assert float(found) == pytest.approx(noise, abs=1e-4)
    ours = InversionPath(torch.tensor([[CLEAN, tau]]), path.asked, path.asked_again)
    clean = invert(oracle, x_0, Conditioning(torch.zeros(1, 1)), ours)
    assert float(oracle.schedule.noise_between(x_0, clean, torch.tensor([tau]))) == pytest.approx(0.7, abs=1e-12)


@pytest.mark.parametrize(
    ("tau", "scheme", "errors"),
    [
        (600, "plain", (0.158, 0.0839, 0.0440, 0.0228)),
        (600, "source", (0.166, 0.0865, 0.0448, 0.0230)),
        (600, "destination", (0.0306, 0.0078, 0.0020, 0.0005)),
        (300, "plain", (0.0587, 0.0310, 0.0162, 0.0083)),
        (300, "source", (0.0596, 0.0313, 0.0162, 0.0083)),
        (300, "destination", (0.0038, 0.0009, 0.0002, 0.0001)),
    ],
)
def test_a_correction_at_the_destination_is_of_second_order_and_one_at_the_source_of_first(
    tau: int, scheme: str, errors: tuple[float, ...]
):
    """Of x_0 ~ N(0, 1) the perfect network says sigma_t x_t, and the exact trajectory is constant."""
    oracle = Oracle(lambda x, _, sigma, __: sigma * x)
    for steps, error in zip((4, 8, 16, 32), errors, strict=True):
        levels = torch.tensor([[round(place * tau / steps) for place in range(steps + 1)]])
        sources, destinations = levels[:, :-1], levels[:, 1:]
        path = InversionPath(levels, sources, sources if scheme == "source" else destinations)
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        cond = Conditioning(torch.zeros(1, 1))
        found = invert(oracle, x, cond, path, corrections=0 if scheme == "plain" else 1)
        assert abs(float(found) - 1) == pytest.approx(error, abs=6e-5 if error < 0.1 else 6e-4)


def test_inverting_and_denoising_returns_the_image_the_closer_the_more_steps():
    """The error of DDIM inversion halves with twice the steps; a correction leaves a small part of it."""
    oracle = Oracle(lambda x, _, sigma, __: torch.tanh(1.5 * sigma * x) + 0.2 * sigma)
    x_0, tau, clean = rows(6).latents[:, 0], torch.full((6,), 900), torch.full((6,), CLEAN)
    cond = Conditioning(torch.zeros(6, 1, dtype=torch.float64))
    back = Sampler(torch.arange(0, 1000))

    def lost(steps: int, corrections: int) -> float:
        path = inversion_path(tau, steps, oracle.schedule, "exact", "destination")
        x_t = invert(oracle, x_0, cond, path, corrections=corrections)
        returned = back.sample(oracle, x_t, cond, start=tau, stop=clean).x
        return float((returned - x_0).square().mean().sqrt())

    plain, corrected = ([lost(steps, corrections) for steps in (20, 40, 80)] for corrections in (0, 1))
    assert 1.7 < plain[0] / plain[1] < 2.3
    assert 1.7 < plain[1] / plain[2] < 2.3
    assert corrected[0] > corrected[1] > corrected[2]
    assert all(less < more / 4 for less, more in zip(corrected, plain, strict=True))


def test_networks_that_differ_in_parameterisation_alone_invert_equally(monkeypatch: Any):
    noises = []
    for kind in ("epsilon", "v_prediction"):
        oracle = Oracle(lambda x, _, sigma, __: torch.tanh(sigma * x) + 0.1, kind)
        noiser = InversionNoiser(steps=7, corrections=1)
        noises.append(at(noiser, oracle, rows(3), [3, 400, 999], monkeypatch).noise)
    torch.testing.assert_close(*noises, atol=1e-9, rtol=0)


def test_without_corrections_it_is_what_the_sampler_does_on_the_same_levels():
    oracle = Oracle(lambda x, _, sigma, __: torch.tanh(sigma * x) + 0.1)
    x_0, tau = rows(3).latents[:, 0], torch.tensor([3, 400, 999])
    cond = Conditioning(torch.zeros(3, 1, dtype=torch.float64))
    path = inversion_path(tau, 7, oracle.schedule, "exact", "destination")
    sampled = Sampler(torch.arange(0, 1000)).sample(oracle, x_0, cond, levels=path.levels).x
    torch.testing.assert_close(invert(oracle, x_0, cond, path), sampled, atol=1e-12, rtol=0)


def test_a_row_costs_the_steps_to_its_own_timestep(monkeypatch: Any):
    oracle = Oracle(lambda x, _, sigma, __: sigma * x)
    at(InversionNoiser(steps=10, corrections=1), oracle, rows(3), [40, 450, 999], monkeypatch)
    assert [len(asked) for asked in oracle.asked] == [3, 3] + [2, 2] * 4 + [1, 1] * 5
    assert oracle.asked[0] == [0, 0, 0]
    assert oracle.asked[1] == [40, 90, 100]


def test_passes_are_the_mean_over_timesteps():
    noiser = InversionNoiser(steps=10, corrections=1)
    assert noiser.passes(2, 1000) == pytest.approx(2 * 2 * (sum(max(1, -(-tau // 100)) for tau in range(1000)) / 1000))
    assert InversionNoiser(steps=10, min_timestep=999).passes(1, 1000) == 10
    assert evaluations(10, 1000, "released", range(1000)) == pytest.approx(6.382)  # 1 + .998 + .898 + … + .198
    assert evaluations(10, 1000, "released_0.22", range(4)) == 0.5  # nothing is below 0 and 1


@pytest.mark.parametrize(
    ("tau", "levels", "asked"),
    [
        (0, [FINAL, 1], [-99]),
        (1, [FINAL, 1], [-99]),
        (2, [FINAL, 1, 101], [-99, 1]),
        (950, [FINAL, *range(1, 1000, 100)], [-99, *range(1, 900, 100)]),
    ],
)
def test_the_released_grid_ends_at_or_above_the_timestep(tau: int, levels: list[int], asked: list[int]):
    schedule = Oracle(lambda x, *_: x).schedule
    path = inversion_path(torch.tensor([tau]), 10, schedule, "released", "source")
    assert path.levels[0].tolist() == levels
    assert path.asked[0].tolist() == path.asked_again[0].tolist() == asked


def test_the_later_released_grid_ends_below_the_timestep():
    schedule = Oracle(lambda x, *_: x).schedule
    path = inversion_path(torch.tensor([950, 1]), 10, schedule, "released_0.22", "destination")
    assert path.levels.tolist() == [[FINAL, *range(1, 950, 100)], [FINAL] * 11]
    assert path.asked[0].tolist() == path.asked_again[0].tolist() == list(range(1, 950, 100))


def official(
    policy: Policy, x_0: Tensor, tau: int, steps: int, *, diffusers: str, renoise: bool, eta: float, normal: Any
) -> tuple[Tensor, Tensor]:
    """(x, noise) of the released procedure, written from its description: one timestep for all rows of the batch."""
    table = policy.backbone.pipeline().components["scheduler"].alphas_cumprod.double()
    total = len(table)
    stride = total // steps
    cond = toy_batch(policy, [3], views=len(x_0)).cond

    def network(x: Tensor, t: int) -> Tensor:
        text = cond.tokens[0].expand(len(x), -1, -1)
        with torch.no_grad():
            return policy.denoiser(x, torch.full((len(x),), t), encoder_hidden_states=text, return_dict=False)[0]

    def abar(t: int) -> Tensor:
        return table[t] if t >= 0 else table[0]

    def step(x: Tensor, noise: Tensor, source: int, destination: int) -> Tensor:
        clean = (x - (1 - abar(source)).sqrt() * noise) / abar(source).sqrt()
        return abar(destination).sqrt() * clean + (1 - abar(destination)).sqrt() * noise

    x = x_0.clone()
    if diffusers == "0.20":
        grid = [t for t in [1 - stride + place * stride for place in range(steps)] if t < tau]
    else:
        grid = [t for t in [1 + place * stride for place in range(steps)] if t < tau]
    for place, t in enumerate(grid):
        source, destination = (t, t + stride) if diffusers == "0.20" else (t - stride, t)
        noise = network(x, t)
        if renoise:
            noise = (noise + network(step(x, noise, source, destination), t)) / 2
        x = step(x, noise, source, destination)
        if eta:
            before, after = abar(source), abar(destination)
            variance = (1 - before) / (1 - after) * (1 - after / before)
            x = x + eta * variance.sqrt() * normal(place)
    return x, (x - table[tau].sqrt() * x_0) / (1 - table[tau]).sqrt()


OFFICIAL = {
    "SmPO, diffusers 0.20": ("0.20", {"grid": "released", "corrections": 1, "correction_timestep": "source"}),
    "SmPO, diffusers 0.22": ("0.22", {"grid": "released_0.22", "corrections": 1}),
    "InPO, diffusers 0.20": ("0.20", {"grid": "released", "eta": 0.1}),
    "InPO, diffusers 0.22": ("0.22", {"grid": "released_0.22"}),
}


@pytest.mark.parametrize("tau", [0, 1, 20, 101, 650, 950])
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_grids_are_the_released_code_at_batch_1(name: str, tau: int, sd15_folder: Path, monkeypatch: Any):
    """Noised latents, implied noise, loss and gradients to 1e-9 in float64."""
    diffusers, keys = OFFICIAL[name]
    policy = lora_policy(sd15_folder, moved=0.05, dtype=torch.float64)
    noiser = InversionNoiser.model_validate({"steps": 5, **keys})
    batch = toy_batch(policy, [3])
    draws = Draws(7, batch.keys)
    monkeypatch.setattr(Draws, "timesteps", lambda *_: torch.tensor([tau]))
    found = noiser(batch, policy, policy.schedule, draws)
    x, noise = official(
        policy, batch.latents[0], tau, 5, diffusers=diffusers, renoise=noiser.corrections == 1, eta=noiser.eta,
        normal=lambda step: draws.normal(tuple(batch.latents.shape[1:]), f"inversion {step}")[0].double(),
    )  # fmt: skip
    torch.testing.assert_close(found.x_t[0], x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.noise[0], noise, atol=1e-9, rtol=1e-9)

    loss = compute_loss(policy, batch, noiser, DiffusionDPO(beta=2000), 7).losses[0]
    parameters = list(policy.trained_parameters().values())
    gradients = torch.autograd.grad(loss, parameters)
    times = torch.full((2,), tau)
    text = batch.cond.tokens[0].expand(2, -1, -1)
    with torch.no_grad(), policy.mixture("reference") as reference:
        before = (
            (reference(x, times, encoder_hidden_states=text, return_dict=False)[0] - noise).square().mean((1, 2, 3))
        )
    after = (policy.denoise(x, times, Conditioning(text)) - noise).square().mean((1, 2, 3))
    inside = -0.5 * 2000 * ((after[0] - after[1]) - (before[0] - before[1]))
    expected = -torch.nn.functional.logsigmoid(inside)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9, abs=1e-9)
    for one, other in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * max(1.0, float(other.abs().max())))


def test_rows_permuted_permute_what_is_found(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.05, dtype=torch.float64)
    noiser = InversionNoiser(steps=5, corrections=1, eta=0.1)
    there, back = [4, 9, 2, 30], [2, 30, 9, 4]
    one, other = (
        noiser(toy_batch(policy, keys), policy, policy.schedule, Draws(1, torch.tensor(keys))) for keys in (there, back)
    )
    places = [there.index(key) for key in back]
    assert len(set(one.timesteps[:, 0].tolist())) == 4
    torch.testing.assert_close(one.noise[places], other.noise, atol=1e-9, rtol=0)
    losses = [
        compute_loss(policy, toy_batch(policy, keys), noiser, DiffusionDPO(beta=100), 1).losses.detach()
        for keys in (there, back)
    ]
    torch.testing.assert_close(losses[0][places], losses[1], atol=1e-9, rtol=0)


def test_the_reference_inverts_as_an_untrained_policy_does(sd15_folder: Path):
    moved, fresh = (lora_policy(sd15_folder, moved=size, dtype=torch.float64) for size in (0.2, 0.0))
    batch = toy_batch(fresh, [5, 6])

    def noise(policy: Policy, weights: str) -> Tensor:
        noiser = InversionNoiser.model_validate({"steps": 5, "weights": weights})
        return noiser(batch, policy, policy.schedule, Draws(0, batch.keys)).noise

    torch.testing.assert_close(noise(moved, "reference"), noise(fresh, "policy"))
    assert (noise(moved, "policy") - noise(fresh, "policy")).abs().max() > 1e-4
    assert InversionNoiser(weights="reference").required_weights == ("reference",)
    assert InversionNoiser().required_weights == ()


def test_the_inversion_passes_on_no_gradient_and_the_untouched_policy_starts_at_ln_2(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    batch = toy_batch(policy, [1, 2])
    noised = InversionNoiser(steps=3)(batch, policy, policy.schedule, Draws(0, batch.keys))
    assert not noised.x_t.requires_grad
    losses = compute_loss(policy, batch, InversionNoiser(steps=3), DiffusionDPO(beta=100), 0).losses
    torch.testing.assert_close(losses.detach(), torch.full_like(losses, 0.6931471805599453))


def test_noise_given_by_eta_has_the_std_of_the_step_back(monkeypatch: Any):
    """0.1 of Eq. 16 on the released grid, by the level where a step begins."""
    oracle = Oracle(lambda x, *_: torch.zeros_like(x))
    steps = inversion_path(torch.tensor([950]), 10, oracle.schedule, "released", "source").levels[0].tolist()
    added = [
        float(oracle.schedule.transition_std(torch.tensor([end]), torch.tensor([start]), 0.1))
        for start, end in itertools.pairwise(steps)
    ]
    for place, std in ((0, 0.0021), (1, 0.0041), (2, 0.0261), (5, 0.0528), (9, 0.0776)):
        assert added[place] == pytest.approx(std, abs=6e-5)
    with pytest.raises(ValueError, match=r"eta 0\.1 needs"):
        invert(
            oracle,
            rows(1).latents[:, 0],
            Conditioning(torch.zeros(1, 1)),
            inversion_path(torch.tensor([5]), 10, oracle.schedule, "exact", "destination"),
            eta=0.1,
        )


def test_replaced_by_forward_noise_the_loss_is_dpos(sd15_folder: Path):
    """The two noisers differ in x_t alone: the same objective, handed the other's latents, says the same."""
    policy = lora_policy(sd15_folder, moved=0.05)
    batch = toy_batch(policy, [1, 2])
    noised = ForwardNoiser()(batch, policy, policy.schedule, Draws(0, batch.keys))
    given = (noised.x_t, noised.timesteps, batch.cond, batch.geometry)
    prediction = Prediction(policy.predict(*given), policy.predict(*given, "reference"), noised, policy.schedule)
    objective = DiffusionDPO(beta=100)
    torch.testing.assert_close(
        objective(prediction, batch).losses, compute_loss(policy, batch, ForwardNoiser(), objective, 0).losses
    )


def test_keys_that_contradict_are_refused():
    with pytest.raises(ValidationError, match="evaluates at destinations"):
        InversionNoiser.model_validate({"grid": "released_0.22", "correction_timestep": "source"})
    with pytest.raises(InputError, match=r"noiser\.steps is 2000, and the model has 1000"):
        InversionNoiser(steps=2000).check(1000)
