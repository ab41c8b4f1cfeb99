"""Sampling by diffusers' own schedulers, for images only: rollouts and inversion need `Sampler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from t2ialign.sampling.guidance import Guidance
from t2ialign.types import Conditioning, Denoiser

SCHEDULERS: dict[str, tuple[Any, dict[str, str]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}
"""Name -> diffusers' class, and what overrules a model's scheduler config; both are deterministic."""


@torch.no_grad()
def sample_by_scheduler(
    name: str,
    config: Mapping[str, Any],
    steps: int,
    denoiser: Denoiser,
    noise: Tensor,
    cond: Conditioning,
    *,
    geometry: Tensor | None,
    guidance: Guidance,
) -> Tensor:
    """Clean latents of standard normal noise [B, C, H, W], as a diffusers pipeline makes them. [B, C, H, W]

    Args:
        name: of SCHEDULERS.
        config: of the model's own scheduler.
        cond: [B, ...]
        geometry: SDXL's micro-conditioning. [B, 6]

    Raises:
        ValueError: the scheduler cannot take that many steps.
    """
    kind, options = SCHEDULERS[name]
    scheduler = kind.from_config(config, **options)
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x_t = scheduler.scale_model_input(x, timestep)
        prediction = guidance.denoise(denoiser, x_t, timestep.expand(len(x)), cond, geometry)
        x = scheduler.step(prediction, timestep, x, return_dict=False)[0]
    return x
