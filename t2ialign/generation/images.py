"""Images from prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from t2ialign.config.generation import GenerationConfig, SeedPolicy
from t2ialign.errors import DataError, InputError
from t2ialign.policy import Policy
from t2ialign.rng import keyed_seed
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.sampling.schedulers import sample_by_scheduler
from t2ialign.schedules import sampling_timesteps
from t2ialign.types import Conditioning, Weights


def image_seed(seed: int, index: int, k: int, policy: SeedPolicy = "keyed") -> int:
    """The seed of image k of prompt `index` in a folder made with `seed`.

    Args:
        policy: keyed gives each image 32 bits of its own; official is seed + k, so that all prompts start from the same
            noise, as in UniGenBench's script; per_prompt is seed + 10000 k + index.
    """
    if policy == "official":
        return seed + k
    if policy == "per_prompt":
        return seed + 10_000 * k + index
    return keyed_seed(seed, "image", index, k) % 2**32


@dataclass(frozen=True)
class NotFinite:
    """An image that could not be made: its numbers overflowed."""

    prompt: str
    seed: int
    where: str
    """latents or pixels"""

    def __str__(self) -> str:
        return f"the {self.where} of prompt {self.prompt!r}, seed {self.seed}, are NaN or infinite"


REMEDY = "the model's numbers overflow; try --precision fp32 (or bf16), a smaller LoRA scale, or other weights"
"""What to do about images that are not finite."""


def generate_images(
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationConfig,
    *,
    weights: Weights = "policy",
    negative: Weights | None = None,
) -> Iterator[Image.Image]:
    """One image for each (prompt, seed), in order; which others share its batch changes it by rounding only.

    Args:
        settings: all but seeds and images per prompt, which `seeds` decides.
        weights: which weights answer.
        negative: which answer in the unconditional branch; default: `weights`.

    Raises:
        InputError: the size does not fit the VAE, or the model cannot make that many steps.
        DataError: an image is not finite.
        ValueError: prompts and seeds differ in number.
    """
    for image in try_images(policy, prompts, seeds, settings, weights=weights, negative=negative):
        if isinstance(image, NotFinite):
            raise DataError(f"no image: {image}; {REMEDY}")
        yield image


def try_images(
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationConfig,
    *,
    weights: Weights = "policy",
    negative: Weights | None = None,
) -> Iterator[Image.Image | NotFinite]:
    """The same, with what is not finite in its place.

    Raises:
        InputError, ValueError: see `generate_images`.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    height, width = image_size(policy, settings)
    guidance = _guidance(policy, settings, weights, weights if negative is None else negative)
    sample = _sampler(policy, settings)
    geometry = policy.backbone.geometry((height, width), (0, 0), (height, width))
    known: dict[str, Conditioning] = {}
    for start in range(0, len(prompts), settings.batch):
        wanted, own_seeds = prompts[start : start + settings.batch], seeds[start : start + settings.batch]
        known = _conditionings(policy, wanted, known)
        generators = [torch.Generator().manual_seed(seed) for seed in own_seeds]
        latents = sample(
            initial_latents(policy, generators, height, width),
            Conditioning.cat([known[prompt] for prompt in wanted]),
            geometry=None if geometry is None else geometry.to(policy.device).expand(len(wanted), -1),
            guidance=guidance,
            generators=generators,
        )
        pixels = policy.backbone.decode_latents(latents)
        yield from finite_images(latents, pixels, wanted, own_seeds)


def image_size(policy: Policy, settings: GenerationConfig) -> tuple[int, int]:
    """(height, width) in px.

    Raises:
        InputError: one is not a multiple of the VAE's cell.
    """
    side, cell = settings.resolution or policy.backbone.resolution, policy.backbone.vae_factor
    for name, value in (("resolution", side), ("width", settings.width), ("height", settings.height)):
        if value is not None and value % cell:
            raise InputError(f"{name} {value} is not a multiple of {cell}, the VAE's cell")
    return settings.height or side, settings.width or side


def _guidance(policy: Policy, settings: GenerationConfig, weights: Weights, negative: Weights) -> Guidance:
    text = settings.negative_prompt
    null = None if text is None else policy.backbone.encode_prompts([text])
    return Guidance(settings.guidance_scale, weights, negative, null)


class _Sample(Protocol):
    """Clean latents of noise."""

    def __call__(
        self,
        noise: Tensor,
        cond: Conditioning,
        *,
        geometry: Tensor | None,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
    ) -> Tensor: ...


def _sampler(policy: Policy, settings: GenerationConfig) -> _Sample:
    """The sampler that the settings name, checked to be able to take their steps."""
    schedule, steps = policy.schedule, settings.inference_steps
    try:
        timesteps = sampling_timesteps(schedule, steps, **policy.backbone.sampling)
    except ValueError as error:
        raise InputError(f"inference steps: {error}") from error
    ddim = Sampler(timesteps, settings.eta)
    if settings.scheduler == "ddim":
        return lambda noise, cond, **options: ddim.sample(policy, noise, cond, **options).x
    config = policy.backbone.pipeline().components["scheduler"].config

    def sample(noise: Tensor, cond: Conditioning, *, generators: Sequence[torch.Generator], **options: Any) -> Tensor:
        return sample_by_scheduler(settings.scheduler, config, steps, policy, noise, cond, **options)

    return sample


def initial_latents(policy: Policy, generators: Sequence[torch.Generator], height: int, width: int) -> Tensor:
    """Standard normal latents, drawn as a diffusers pipeline draws them with these CPU generators.

    [B, C, H, W] float32, for images of this height and width in px
    """
    cell = policy.backbone.vae_factor
    shape = (policy.backbone.latent_channels, height // cell, width // cell)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(policy.device)


def finite_images(
    latents: Tensor, pixels: Tensor, prompts: Sequence[str], seeds: Sequence[int]
) -> Iterator[Image.Image | NotFinite]:
    """8-bit images of [B, 3, H, W] pixels in [0, 1], where they and their latents are numbers."""
    latents_finite, pixels_finite = (tensor.isfinite().flatten(1).all(1).tolist() for tensor in (latents, pixels))
    rows = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for row, prompt, seed, *finite in zip(rows, prompts, seeds, latents_finite, pixels_finite, strict=True):
        yield Image.fromarray(row) if all(finite) else NotFinite(prompt, seed, "pixels" if finite[0] else "latents")


def _conditionings(policy: Policy, wanted: Sequence[str], known: Mapping[str, Conditioning]) -> dict[str, Conditioning]:
    """The conditioning of each wanted prompt, encoding only what is not known; [1, ...] each."""
    new = [prompt for prompt in dict.fromkeys(wanted) if prompt not in known]
    found = {prompt: known[prompt] for prompt in wanted if prompt in known}
    if new:
        encoded = policy.backbone.encode_prompts(new)
        found |= {prompt: encoded.map(lambda rows, row=row: rows[row : row + 1]) for row, prompt in enumerate(new)}
    return found
