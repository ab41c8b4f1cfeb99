"""Which weights answer, and that nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import backbone, batch, dpo, engine, lora_policy, move

from t2ialign.backbones.adapters import adapter_parameters, add_adapter
from t2ialign.config.schema import Lora
from t2ialign.policy import EMA, Policy
from t2ialign.rng import generator

SECOND = "second"


def two_adapters(folder: Path) -> Policy:
    """A moved learner beside a moved, frozen second adapter of another rank and alpha."""
    made = backbone(folder)
    add_adapter(made.denoiser, "learner", Lora(rank=2, alpha=4), seed=0, trainable=True)
    add_adapter(made.denoiser, SECOND, Lora(rank=3, alpha=1.5, targets="attention+ff"), seed=1, trainable=False)
    for parameter in adapter_parameters(made.denoiser, SECOND).values():
        parameter.data.add_(0.1)
    policy = Policy(made)
    move(policy, 0.1)
    return policy


def answer(policy: Policy, weights, seed: int = 0) -> Tensor:
    rows = batch(policy, [seed, seed + 1])
    with torch.no_grad():
        return policy.predict(rows.latents, torch.tensor([[3, 3], [700, 700]]), rows.cond, rows.geometry, weights)


def layer_state(policy: Policy) -> list[tuple[bool, list[str], dict[str, float]]]:
    return [(bool(x._disable_adapters), list(x._active_adapter), dict(x.scaling)) for x in policy.layers]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_fresh_policy_equals_reference_and_untouched_base_bit_for_bit(
    family: str, sd15_folder: Path, sdxl_folder: Path
):
    folder = sdxl_folder if family == "sdxl" else sd15_folder
    policy, untouched = lora_policy(folder, family=family), Policy(backbone(folder, family=family))
    base = answer(untouched, "policy")
    for weights in ("policy", "reference", "base", {}):
        assert torch.equal(answer(policy, weights), base)


def test_a_trained_policy_differs_and_its_reference_stays_the_base(sd15_folder: Path):
    base = answer(Policy(backbone(sd15_folder)), "base")
    policy = lora_policy(sd15_folder, moved=0.1)
    assert (answer(policy, "policy") - base).abs().mean() > 1e-3
    assert torch.equal(answer(policy, "reference"), base)


def test_training_beside_a_frozen_second_adapter_leaves_it_alone(sd15_folder: Path, tmp_path: Path):
    policy = two_adapters(sd15_folder)
    second = adapter_parameters(policy.denoiser, SECOND)
    before = {name: parameter.detach().clone() for name, parameter in second.items()}
    base = {name: p.clone() for name, p in policy.denoiser.named_parameters() if ".lora_" not in name}
    made = engine(policy, tmp_path)
    learner = {name: p.detach().clone() for name, p in policy.trained_parameters().items()}
    for step in range(2):
        answer(policy, {"learner": 0.5, SECOND: 2.0})  # switching adapters must not make them trainable
        made.update(lambda step=step: dpo(policy, batch(policy, [step])))
    assert all(not torch.equal(p, learner[name]) for name, p in policy.trained_parameters().items())
    for name, parameter in second.items():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
        assert parameter.grad is None
    for name, parameter in policy.denoiser.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name])
            assert not parameter.requires_grad


def test_only_the_learner_is_trained(sd15_folder: Path):
    policy = two_adapters(sd15_folder)
    expected = {name for name in dict(policy.denoiser.named_parameters()) if ".learner." in name}
    assert set(policy.trained_parameters()) == expected
    assert {name for name, p in policy.denoiser.named_parameters() if p.requires_grad} == expected


@pytest.mark.parametrize("weights", [{}, {SECOND: 1.0}, {"learner": 0.5}])
def test_a_backward_under_other_adapters_is_refused(sd15_folder: Path, weights: dict[str, float]):
    policy = two_adapters(sd15_folder)
    loss = dpo(policy, batch(policy, [0])).losses.sum()
    with policy.mixture(weights), pytest.raises(RuntimeError, match=r"leave the `with policy\.mixture"):
        loss.backward()
    assert all(parameter.grad is None for parameter in policy.trained_parameters().values())
    dpo(policy, batch(policy, [0])).losses.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trained_parameters().values())


def merged(policy: Policy, mixture: dict[str, float]) -> dict[str, Tensor]:
    """The base's weights with scale * alpha / rank * B A of each adapter added by hand."""
    alpha_over_rank = {"learner": 4 / 2, SECOND: 1.5 / 3}
    plain = {name.replace(".base_layer", ""): p for name, p in policy.denoiser.state_dict().items()}
    weights = {name: p.clone() for name, p in plain.items() if ".lora_" not in name}
    for adapter, scale in mixture.items():
        for name in [n for n in plain if f".lora_A.{adapter}." in n]:
            up = plain[name.replace("lora_A", "lora_B")]
            layer = name.split(".lora_A.")[0]
            weights[f"{layer}.weight"] += scale * alpha_over_rank[adapter] * up @ plain[name]
    return weights


