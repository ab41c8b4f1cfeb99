"""Self-NPO's truncated rollouts: against the released procedure, written from its description, and their own laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import batch as toy_batch
from toys import lora_policy

from t2ialign.errors import InputError
from t2ialign.noisers.self_rollout import SelfRolloutNoiser
from t2ialign.objectives.denoising import Denoising
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.schedules import VPSchedule
from t2ialign.training.offline import compute_loss
from t2ialign.types import Conditioning, Noised

REFERENCE = "reference"
KEYS = [3, 8, 21, 34]
PLACES = [24, 7, 4, 1]
"""Places on the grid 39, 79, …, 999 of four rows: 999 and 319 leave room for five steps, 199 just so, 79 for two."""


@pytest.fixture(autouse=True)
def null_of_the_networks_type(monkeypatch: Any) -> None:
    monkeypatch.setattr(Policy, "null", lambda self: self.backbone.null().to(dtype=self.denoiser.dtype))


def rollout(policy: Policy, noiser: SelfRolloutNoiser, monkeypatch: Any, ends: list[int]) -> tuple[Noised, Draws]:
    """The noiser's answer for rows that begin at PLACES and are noised again to `ends`."""

    def integers(_: Draws, low: Tensor, high: Tensor, stream: str) -> Tensor:
        if stream == "rollout":  # the grid counts from the noisiest timestep down
            assert (int(low[0]), int(high[0])) == (0, 25)
            return 24 - torch.tensor(PLACES)
        assert torch.all(torch.tensor(ends) >= low)
        assert high.tolist() == [1000] * len(KEYS)
        return torch.tensor(ends)

    monkeypatch.setattr(Draws, "integers", integers)
    batch = toy_batch(policy, KEYS, views=1)
    draws = Draws(5, batch.keys)
    return noiser(batch, policy, policy.schedule, draws), draws


