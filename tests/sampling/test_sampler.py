"""Guidance and sampling, against diffusers' pipelines on tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import standins
import torch
from diffusers import DDIMScheduler

from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.policy import Policy
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import VPSchedule
from t2ialign.types import Conditioning

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "two cats left of a blue square"]


class ConstantPolicy:
    """Predicts 1 with the prompt and 0 without, times what the weights stand for; records its calls."""

    def __init__(self):
        self.calls: list[tuple[int, Any]] = []

    def denoise(self, x_t, timesteps, cond, geometry, weights):
        self.calls.append((len(x_t), weights))
        strength = {"policy": 1.0, "strong": 3.0}[weights]
        return strength * cond.tokens.view(-1, 1, 1, 1).expand_as(x_t)


def toy() -> tuple[torch.Tensor, torch.Tensor, Conditioning, Conditioning]:
    return (
        torch.zeros(2, 4, 2, 2),
        torch.tensor([5, 5]),
        Conditioning(torch.ones(2, 1)),
        Conditioning(torch.zeros(1, 1)),
    )


def test_guidance_is_uncond_plus_scale_times_difference_in_one_pass():
    policy: Any = ConstantPolicy()
    x_t, timesteps, cond, null = toy()
    # 0 + 7.5 * (1 - 0) = 7.5
    assert Guidance(7.5).denoise(policy, x_t, timesteps, cond, null, None).unique().tolist() == [7.5]
    assert policy.calls == [(4, "policy")]


def test_scale_1_makes_no_unconditional_pass():
    policy: Any = ConstantPolicy()
    x_t, timesteps, cond, null = toy()
    assert Guidance(1.0).denoise(policy, x_t, timesteps, cond, null, None).unique().tolist() == [1.0]
    assert policy.calls == [(2, "policy")]


def test_a_negative_model_answers_the_unconditional_branch_alone():
    policy: Any = ConstantPolicy()
    x_t, timesteps, cond, null = toy()
    null = Conditioning(torch.full((1, 1), 0.5))
    # uncond 3 * 0.5 = 1.5, cond 1: 1.5 + 2 * (1 - 1.5) = 0.5
    guidance = Guidance(2.0, cond="policy", uncond="strong")
    assert guidance.denoise(policy, x_t, timesteps, cond, null, None).unique().tolist() == [0.5]
    assert policy.calls == [(2, "strong"), (2, "policy")]


def test_stochastic_sampling_wants_a_generator_a_row():
    schedule = VPSchedule.from_scheduler(DDIMScheduler())
    sampler = Sampler(schedule, {"spacing": "leading", "offset": 1}, 2, eta=1.0)
    x_t, _, cond, null = toy()
    policy: Any = ConstantPolicy()
    with pytest.raises(ValueError, match="generators"):
        sampler.sample(policy, x_t, cond, null, None, Guidance(1.0), [torch.Generator()])


def sample(backbone, latents: torch.Tensor, steps: int, scale: float, eta: float = 0.0, generators=None):
    policy = Policy(backbone)
    size = backbone.geometry((64, 64), (0, 0), (64, 64))
    geometry = None if size is None else size.expand(len(latents), -1)
    sampler = Sampler(backbone.schedule, backbone.sampling, steps, eta)
    cond = backbone.encode_prompts(PROMPTS[: len(latents)])
    return sampler.sample(policy, latents, cond, backbone.null(), geometry, Guidance(scale), generators)


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
