"""The images that a policy makes of itself, with the latents that training goes on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from t2ialign.config.online import Rollout as RolloutConfig
from t2ialign.errors import InputError
from t2ialign.generation.images import NotFinite, finite_images
from t2ialign.policy import Policy
from t2ialign.rng import Draws, generator
from t2ialign.rollouts.judging import Group
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Rollout, Sampler, Trajectory
from t2ialign.schedules import sampling_timesteps
from t2ialign.types import Conditioning, Transitions


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


class RolledOut(NamedTuple):
    """The images of P prompts, G each."""

    latents: Tensor
    """x_0 as it was decoded and judged, not rounded to 8 bits. [P, G, C, H, W] float32"""
    images: list[list[Image.Image | None]]
    """None where latents or pixels are not finite. [P][G]"""
    steps: Transitions | None = None
    """The recorded steps, those of an image side by side. [P * G * K]"""


def open_sampler(policy: Policy, config: RolloutConfig, stochastic: range | None = None) -> Sampler:
    """
    Args:
        stochastic: the steps that have `config.eta`; default: all.

    Raises:
        InputError: the model cannot make that many steps.
    """
    try:
        timesteps = sampling_timesteps(policy.schedule, config.inference_steps, **policy.backbone.sampling)
    except ValueError as error:
        raise InputError(f"rollout.inference_steps: {error}") from error
    return Sampler(timesteps, config.eta, stochastic)


def trainable_steps(config: RolloutConfig, seed: int, iteration: int) -> range:
    """The steps of an iteration's trajectories that may be trained: all but the last, or a window of these at random.

    Flow-GRPO-Fast and MixGRPO (arXiv:2507.21802) train such a window, and sample all other steps without noise.
    """
    trainable = config.inference_steps - config.skip_last
    if config.window is None:
        return range(trainable)
    places = trainable - config.window + 1
    start = int(torch.randint(places, (), generator=generator(seed, iteration, "window")))
    return range(start, start + config.window)


def roll_out(
    policy: Policy,
    config: RolloutConfig,
    prompts: Prompts,
    *,
    seed: int,
    batch: int,
    steps: range | None = None,
    tick: Callable[[], None] = lambda: None,
    ready: Callable[[Group], None] = lambda _: None,
) -> RolledOut:
    """G images of each prompt by `config.weights`; the same for a seed and a group, whatever its company.

    Args:
        batch: images made at once; changes them by rounding only.
        steps: those of which `config.timesteps` are recorded, drawn for each image; default: nothing is recorded.
        tick: called after each batch; may raise to stop.
        ready: called with each group as soon as its last image is made.
    """
    sampler = open_sampler(policy, config, steps if config.window else None)
    count, images = len(prompts.groups), config.images
    numbers = (prompts.groups[:, None] * images + torch.arange(images)).flatten()
    starts = numbers // images if config.shared_noise else numbers
    rows = torch.arange(count).repeat_interleave(images)
    guidance = Guidance(config.guidance_scale, config.weights, config.weights)
    latents: list[Tensor] = []
    recorded: list[Transitions] = []
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
            record=steps is not None,
        )
        texts = [prompts.texts[int(place)] for place in row]
        made = finite_images(rolled.x, policy.backbone.decode_latents(rolled.x), texts, own.tolist())
        pictures += [None if isinstance(picture, NotFinite) else picture for picture in made]
        latents.append(rolled.x.cpu())
        if rolled.trajectory is not None and steps is not None:
            drawn = _drawn(own, steps, config.timesteps, seed)
            recorded.append(_recorded(rolled, rolled.trajectory, drawn, config.eta))
        while len(pictures) >= (len(grouped) + 1) * images:
            place = len(grouped)
            grouped.append(pictures[place * images : (place + 1) * images])
            ready(Group(int(prompts.groups[place]), prompts.texts[place], grouped[-1]))
        tick()
    return RolledOut(
        torch.cat(latents).unflatten(0, (count, images)), grouped, Transitions.cat(recorded) if recorded else None
    )


def _drawn(images: Tensor, steps: range, count: int, seed: int) -> Tensor:
    """The steps of each image that are trained, without repetition. [B, K] int64"""
    orders = [torch.randperm(len(steps), generator=generator(seed, number, "steps")) for number in images.tolist()]
    return steps.start + torch.stack(orders)[:, :count]


def _recorded(rolled: Rollout, path: Trajectory, steps: Tensor, eta: float) -> Transitions:
    """Some steps of each row's rollout, side by side: nothing else of a trajectory is kept. [B * K]"""
    row, step = torch.arange(len(steps)).repeat_interleave(steps.shape[1]), steps.flatten()
    x_t, x_next = (path.latents[row, step + after] for after in (0, 1))
    at, to = (rolled.levels[row, step + after] for after in (0, 1))
    mean, log_prob = path.means[row, step], path.log_probs[row, step]
    return Transitions(x_t, x_next, at, to, mean, log_prob, eta).map(lambda tensor: tensor.cpu())
