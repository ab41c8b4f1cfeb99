"""Guidance and sampling, against diffusers' pipelines on tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import standins
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture import WIDTH, Mixture

from t2ialign.backbones.adapters import adapter_parameters, add_adapter
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.config.schema import Lora
from t2ialign.policy import Policy
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import CLEAN, FINAL, VPSchedule, sampling_timesteps
from t2ialign.types import Conditioning

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "two cats left of a blue square"]


class ConstantPolicy:
    """Predicts 1 with the prompt and 0 without, times what the weights stand for; records its calls."""

    def __init__(self, null: float = 0.0):
        self.calls: list[tuple[int, Any]] = []
        self.geometries: list[torch.Tensor] = []
        self._null = null

    def null(self) -> Conditioning:
        return Conditioning(torch.full((1, 1), self._null))

    def denoise(self, x_t, timesteps, cond, geometry, weights):
        self.calls.append((len(x_t), weights))
        self.geometries.append(geometry)
        strength = {"policy": 1.0, "strong": 3.0}[weights]
        return strength * cond.tokens.view(-1, 1, 1, 1).expand_as(x_t)


def toy() -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    return torch.zeros(2, 4, 2, 2), torch.tensor([5, 5]), Conditioning(torch.ones(2, 1))


def test_guidance_is_uncond_plus_scale_times_difference_in_one_pass():
    policy: Any = ConstantPolicy()
    # 0 + 7.5 * (1 - 0) = 7.5
    assert Guidance(7.5).denoise(policy, *toy(), None).unique().tolist() == [7.5]
    assert policy.calls == [(4, "policy")]


def test_scale_1_makes_no_unconditional_pass():
    policy: Any = ConstantPolicy()
    assert Guidance(1.0).denoise(policy, *toy(), None).unique().tolist() == [1.0]
    assert policy.calls == [(2, "policy")]


def test_a_negative_model_answers_the_unconditional_branch_alone():
    policy: Any = ConstantPolicy(null=0.5)
    # uncond 3 * 0.5 = 1.5, cond 1: 1.5 + 2 * (1 - 1.5) = 0.5
    guidance = Guidance(2.0, cond="policy", uncond="strong")
    assert guidance.denoise(policy, *toy(), None).unique().tolist() == [0.5]
    assert policy.calls == [(2, "strong"), (2, "policy")]


@pytest.mark.parametrize("uncond", ["policy", "strong"])
def test_both_branches_get_the_geometry_of_their_row(uncond: str):
    policy: Any = ConstantPolicy()
    geometry = torch.arange(12.0).view(2, 6)
    Guidance(2.0, uncond=uncond).denoise(policy, *toy(), geometry)
    torch.testing.assert_close(torch.cat(policy.geometries), torch.cat([geometry, geometry]))


def test_two_equal_adapters_give_the_prediction_of_one(sdxl_folder: Path):
    backbone = StableDiffusionXL(pretrained=str(sdxl_folder)).build(CPU)
    for name in ("one", "other"):
        add_adapter(backbone.denoiser, name, Lora(rank=2, alpha=2), seed=0, trainable=False)
        for place, parameter in enumerate(adapter_parameters(backbone.denoiser, name).values()):
            draws = torch.Generator().manual_seed(place)
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draws))
    policy = Policy(backbone)
    x_t, timesteps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([900, 100])
    geometry = torch.tensor([[64.0, 64, 0, 0, 64, 64], [512, 128, 8, 4, 64, 64]])
    cond = policy.backbone.encode_prompts(PROMPTS)
    both, alone = (
        Guidance(3.0, {"one": 1.0}, {uncond: 1.0}).denoise(policy, x_t, timesteps, cond, geometry)
        for uncond in ("other", "one")
    )
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


class Gaussian:
    """The exact denoiser of x_0 ~ N(0, 1): noise = sigma x, and v = (noise - sigma x) / alpha = 0.

    A prompt adds its token to the noise, so that rows differ.
    """

    device = CPU

    def __init__(self, schedule: VPSchedule):
        self.schedule = schedule
        self.asked: list[torch.Tensor] = []

    def null(self) -> Conditioning:
        return Conditioning(torch.zeros(1, 1))

    def denoise(self, x_t, timesteps, cond, geometry=None, weights="policy"):
        self.asked.append(timesteps)
        alpha, sigma = (value.view(-1, 1, 1, 1).to(x_t) for value in self.schedule.alpha_sigma(timesteps))
        noise = sigma * x_t + cond.tokens.view(-1, 1, 1, 1)
        return noise if self.schedule.prediction_type == "epsilon" else (noise - sigma * x_t) / alpha

    def predict(self, x_t, timesteps, cond, geometry=None, weights="policy"):
        raise NotImplementedError


def schedule_of(prediction_type: str = "epsilon") -> VPSchedule:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return VPSchedule.from_scheduler(DDIMScheduler(**betas, prediction_type=prediction_type, set_alpha_to_one=False))


def sampler_of(schedule: VPSchedule, steps: int, eta: float = 0.0) -> Sampler:
    return Sampler(sampling_timesteps(schedule, steps, "leading", 1), eta)


def latents(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 4, 2, 2, generator=torch.Generator().manual_seed(seed)).double()


def tokens(*values: float) -> Conditioning:
    return Conditioning(torch.tensor(values, dtype=torch.float64)[:, None])


def test_a_path_visits_the_timesteps_between_in_either_direction_and_repeats_its_stop():
    sampler = sampler_of(schedule_of(), 10)  # 1, 101, ..., 901
    start, stop = torch.tensor([901, CLEAN, 301, 250, 5]), torch.tensor([FINAL, 250, 101, 601, 5])
    assert sampler.levels(start, stop).tolist() == [
        [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, FINAL],
        [CLEAN, 1, 101, 201, *[250] * 7],
        [301, 201, *[101] * 9],
        [250, 301, 401, 501, *[601] * 7],
        [5] * 11,
    ]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_row_moves_to_its_own_stop_as_if_it_were_alone(prediction_type: str):
    denoiser = Gaussian(schedule_of(prediction_type))
    sampler = sampler_of(denoiser.schedule, 10)
    start, stop = torch.tensor([901, CLEAN, CLEAN, 301, 77]), torch.tensor([FINAL, 999, 40, FINAL, 77])
    x, cond = latents(5), tokens(0.1, 0.2, -0.3, 0.4, 0.5)
    together = sampler.sample(denoiser, x, cond, start=start, stop=stop)
    for row in range(5):
        one = slice(row, row + 1)
        alone = sampler.sample(
            denoiser, x[one], cond.map(lambda tensor, one=one: tensor[one]), start=start[one], stop=stop[one]
        )
        assert torch.equal(alone.x, together.x[one])
    assert torch.equal(together.x[4], x[4])
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = sampler.sample(
        denoiser, x[order], cond.map(lambda tensor: tensor[order]), start=start[order], stop=stop[order]
    )
    assert torch.equal(permuted.x, together.x[order])


def test_networks_are_asked_at_timesteps_that_they_know():
    denoiser = Gaussian(schedule_of())
    sampler_of(denoiser.schedule, 4).sample(
        denoiser, latents(2), tokens(0, 0), start=torch.tensor([CLEAN, FINAL]), stop=torch.tensor([600, CLEAN])
    )
    assert [timesteps.tolist() for timesteps in denoiser.asked] == [[0, 0], [1, 0], [251, 0], [501, 0]]


def test_a_recorded_trajectory_starts_with_x_and_ends_with_the_result():
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, 5)
    x, stop = latents(2), torch.tensor([601, 150])
    start = torch.tensor([CLEAN, CLEAN])
    rollout = sampler.sample(denoiser, x, tokens(0.1, 0.2), start=start, stop=stop, record=True)
    trajectory = rollout.trajectory
    assert trajectory is not None
    assert rollout.levels.tolist() == [[CLEAN, 1, 201, 401, 601], [CLEAN, 1, 150, 150, 150]]
    assert torch.equal(trajectory.latents[:, 0], x)
    assert torch.equal(trajectory.latents[:, -1], rollout.x)
    assert torch.equal(trajectory.latents[1, 2], trajectory.latents[1, 4])  # it had arrived
    assert trajectory.log_probs.shape == (2, 4)
    assert trajectory.log_probs.isnan().all()  # inversion is deterministic
    again = sampler.sample(denoiser, x, tokens(0.1, 0.2), start=start, stop=stop)
    assert again.trajectory is None
    assert torch.equal(again.x, rollout.x)
    along = sampler.sample(denoiser, x, tokens(0.1, 0.2), levels=rollout.levels)
    assert torch.equal(along.x, rollout.x)


def test_half_precision_latents_are_moved_in_float32():
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, 5)
    x, cond = latents(2).half(), tokens(0.1, 0.2).to(dtype=torch.float32)
    found = sampler.sample(denoiser, x, cond).x
    assert found.dtype == torch.float32
    assert torch.equal(found, sampler.sample(denoiser, x.float(), cond).x)


def test_recorded_log_probabilities_are_those_of_the_steps_that_were_taken():
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, 5, eta=1.0)
    rollout = sampler.sample(
        denoiser,
        latents(2),
        tokens(0.1, 0.2),
        start=torch.tensor([801, 401]),
        generators=[torch.Generator().manual_seed(row) for row in range(2)],
        record=True,
    )
    trajectory = rollout.trajectory
    assert trajectory is not None
    # the last step of each row goes from 1 to FINAL, the level of 0: some noise is left to add
    assert trajectory.log_probs.isfinite().tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    for k in range(3):
        at, to = rollout.levels[:, k], rollout.levels[:, k + 1]
        x_t, x = trajectory.latents[:, k], trajectory.latents[:, k + 1]
        prediction = denoiser.denoise(x_t, at, tokens(0.1, 0.2))
        scored = denoiser.schedule.sde_step(prediction, x_t, at, to, eta=1.0, x=x)
        torch.testing.assert_close(trajectory.log_probs[:, k], scored.log_prob)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_many_steps_the_samples_are_those_of_the_data_whatever_the_noise_of_the_steps(eta: float):
    policy = Mixture()
    noise = torch.randn(1, 1, 80, 100, generator=torch.Generator().manual_seed(0)).double()
    sampler = sampler_of(policy.schedule, 500, eta)
    x = sampler.sample(policy, noise, tokens(0), generators=[torch.Generator().manual_seed(1)]).x
    assert (x > 0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / x.numel() ** 0.5)
    # sampling ends at FINAL, where a little noise is left: alpha x_0 + sigma noise
    alpha, sigma = (level.item() for level in policy.schedule.alpha_sigma(torch.tensor(FINAL)))
    width = (alpha**2 * WIDTH**2 + sigma**2) ** 0.5
    assert (x.abs() - alpha).square().mean().sqrt().item() == pytest.approx(width, rel=0.1)  # of finite steps


def test_only_the_stated_steps_have_noise():
    denoiser = Gaussian(schedule_of())
    sampler = Sampler(sampling_timesteps(denoiser.schedule, 5, "leading", 1), 1.0, range(1, 3))
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    rollout = sampler.sample(denoiser, latents(2), tokens(0.1, 0.2), generators=generators, record=True)
    trajectory = rollout.trajectory
    assert trajectory is not None
    assert trajectory.log_probs.isfinite().tolist() == [[False, True, True, False, False]] * 2
    for k in range(5):
        at, to, x_t = rollout.levels[:, k], rollout.levels[:, k + 1], trajectory.latents[:, k]
        straight = denoiser.schedule.ddim_step(denoiser.denoise(x_t, at, tokens(0.1, 0.2)), x_t, at, to)
        assert torch.equal(trajectory.latents[:, k + 1], straight) is (k not in (1, 2))


def test_the_inversion_error_of_the_gaussian_denoiser_halves_with_twice_the_steps():
    # the exact solution keeps x; DDIM is of first order
    denoiser = Gaussian(schedule_of())
    x, stop = latents(1), torch.tensor([600])
    errors = []
    for steps in (8, 16, 32):
        levels = torch.linspace(0, 600, steps + 1).round().long()[None]
        moved = sampler_of(denoiser.schedule, 1).sample(denoiser, x, tokens(0), levels=levels).x
        errors.append(((moved - x).abs() / x.abs()).max().item())
        assert levels[0, -1] == stop
    # the first order error of 8, 16 and 32 steps, computed apart: .0839, .0440, .0228
    assert errors == pytest.approx([0.0839, 0.0440, 0.0228], rel=0.05)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_denoiser_of_constant_noise_is_inverted_exactly(prediction_type: str):
    class Constant(Gaussian):
        def denoise(self, x_t, timesteps, cond, geometry=None, weights="policy"):
            alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.schedule.alpha_sigma(timesteps))
            return 0.7 if prediction_type == "epsilon" else (0.7 - sigma * x_t) / alpha

    denoiser = Constant(schedule_of(prediction_type))
    taus = torch.tensor([0, 1, 50, 300, 900, 999])
    x = latents(6)
    moved = sampler_of(denoiser.schedule, 10).sample(
        denoiser, x, tokens(*[0] * 6), start=torch.full_like(taus, CLEAN), stop=taus
    )
    torch.testing.assert_close(moved.x, denoiser.schedule.add_noise(x, torch.full_like(x, 0.7), taus))


LEVEL = st.integers(CLEAN, 999)


@settings(deadline=None, max_examples=25)
@given(ends=st.lists(st.tuples(LEVEL, LEVEL), min_size=1, max_size=4), steps=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_path_is_monotonous_within_its_ends_and_no_row_depends_on_its_company(
    ends: list[tuple[int, int]], steps: int, seed: int
):
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, steps)
    start, stop = torch.tensor(ends).T
    x, cond = latents(len(ends), seed), tokens(*[0.1] * len(ends))
    together = sampler.sample(denoiser, x, cond, start=start, stop=stop)
    assert torch.equal(together.levels[:, 0], start)
    assert torch.equal(together.levels[:, -1], stop)
    steps_of_rows = together.levels.diff(dim=1) * (stop - start).sign()[:, None]
    assert (steps_of_rows >= 0).all()
    alone = sampler.sample(denoiser, x[:1], tokens(0.1), start=start[:1], stop=stop[:1])
    assert torch.equal(alone.x, together.x[:1])


def test_stochastic_sampling_wants_a_generator_for_each_row():
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, 2, eta=1.0)
    with pytest.raises(ValueError, match="2 generators, one for each row"):
        sampler.sample(denoiser, latents(2), tokens(0, 0), generators=[torch.Generator()])


def test_deterministic_sampling_leaves_the_generators_alone():
    denoiser = Gaussian(schedule_of())
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    sampler_of(denoiser.schedule, 3).sample(denoiser, latents(1), tokens(0), generators=[generator])
    assert torch.equal(generator.get_state(), before)


def test_starts_and_stops_are_as_many_as_rows():
    with pytest.raises(ValueError, match="zip"):
        sampler_of(schedule_of(), 3).levels(torch.tensor([900, 900]), torch.tensor([FINAL]))


def test_each_row_draws_its_noise_from_its_own_generator():
    denoiser = Gaussian(schedule_of())
    sampler = sampler_of(denoiser.schedule, 5, eta=1.0)

    def sampled(*rows: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return sampler.sample(denoiser, latents(1).expand(len(rows), -1, -1, -1), tokens(*[0] * len(rows)),
                              generators=generators).x  # fmt: skip

    together = sampled(0, 1, 0)
    assert torch.equal(together, torch.cat([sampled(0), sampled(1), sampled(0)]))
    assert not torch.equal(together[0], together[1])


def sample(backbone, x: torch.Tensor, steps: int, scale: float, eta: float = 0.0, generators=None):
    policy = Policy(backbone)
    size = backbone.geometry((64, 64), (0, 0), (64, 64))
    geometry = None if size is None else size.expand(len(x), -1)
    sampler = Sampler(sampling_timesteps(backbone.schedule, steps, **backbone.sampling), eta)
    cond = backbone.encode_prompts(PROMPTS[: len(x)])
    return sampler.sample(policy, x, cond, geometry=geometry, guidance=Guidance(scale), generators=generators).x


def diffusers_sample(backbone, latents: torch.Tensor, steps: int, scale: float, **options):
    pipeline = backbone.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS[: len(latents)],
        latents=latents.clone(),
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
        **options,
    ).images


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_whole_denoise_equals_the_diffusers_pipeline(tmp_path: Path, family: str, prediction_type: str, scale: float):
    if family == "sd15":
        folder = standins.tiny_sd15(tmp_path, prediction_type=prediction_type)
        backbone = StableDiffusion15(pretrained=str(folder)).build(CPU)
    else:
        folder = standins.tiny_sdxl(tmp_path, prediction_type=prediction_type)
        backbone = StableDiffusionXL(pretrained=str(folder)).build(CPU)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = sample(backbone, latents, 7, scale)
    theirs = diffusers_sample(backbone, latents, 7, scale)
    # float32 rounding over 7 steps, relative to the latents' own size
    assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max()


def test_stochastic_sampling_equals_the_diffusers_pipeline(sdxl_folder: Path):
    backbone = StableDiffusionXL(pretrained=str(sdxl_folder)).build(CPU)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = sample(backbone, latents, 5, 3.0, eta=1.0, generators=[torch.Generator().manual_seed(1)])
    theirs = diffusers_sample(backbone, latents, 5, 3.0, eta=1.0, generator=torch.Generator().manual_seed(1))
    assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max()