@pytest.mark.parametrize(
    "mixture", [{"learner": 1.0}, {"learner": 0.3}, {SECOND: 1.0}, {"learner": 0.5, SECOND: 2.0}, {SECOND: -1.0}]
)
def test_mixtures_equal_weights_merged_by_hand(sd15_folder: Path, mixture: dict[str, float]):
    policy = two_adapters(sd15_folder)
    plain = Policy(backbone(sd15_folder))
    plain.denoiser.load_state_dict(merged(policy, mixture))
    expected = answer(plain, "base")
    torch.testing.assert_close(answer(policy, mixture), expected, atol=2e-5, rtol=1e-4)  # float32, other order of sums
    assert (expected - answer(policy, "base")).abs().max() > 1e-2


def test_leaving_a_mixture_restores_everything_also_after_an_error(sd15_folder: Path):
    policy = two_adapters(sd15_folder)
    before, output = layer_state(policy), answer(policy, "policy")
    with (
        pytest.raises(ZeroDivisionError),
        policy.mixture({SECOND: 3.0}),
        policy.mixture({}),
        policy.mixture({"learner": 0.25, SECOND: 0.5}),
    ):
        raise ZeroDivisionError
    assert layer_state(policy) == before
    assert torch.equal(answer(policy, "policy"), output)


def test_nested_mixtures_come_back_one_by_one(sd15_folder: Path):
    policy = two_adapters(sd15_folder)
    outer = answer(policy, {SECOND: 2.0})
    with policy.mixture({SECOND: 2.0}) as module:
        with policy.mixture({}):
            pass
        rows = batch(policy, [0, 1])
        cond = rows.cond.map(lambda t: t.expand(2, 2, *t.shape[2:]).flatten(0, 1))
        with torch.no_grad():
            found = policy.backbone.predict(
                module, rows.latents.flatten(0, 1), torch.tensor([3, 3, 700, 700]), cond, None
            )
    assert torch.equal(found.unflatten(0, (2, 2)), outer)


@pytest.mark.parametrize("weights", ["nobody", {"nobody": 1.0}])
def test_a_missing_adapter_is_an_error_and_never_the_base(sd15_folder: Path, weights):
    with pytest.raises(ValueError, match="no adapter nobody here; loaded: learner"):
        answer(lora_policy(sd15_folder), weights)