def official(
    policy: Policy, w: float, x_0: Tensor, noise: Tensor, again: Tensor, ends: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_s, target, the student's loss before its network) of the released procedure; all rows in one batch."""
    table = policy.backbone.pipeline().components["scheduler"].alphas_cumprod.double()
    grid = torch.arange(39, 1000, 40)
    batch = toy_batch(policy, KEYS, views=1)
    text, empty = batch.cond.tokens[:, 0], policy.null().tokens.expand(len(KEYS), -1, -1)

    def network(x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        with torch.no_grad(), policy.mixture(REFERENCE) as module:
            return module(x, t, encoder_hidden_states=tokens, return_dict=False)[0]

    def column(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    k = torch.tensor(PLACES)
    t = grid[k]
    x = column(table[t].sqrt()) * x_0 + column((1 - table[t]).sqrt()) * noise
    for evaluation in range(6):
        cond, uncond = network(x, t, text), network(x, t, empty)
        a, s = column(table[t].sqrt()), column((1 - table[t]).sqrt())
        clean_c, clean_u = (x - s * cond) / a, (x - s * uncond) / a
        estimate = clean_c + w * (clean_c - clean_u)
        if evaluation == 5:
            break
        mixed = cond + w * (cond - uncond)
        before = k - 1
        level = torch.where(before >= 0, table[grid[before.clamp(min=0)]], table[0])
        moved = column(level.sqrt()) * estimate + column((1 - level).sqrt()) * mixed
        running = k >= 0
        x = torch.where(column(running), moved, x)
        k = torch.where(running, before, k)
        t = torch.where(running, (t - 40).clamp(min=0), t)
    s = torch.tensor(ends)
    nsr = (1 - table).sqrt() / table.sqrt()
    added = (nsr[s].square() - nsr[t].square()).sqrt()
    x_s = column(table[s].sqrt()) * (x / column(table[t].sqrt()) + column(added) * again)
    return x_s, estimate, t


@pytest.mark.parametrize("w", [-1, -5])
def test_the_rollout_is_the_released_one_frozen_rows_included(w: int, sd15_folder: Path, monkeypatch: Any):
    policy = lora_policy(sd15_folder, moved=0.05, dtype=torch.float64)
    noiser = SelfRolloutNoiser.model_validate({"guidance_scale": 1 + w, "weights": REFERENCE})
    ends = [998, 400, 1, 77]
    found, draws = rollout(policy, noiser, monkeypatch, ends)
    shape = tuple(found.x_0.shape[2:])
    batch = toy_batch(policy, KEYS, views=1)
    noises = (draws.normal(shape, stream).double() for stream in ("noise", "renoise"))
    x_s, target, t_end = official(policy, w, batch.latents[:, 0], *noises, ends)
    assert t_end.tolist() == [799, 119, 0, 0]
    torch.testing.assert_close(found.x_t[:, 0], x_s, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.x_0[:, 0], target, atol=1e-9, rtol=1e-9)
    assert found.timesteps[:, 0].tolist() == ends

    objective = Denoising.model_validate({"space": "x0", "loss": "pseudo_huber"})
    losses = compute_loss(policy, batch, noiser, objective, 5).losses
    table = policy.backbone.pipeline().components["scheduler"].alphas_cumprod.double()
    alpha, sigma = (value[torch.tensor(ends)].sqrt().view(-1, 1, 1, 1) for value in (table, 1 - table))
    student = policy.denoise(x_s, torch.tensor(ends), Conditioning(batch.cond.tokens[:, 0]))
    wrong = (x_s - sigma * student) / alpha - target
    expected = ((wrong.square() + 1e-6).sqrt() - 1e-3).mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, atol=1e-9, rtol=1e-8)
    parameters = list(policy.trained_parameters().values())
    grads = (torch.autograd.grad(loss.sum(), parameters) for loss in (losses, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9 * max(1.0, float(other.abs().max())), rtol=1e-7)


def test_at_w_minus_1_the_rollout_sees_no_prompt(sd15_folder: Path, monkeypatch: Any):
    policy = lora_policy(sd15_folder)
    noiser = SelfRolloutNoiser.model_validate({"guidance_scale": 0, "weights": REFERENCE})
    one, draws = rollout(policy, noiser, monkeypatch, [999] * 4)
    batch = toy_batch(policy, KEYS, views=1)
    other_text = Conditioning(torch.flip(batch.cond.tokens, [0]))
    other = noiser(batch.__class__(batch.keys, batch.rows, batch.latents, other_text), policy, policy.schedule, draws)
    torch.testing.assert_close(one.x_t, other.x_t, atol=0, rtol=0)
    guided = SelfRolloutNoiser.model_validate({"guidance_scale": -4, "weights": REFERENCE})
    assert not torch.equal(rollout(policy, guided, monkeypatch, [999] * 4)[0].x_t, one.x_t)


@pytest.mark.parametrize(("at", "to"), [(0, 1), (0, 999), (199, 200), (799, 998)])
def test_noising_again_reaches_the_variance_of_its_level(at: int, to: int):
    """a_s^2 (nsr_t'^2 + nsr_s^2 - nsr_t'^2) = sigma_s^2 of noise, and alpha_s of the image."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    schedule = VPSchedule((1 - betas).cumprod(0), "epsilon", float(1 - betas[0]))
    levels, ends = torch.tensor([at]), torch.tensor([to])
    alpha, sigma = schedule.alpha_sigma(levels)
    alpha_to, sigma_to = schedule.alpha_sigma(ends)
    kept = schedule.renoise(torch.ones(1, 1), torch.zeros(1, 1), levels, ends)
    added = schedule.renoise(torch.zeros(1, 1), torch.ones(1, 1), levels, ends)
    assert float(kept * alpha) == pytest.approx(float(alpha_to), rel=1e-6)
    assert float((kept * sigma).square() + added.square()) == pytest.approx(float(sigma_to) ** 2, rel=1e-6)


def test_x_t_is_alpha_x0_plus_sigma_noise_as_for_any_noiser(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    for start in ("image", "noise"):
        noiser = SelfRolloutNoiser.model_validate(
            {"weights": REFERENCE, "start": start, "rollout_steps": 2, "grid_steps": 5}
        )
        batch = toy_batch(policy, KEYS)
        found = noiser(batch, policy, policy.schedule, Draws(0, batch.keys))
        flat = (found.x_0.flatten(0, 1), found.noise.flatten(0, 1), found.timesteps.flatten())
        torch.testing.assert_close(policy.schedule.add_noise(*flat), found.x_t.flatten(0, 1), atol=1e-4, rtol=1e-4)
        assert (found.timesteps[:, 0] == found.timesteps[:, 1]).all()
        assert not found.x_t.requires_grad


def test_from_pure_noise_the_image_has_no_part(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    noiser = SelfRolloutNoiser.model_validate(
        {"weights": REFERENCE, "start": "noise", "rollout_steps": 1, "grid_steps": 3}
    )
    batch = toy_batch(policy, KEYS, views=1)
    other = batch.__class__(batch.keys, batch.rows, batch.latents + 1, batch.cond)
    found = [noiser(rows, policy, policy.schedule, Draws(0, rows.keys)) for rows in (batch, other)]
    torch.testing.assert_close(found[0].x_t, found[1].x_t, atol=0, rtol=0)


def test_rows_permuted_permute_what_is_found(sd15_folder: Path):
    policy = lora_policy(sd15_folder, dtype=torch.float64)
    noiser = SelfRolloutNoiser.model_validate({"weights": REFERENCE, "guidance_scale": -4})
    found = [
        noiser(toy_batch(policy, keys), policy, policy.schedule, Draws(0, torch.tensor(keys)))
        for keys in (KEYS, KEYS[::-1])
    ]
    torch.testing.assert_close(found[0].x_t, found[1].x_t.flip(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(found[0].x_0, found[1].x_0.flip(0), atol=1e-9, rtol=0)


def test_what_it_declares():
    assert SelfRolloutNoiser().required_weights == ("ema",)
    assert SelfRolloutNoiser().passes(1, 1000) == 6  # five steps and one more evaluation, without a prompt
    assert SelfRolloutNoiser(guidance_scale=-4).passes(1, 1000) == 12
    assert SelfRolloutNoiser(start="noise").passes(1, 1000) == 12 + 6
    with pytest.raises(InputError, match="rollout_steps 30, grid_steps 25, and the model has 1000"):
        SelfRolloutNoiser(rollout_steps=30).check(1000)
    with pytest.raises(InputError, match="grid_steps 2000, and the model has 1000"):
        SelfRolloutNoiser(grid_steps=2000).check(1000)
