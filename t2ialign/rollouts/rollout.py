"""The images that a policy makes of itself, with the latents that training goes on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from t2ialign.config.schema import Rollout as RolloutConfig
from t2ialign.errors import InputError
from t2ialign.generation.images import NotFinite, finite_images
from t2ialign.policy import Policy
from t2ialign.rng import Draws, generator
from t2ialign.rollouts.judging import Group
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Rollout, Sampler
from t2ialign.schedules import sampling_timesteps
from t2ialign.types import Conditioning


class Prompts(NamedTuple):
    """What a process makes images of in an iteration."""

    texts: list[str]
    cond: Conditioning
    """[P, L, D]"""
    geometry: Tensor | None
    """[P, 6]"""
    latents: tuple[int, ...]
    """Shape of an image's latents: C, H, W."""
    groups: Tensor
    """Numbers of the groups, counted over iterations and processes. [P] int64"""


class Steps(NamedTuple):
    """What the rollouts of P prompts, G each, went through in S steps."""

    latents: Tensor
    """[P, G, S + 1, C, H, W] float32"""
    log_probs: Tensor
    """See `sampling.sampler.Trajectory`. [P, G, S]"""
    levels: Tensor
    """[S + 1] int64"""


class RolledOut(NamedTuple):
    """The images of P prompts, G each."""

    latents: Tensor
    """x_0 as it was decoded and judged, not rounded to 8 bits. [P, G, C, H, W] float32"""
    images: list[list[Image.Image | None]]
    """None where latents or pixels are not finite. [P][G]"""
    steps: Steps | None = None
    """If they were recorded."""


def open_sampler(policy: Policy, config: RolloutConfig) -> Sampler:
    """
    Raises:
        InputError: the model cannot make that many steps.
    """
    try:
        timesteps = sampling_timesteps(policy.schedule, config.inference_steps, **policy.backbone.sampling)
    except ValueError as error:
        raise InputError(f"rollout.inference_steps: {error}") from error
    return Sampler(timesteps, config.eta)


def roll_out(
    policy: Policy,
    sampler: Sampler,
    config: RolloutConfig,
    prompts: Prompts,
    *,
    seed: int,
    batch: int,
    record: bool = False,
    tick: Callable[[], None] = lambda: None,
    ready: Callable[[Group], None] = lambda _: None,
) -> RolledOut:
    """G images of each prompt by `config.weights`; the same for a seed and a group, whatever its company.

    Args:
        batch: images made at once; changes them by rounding only.
        record: keep every step.
        tick: called after each batch; may raise to stop.
        ready: called with each group as soon as its last image is made.
    """
    count, images = len(prompts.groups), config.images
    numbers = (prompts.groups[:, None] * images + torch.arange(images)).flatten()
    starts = numbers // images if config.shared_noise else numbers
    rows = torch.arange(count).repeat_interleave(images)
    guidance = Guidance(config.guidance_scale, config.weights, config.weights)
    found: list[Rollout] = []
    pictures: list[Image.Image | None] = []
    grouped: list[list[Image.Image | None]] = []
    for some in range(0, len(numbers), batch):
        own, row = numbers[some : some + batch], rows[some : some + batch]
        noise = Draws(seed, starts[some : some + batch]).normal(prompts.latents, "rollout")
        rolled = sampler.sample(
            policy,
            noise.to(policy.device),
            prompts.cond.map(lambda tensor, row=row: tensor[row].to(policy.device)),
            geometry=None if prompts.geometry is None else prompts.geometry[row].to(policy.device),
            guidance=guidance,
            generators=[generator(seed, number, "rollout steps") for number in own.tolist()],
            record=record,
        )
        texts = [prompts.texts[int(place)] for place in row]
        made = finite_images(rolled.x, policy.backbone.decode_latents(rolled.x), texts, own.tolist())
        pictures += [None if isinstance(picture, NotFinite) else picture for picture in made]
        found.append(rolled)
        while len(pictures) >= (len(grouped) + 1) * images:
            place = len(grouped)
            grouped.append(pictures[place * images : (place + 1) * images])
            ready(Group(int(prompts.groups[place]), prompts.texts[place], grouped[-1]))
        tick()
    return RolledOut(
        torch.cat([one.x.cpu() for one in found]).unflatten(0, (count, images)), grouped, _steps(found, images)
    )


def _steps(rollouts: list[Rollout], images: int) -> Steps | None:
    """The recorded steps of batches, which have the same levels; None where nothing was recorded."""
    recorded = [one.trajectory for one in rollouts if one.trajectory is not None]
    if not recorded:
        return None
    latents, log_probs = (
        torch.cat([getattr(one, name).cpu() for one in recorded]).unflatten(0, (-1, images))
        for name in ("latents", "log_probs")
    )
    return Steps(latents, log_probs, rollouts[0].levels[0].cpu())