def test_an_adapter_cannot_be_called_train(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    for tuner in policy.layers:
        tuner.scaling["train"] = 1.0  # type: ignore[index]
    with pytest.raises(ValueError, match="may not be called 'train'"):
        Policy(policy.backbone)


def test_views_are_independent_rows(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    rows = batch(policy, [4, 5])
    timesteps = torch.tensor([[10, 10], [900, 900]])
    with torch.no_grad():
        together = policy.predict(rows.latents, timesteps, rows.cond, rows.geometry)
        for example in range(2):
            for view in range(2):
                cond = rows.cond.map(lambda t, example=example: t[example])
                alone = policy.denoise(rows.latents[example, view][None], timesteps[example, view][None], cond)
                torch.testing.assert_close(together[example, view], alone[0], atol=1e-5, rtol=1e-5)


def test_a_prompt_per_view_reaches_its_view(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    rows, other = batch(policy, [4]), batch(policy, [5])
    both = rows.cond.map(lambda t: torch.cat([t, other.cond.tokens], dim=1))
    timesteps = torch.full((1, 2), 500)
    with torch.no_grad():
        found = policy.predict(rows.latents, timesteps, both)
        first, second = (policy.predict(rows.latents, timesteps, cond) for cond in (rows.cond, other.cond))
    torch.testing.assert_close(found[:, 0], first[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 1], second[:, 1], atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(sd15_folder: Path, tmp_path: Path):
    found, calls = [], []
    for recompute in (False, True):
        policy = lora_policy(sd15_folder, moved=0.1)
        if recompute:
            policy.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
            policy.denoiser.train()
        count = [0]
        block = policy.denoiser.up_blocks[0].resnets[0]  # type: ignore[index]
        block.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        dpo(policy, batch(policy, [0, 1])).losses.sum().backward()
        found.append([p.grad for p in policy.trained_parameters().values()])
        calls.append(count[0])
    assert calls == [2, 3]  # reference and policy, and the policy's once more in its backward
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def full_policy(folder: Path, **settings) -> Policy:
    made = backbone(folder)
    made.denoiser.requires_grad_(True)
    return Policy(made, full_finetune=True, **settings)


def test_full_fine_tuning_measures_against_a_frozen_copy(sd15_folder: Path, tmp_path: Path):
    policy = full_policy(sd15_folder)
    base = answer(policy, "base")
    assert torch.equal(answer(policy, "policy"), base)
    made = engine(policy, tmp_path)
    made.update(lambda: dpo(policy, batch(policy, [0])))
    assert not torch.equal(answer(policy, "policy"), base)
    assert torch.equal(answer(policy, "reference"), base)
    assert torch.equal(answer(policy, {}), base)
    assert not any(parameter.requires_grad for parameter in policy.copies["reference"].parameters())
    with pytest.raises(ValueError, match="cannot answer as 'ema'"):
        answer(policy, "ema")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_a_full_fine_tuning_starts_at_ln_2_whatever_the_weights(
    dtype: torch.dtype, sd15_folder: Path
):
    """Weights that half precision cannot hold, norms among them, as pretrained ones are."""
    made = backbone(sd15_folder)
    with torch.no_grad():
        for name, parameter in made.denoiser.named_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator("weights", name))
    policy = Policy(made, full_finetune=True, autocast=dtype)
    assert torch.equal(answer(policy, "reference"), answer(policy, "policy"))
    losses = dpo(policy, batch(policy, [0, 1, 2]), beta=5000).losses
    torch.testing.assert_close(losses.detach(), torch.full_like(losses, math.log(2)), atol=1e-7, rtol=0)
    kept = [parameter.dtype for parameter in policy.copies["reference"].parameters() if parameter.ndim > 1]
    assert set(kept) == {dtype}  # half of the memory of a float32 copy


def test_an_objective_without_reference_costs_no_copy(sd15_folder: Path):
    assert full_policy(sd15_folder, keeps_reference=False).copies == {}


def test_average_of_full_fine_tuning_by_hand(sd15_folder: Path):
    policy = full_policy(sd15_folder, keeps_reference=False, keeps_ema=True)
    name, parameter = next(iter(policy.trained_parameters().items()))
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1
    policy.advance_ema(0.75)
    policy.advance_ema(0.75)
    # 1 step of 1 - 0.75 leaves 0.75 of the distance 1, two leave 0.5625
    torch.testing.assert_close(policy.ema_parameters()[name], start + 1 - 0.5625)


def test_average_of_an_adapter_by_hand_and_it_answers(sd15_folder: Path):
    made = backbone(sd15_folder)
    for name, trainable in (("learner", True), (EMA, False)):
        add_adapter(made.denoiser, name, Lora(rank=2, alpha=4), seed=0, trainable=trainable)
    policy = Policy(made, keeps_ema=True)
    trained, average = policy.trained_parameters(), policy.ema_parameters()
    assert {name.replace(".learner.", ".ema.") for name in trained} == set(average)
    before = {name: value.clone() for name, value in average.items()}
    move(policy, 0.1)
    policy.advance_ema(0.9)
    for name, parameter in trained.items():
        key = name.replace(".learner.", ".ema.")
        torch.testing.assert_close(average[key], 0.9 * before[key] + 0.1 * parameter)
        assert not average[key].requires_grad
    assert not torch.equal(answer(policy, "ema"), answer(policy, "base"))


def test_low_precision_passes_come_out_in_float32_and_float64_passes_through(sd15_folder: Path):
    made = backbone(sd15_folder)
    assert answer(Policy(made, autocast=torch.bfloat16), "policy").dtype == torch.float32
    made.denoiser.double()
    rows = batch(Policy(made), [0])
    cond = rows.cond.to(dtype=torch.float64)
    assert Policy(made).predict(rows.latents.double(), torch.tensor([[1, 1]]), cond).dtype == torch.float64


def test_dropout_acts_in_training_passes_only_and_is_drawn_from_the_sample(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1, dropout=0.5)
    assert torch.equal(answer(policy, "policy"), answer(policy, "policy"))
    torch.manual_seed(1)
    first = dpo(policy, batch(policy, [3])).losses
    answer(policy, "policy")
    torch.manual_seed(2)
    assert torch.equal(dpo(policy, batch(policy, [3])).losses, first)
    with torch.no_grad():
        assert not torch.equal(dpo(policy, batch(policy, [3])).losses, first)
