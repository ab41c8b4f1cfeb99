"""Images from prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from t2ialign.errors import InputError
from t2ialign.policy import Policy
from t2ialign.rng import keyed_seed
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import sampling_timesteps
from t2ialign.types import Conditioning

SeedPolicy = Literal["keyed", "official", "per_prompt"]


def image_seed(seed: int, index: int, k: int, policy: SeedPolicy = "keyed") -> int:
    """The seed of image k of prompt `index` in a folder made with `seed`.

    Args:
        policy: keyed gives each image 32 bits of its own; official is seed + k, so that all prompts start from the same
            noise, as UniGenBench's script has it; per_prompt is seed + 10000 k + index.
    """
    if policy == "official":
        return seed + k
    if policy == "per_prompt":
        return seed + 10_000 * k + index
    return keyed_seed(seed, "image", index, k) % 2**32


def initial_latents(policy: Policy, seeds: Sequence[int], resolution: int) -> Tensor:
    """Standard normal latents, each from its own seed as a diffusers pipeline with that CPU generator draws them.

    [B, C, H, W] float32
    """
    side = resolution // policy.backbone.vae_factor
    shape = (policy.backbone.latent_channels, side, side)
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(policy.device)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of [B, 3, H, W] in [0, 1]."""
    rows = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in rows]


def generate_images(
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance: Guidance,
    steps: int,
    resolution: int | None = None,
    batch: int,
) -> Iterator[Image.Image]:
    """One image a (prompt, seed), in order; which others share its batch changes it by rounding only.

    Args:
        guidance: the scale, and the weights that answer.
        steps: DDIM steps.
        resolution: side in px, the backbone's own if not said.
        batch: images made at once.

    Raises:
        InputError: the resolution does not fit the VAE, or the model cannot make that many steps.
        ValueError: prompts and seeds differ in number.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    backbone = policy.backbone
    side = resolution or backbone.resolution
    if side % backbone.vae_factor:
        raise InputError(f"resolution {side} is not a multiple of {backbone.vae_factor}, the VAE's cell")
    try:
        sampler = Sampler(sampling_timesteps(backbone.schedule, steps, **backbone.sampling))
    except ValueError as error:
        raise InputError(f"inference steps: {error}") from error
    size = backbone.geometry((side, side), (0, 0), (side, side))
    known: dict[str, Conditioning] = {}
    for start in range(0, len(prompts), batch):
        wanted = prompts[start : start + batch]
        known = _conditionings(policy, wanted, known)
        latents = initial_latents(policy, seeds[start : start + batch], side)
        cond = Conditioning.cat([known[prompt] for prompt in wanted])
        geometry = None if size is None else size.to(policy.device).expand(len(wanted), -1)
        x_0 = sampler.sample(policy, latents, cond, geometry=geometry, guidance=guidance).x
        yield from to_images(backbone.decode_latents(x_0))


def _conditionings(policy: Policy, wanted: Sequence[str], known: Mapping[str, Conditioning]) -> dict[str, Conditioning]:
    """The conditioning of each wanted prompt, encoding only what is not known; [1, ...] each."""
    new = [prompt for prompt in dict.fromkeys(wanted) if prompt not in known]
    found = {prompt: known[prompt] for prompt in wanted if prompt in known}
    if new:
        encoded = policy.backbone.encode_prompts(new)
        found |= {prompt: encoded.map(lambda rows, row=row: rows[row : row + 1]) for row, prompt in enumerate(new)}
    return found
