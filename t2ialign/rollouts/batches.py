"""From the images of an iteration and their advantages to what is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ialign.config.schema import OnlineConfig
from t2ialign.rng import generator
from t2ialign.rollouts.advantages import best_and_worst
from t2ialign.rollouts.rollout import Prompts, RolledOut
from t2ialign.types import Batch, Conditioning, Transitions


def to_batch(
    config: OnlineConfig, prompts: Prompts, rolled: RolledOut, advantages: Tensor, *, iteration: int, rank: int = 0
) -> Batch:
    """Every draw of every image of a process, or of the best and worst, images in an order of the iteration's own.

    Args:
        advantages: NaN for images that do not count. [P, G]

    Returns:
        K draws an image, P * G images, or of P * `rollout.best_of`.
    """
    draws, images, best_of = config.rollout.timesteps, config.rollout.images, config.rollout.best_of
    taken = torch.arange(advantages.numel())
    if best_of is not None:
        starts = torch.arange(len(advantages))[:, None] * images
        taken = (starts + best_and_worst(advantages, best_of)).flatten()
    order = taken[torch.randperm(len(taken), generator=generator(config.seed, "images", iteration, rank))]
    place = order.repeat_interleave(draws)
    draw = torch.arange(draws).repeat(len(taken))
    numbers = (prompts.groups[:, None] * images + torch.arange(images)).flatten()
    row = place // images
    flat = advantages.flatten()[place]
    counted = flat.isfinite()
    return Batch(
        keys=numbers[place] * draws + draw,
        rows=row,
        latents=_where(counted, rolled.latents.flatten(0, 1)[place])[:, None],
        cond=Conditioning(prompts.cond.tokens, prompts.cond.pooled).map(lambda tensor: tensor[row][:, None]),
        geometry=None if prompts.geometry is None else prompts.geometry[row][:, None],
        weights=counted.float(),
        advantages=flat.nan_to_num(),
        transitions=None if rolled.steps is None else _taken(rolled.steps, place * draws + draw, counted),
    )


def _taken(steps: Transitions, which: Tensor, counted: Tensor) -> Transitions:
    return steps.map(lambda tensor: _where(counted, tensor[which]))


def _where(counted: Tensor, values: Tensor) -> Tensor:
    """0 in rows that do not count, which still pass through the network, where NaN would spread to the gradient."""
    return values.where(counted.view(-1, *[1] * (values.ndim - 1)), 0)
