"""What an iteration of online training takes: images, passes, verdicts."""

from __future__ import annotations

from typing import NamedTuple

from t2ialign.config.schema import OnlineConfig
from t2ialign.objectives.base import Passes
from t2ialign.rewards.base import RewardConfig
from t2ialign.rollouts.pairing import pair_count


class IterationCost(NamedTuple):
    """Of an iteration, over all processes."""

    images: int
    sampling: int
    """UNet passes that make the images, in rows of a batch."""
    training: int
    """UNet passes of its updates, in rows of a batch, a backward pass counted once."""
    scores: int
    """Verdicts on single images."""
    pairs: int
    """Verdicts on pairs of images; in both orders two a pair."""
    calls: int
    """Calls of rewards; more where images cannot be made or calls fail."""

    def line(self) -> str:
        """In words."""
        verdicts = [f"{count:,} {what}" for count, what in ((self.scores, "scores"), (self.pairs, "pairs")) if count]
        return (
            f"an iteration: {self.images:,} images in {self.sampling:,} UNet passes; {' and '.join(verdicts)} in "
            f"{self.calls:,} calls of rewards; {self.training:,} UNet passes of training"
        )


def iteration_cost(config: OnlineConfig) -> IterationCost:
    """What an iteration takes."""
    prompts, images = config.rollout.prompts, config.rollout.prompts * config.rollout.images
    asked = [(reward, _questions(config, reward)) for reward in config.rewards]
    return IterationCost(
        images,
        images * _image_passes(config),
        round(config.examples * _trained_passes(config).total),
        prompts * sum(count for reward, count in asked if reward.kind != "pairwise"),
        prompts * sum(count for reward, count in asked if reward.kind == "pairwise"),
        prompts * sum(_calls(reward, count) for reward, count in asked),
    )


def _questions(config: OnlineConfig, reward: RewardConfig) -> int:
    """Verdicts of a reward on a group."""
    if reward.kind != "pairwise":
        return config.rollout.images
    return pair_count(config.rollout.images, config.advantage.pairs) * (2 if reward.order == "both" else 1)


def online_passes(config: OnlineConfig) -> Passes:
    """UNet passes of a trained row; its share of the sampling is among those without gradient."""
    passes = _trained_passes(config)
    images = config.rollout.images / config.rollout.trained_images
    return passes._replace(reference=passes.reference + images * _image_passes(config) / config.rollout.timesteps)


def _image_passes(config: OnlineConfig) -> int:
    return config.rollout.inference_steps * (2 if config.rollout.guidance_scale > 1 else 1)


def _trained_passes(config: OnlineConfig) -> Passes:
    """A step that is scored has the guidance that it was sampled with."""
    branches = 2 if config.scores_steps and config.rollout.guidance_scale > 1 else 1
    passes = config.objective.passes(config.data.views)
    return Passes(branches * passes.reference, branches * passes.forward, branches * passes.backward)


def _calls(reward: RewardConfig, asked: int) -> int:
    """Calls for a group, which is asked about alone."""
    return 1 if reward.kind == "groupwise" else -(-asked // reward.batch_size)
