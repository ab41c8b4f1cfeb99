"""The most bytes that passes take at once, counted while they are made with shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2ialign.backbones.base import Backbone
from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.policy import Policy
from t2ialign.training.preflight import Plan
from t2ialign.training.tensor_bytes import LiveBytes, Shapes, module_tensors, storage_bytes
from t2ialign.types import Conditioning

ENCODED_AT_ONCE = 8
"""Images in one pass of the VAE's encoder, as `encode` takes them."""


class AtOnce(NamedTuple):
    """Images that are made together."""

    batch: int
    guided: bool


def training_passes(
    config: RunConfig,
    plan: Plan,
    policy: Policy,
    shapes: Shapes,
    *,
    accumulates: bool = False,
    left: Mapping[nn.Parameter, int] | None = None,
) -> int:
    """The most bytes that the passes of a micro-batch take, gradients included.

    Args:
        left: bytes that are left of a parameter's gradient once it is computed; default: all of it.
    """
    guided = isinstance(config, OnlineConfig) and config.scores_steps and config.rollout.guidance_scale > 1
    rows = config.train.micro_batch * config.data.views * (2 if guided else 1)
    trained = list(policy.trained_parameters().values())
    with shapes:
        if accumulates:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        parts: list[Tensor] = []
        for parameter, size in (left or {}).items():
            leave = partial(_leave_part, size, parts)
            parameter.register_post_accumulate_grad_hook(leave)  # pyright: ignore[reportUnknownMemberType]
        live = LiveBytes(module_tensors([policy.denoiser, *policy.copies.values()]))
        with live:
            inputs = _inputs(config, plan, policy.backbone, rows, shapes.device)
            for weights in config.objective.required_weights:
                policy.denoise(*inputs, weights)
            policy.denoise(*inputs).square().sum().backward()  # pyright: ignore[reportUnknownMemberType]
        held = storage_bytes(p.grad for p in trained if p.grad is not None) if accumulates else 0
        for parameter in trained:
            parameter.grad = None
    return live.peak + held


def _leave_part(size: int, parts: list[Tensor], parameter: Tensor) -> None:
    parts.append(parameter.new_empty(size, dtype=torch.uint8))
    parameter.grad = None


Inputs = tuple[Tensor, Tensor, Conditioning, Tensor | None]
"""x_t [B, C, h, w], timesteps [B], text and micro-conditioning, as `Policy.denoise` takes them."""


def _inputs(config: RunConfig, plan: Plan, backbone: Backbone, rows: int, device: torch.device) -> Inputs:
    assert plan.facts is not None
    side = (config.data.resolution or backbone.resolution) // backbone.vae_factor
    geometry = backbone.geometry((8, 8), (0, 0), (8, 8))
    tokens = (config.backbone.prompt_segments or 1) * plan.facts.text_tokens
    pooled = None
    if geometry is not None:
        encoder = backbone.pipeline().components["text_encoder_2"]
        pooled = torch.zeros(rows, encoder.config.projection_dim, device=device)
    return (
        torch.zeros(rows, backbone.latent_channels, side, side, device=device),
        torch.zeros(rows, dtype=torch.int64, device=device),
        Conditioning(torch.zeros(rows, tokens, plan.facts.text_width, device=device), pooled),
        None if geometry is None else torch.zeros(rows, len(geometry), device=device),
    )


def encoding_pass(backbone: Backbone, side: int, shapes: Shapes) -> int:
    """The most bytes that a pass of the VAE's encoder takes."""
    vae = backbone.pipeline().components["vae"]
    with shapes, torch.no_grad(), LiveBytes(module_tensors([vae])) as live:
        vae.encode(torch.zeros(ENCODED_AT_ONCE, 3, side, side, device=shapes.device, dtype=vae.dtype))
    return live.peak


def image_passes(config: RunConfig, plan: Plan, policy: Policy, made: AtOnce, shapes: Shapes) -> int:
    """The most bytes that a step of the sampler or the VAE's decoder takes."""
    backbone = policy.backbone
    vae = backbone.pipeline().components["vae"]
    with shapes, torch.no_grad():
        inputs = _inputs(config, plan, backbone, made.batch * (2 if made.guided else 1), shapes.device)
        with LiveBytes(module_tensors([policy.denoiser, *policy.copies.values()])) as passes:
            policy.denoise(*inputs)
        with LiveBytes(module_tensors([vae])) as decoder:
            vae.decode(inputs[0][: made.batch].to(vae.dtype))
    return max(passes.peak, decoder.peak)
