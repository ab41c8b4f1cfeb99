"""The sections of online training: rollouts, advantages, and signs that a run goes wrong."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import Self

from t2ialign.config.component import Section

Sign: TypeAlias = Literal["held_out", "diversity", "saturation", "flat_groups", "clipped", "distance", "order"]


class Rollout(Section):
    """The images that the policy makes of itself in an iteration, and what is trained on them."""

    prompts: int = Field(16, ge=1)
    """Prompts of an iteration, over all processes; each prompt of the data once before any comes again."""
    images: int = Field(8, ge=2)
    """Images of each prompt, its group, which are compared with each other."""
    best_of: int | None = Field(None, ge=2, multiple_of=2)
    """So many images of each group are trained, one half those with the highest and one half those with the lowest
    advantages, which are of the whole group; default: all."""
    timesteps: int = Field(4, ge=1)
    """Draws of timestep and noise that each image is trained on; of objective grpo steps of its trajectory, drawn
    without repetition."""
    window: int | None = Field(None, ge=1)
    """Of objective grpo: so many consecutive steps, placed at random in each iteration, have noise, and `timesteps` of
    them are trained; all other steps have none. Without it all steps have noise."""
    skip_last: int = Field(2, ge=0)
    """Steps at the end of a trajectory that are never trained: with DDIM the last but one would outweigh all others."""
    updates: int = Field(1, ge=1)
    """Optimizer steps of an iteration, each on an equal share of the images."""
    guidance_scale: float = Field(1.0, ge=1)
    """Classifier-free guidance of the images; 1 makes no unconditional pass."""
    inference_steps: int = Field(10, ge=1)
    """DDIM steps of the images."""
    eta: float = Field(0.0, ge=0, le=1)
    """Noise of the DDIM steps."""
    batch: int | None = Field(None, ge=1)
    """Images made at once by a process, default: train.micro_batch."""
    shared_noise: bool = False
    """Start all images of a prompt from the same noise; they then differ only by eta."""
    weights: Literal["old", "policy"] = "old"
    """Who makes the images: the average that lags behind, as in DiffusionNFT, or the policy as it is."""
    old_decay_rate: float = Field(1e-3, ge=0)
    """After the k-th optimizer step old = d old + (1 - d) policy with d = min(rate k, `old_decay_max`); 0 follows the
    policy at once."""
    old_decay_max: float = Field(0.5, ge=0, lt=1)
    """The highest d."""
    kept_groups: int = Field(1, ge=0)
    """Groups of an iteration, on each process, whose images are kept in the run's folder; the rewards of all images are
    in rollouts.jsonl."""

    @property
    def trained_images(self) -> int:
        """Images of a group that are trained."""
        return self.best_of or self.images

    @model_validator(mode="after")
    def _has_the_best(self) -> Self:
        if self.best_of is not None and self.best_of > self.images:
            raise ValueError(f"best_of {self.best_of}: a group has {self.images} images; set it to at most that")
        return self


class AdvantageConfig(Section):
    """How the rewards of a group become advantages."""

    of: Literal["score", "win_rate"] = "score"
    """What of pointwise and groupwise rewards: the score, or the share of the group's others that it beats (ties
    count half). Pairwise rewards always give win rates."""
    pairs: int | None = Field(None, ge=2)
    """Images that pairwise rewards compare each image with, drawn for each group; default: all others of its group."""
    tie_margin: float = Field(0.0, ge=0)
    """Scores that differ by no more are a tie."""
    scale: Literal["global_std", "group_std", "fixed"] = "global_std"
    """What the distance from the group's mean (for win rates from 1/2) is divided by: the standard deviation of all
    images of the iteration, of the group, or `fixed_scale`. group_std makes a group of nearly equal scores count as
    much as any other."""
    fixed_scale: float | None = Field(None, gt=0)
    """Default for win rates: their standard deviation in a strict order, ((G + 1) / (12 (G - 1)))^(1/2); 0.5 makes the
    advantage 2 w - 1."""
    epsilon: float = Field(1e-4, gt=0)
    """Added to a standard deviation."""
    clip: float = Field(5.0, gt=0)
    """Advantages beyond this count as this."""

    @model_validator(mode="after")
    def _states_its_scale(self) -> Self:
        if self.scale == "fixed" and self.of == "score" and self.fixed_scale is None:
            raise ValueError("scale: fixed of scores needs fixed_scale, in their units")
        if self.scale != "fixed" and self.fixed_scale is not None:
            raise ValueError(f"fixed_scale is of scale: fixed, and scale is {self.scale}; leave one out")
        return self


class Monitor(Section):
    """Signs that an online run goes wrong. Each is said once; those in `stop` end the run, saved."""

    every_iterations: int = Field(5, ge=1)
    """Iterations between looks at the record; what is compared are means over as many iterations as this."""
    stop: list[Sign] = Field([])
    """Signs that end the run."""
    held_out: float = Field(2.0, gt=0)
    """Standard errors by which a reward of `validate.rewards` may lie below its best while trained rewards have risen:
    further below, the trained reward is exploited."""
    diversity: float = Field(0.7, gt=0)
    """Least spread of a prompt's images (`rollout/diversity`), as a share of that of the first iterations."""
    saturation: float = Field(1.5, gt=1)
    """Most colour saturation of the images (`rollout/saturation`), as a multiple of that of the first iterations."""
    flat_groups: float = Field(0.5, gt=0, le=1)
    """Most groups without any difference (`rollout/flat_groups`), which teach nothing."""
    clipped: float = Field(0.6, gt=0, le=1)
    """Most steps that the trust region holds back (`clipped`)."""
    order: float = Field(0.05, gt=0, lt=0.5)
    """Largest distance of `first_shown_wins` from one half: further off, a pairwise reward prefers a place, which
    its option `order: both` cancels."""
    distance: float | None = Field(None, gt=0)
    """Largest distance from the reference (`kl`, of objectives that measure it); none: any."""
