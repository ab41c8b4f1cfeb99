"""The sections of a config, validated."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import ConfigDict, Field, SerializeAsAny, field_validator, model_validator
from typing_extensions import Self

from t2ialign.backbones.base import BackboneConfig
from t2ialign.config.component import Section, Slot, input_error_as_value_error
from t2ialign.config.generation import GenerationConfig
from t2ialign.config.loras import parse_loras
from t2ialign.config.online import AdvantageConfig, Monitor, Rollout
from t2ialign.config.trackers import TrackerConfig, named_trackers
from t2ialign.data.base import DataConfig
from t2ialign.noisers.base import Noiser
from t2ialign.objectives.base import Objective
from t2ialign.rewards.base import RewardConfig, parse_text, require_kind


class Lora(Section):
    """Low-rank adapters on the denoiser (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(16, gt=0)
    """Adapter outputs are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' inputs; above 0 the policy differs from the reference at the start, and the micro-batch
    has a part in what is learnt."""
    targets: Literal["attention", "attention+ff", "all"] = "attention"
    """Which layers get an adapter: attention projections, also the feed-forward layers, or also convolutions."""
    dora: bool = False
    """Also train the norms of the adapted weights' rows apart from their directions (DoRA, arXiv:2402.09353)."""
    rank_pattern: dict[str, int] = Field({})
    """Other ranks for some layers, by the ends of their names, in which .* stands for anything: {attn2.to_k: 4}."""
    alpha_pattern: dict[str, float] = Field({})
    """The same for alpha; a layer's scale is its own alpha / rank."""
    init: Path | None = None
    """A saved LoRA to start from; it becomes the reference too, and decides ranks, alphas and whether it is a DoRA.
    What it changes in text encoders is applied and not trained."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.init is not None and (self.dora or self.rank_pattern or self.alpha_pattern):
            raise ValueError("init has ranks and alphas of its own; leave dora, rank_pattern and alpha_pattern out")
        if self.dora and self.dropout:
            raise ValueError("dropout has no part in a DoRA; leave it, or dora, out")
        for key, value in (*self.rank_pattern.items(), *self.alpha_pattern.items()):
            if not 0 < value < math.inf:
                raise ValueError(f"pattern {key!r} gives {value}; ranks and alphas are above 0")
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"pattern {key!r} cannot be read ({error})") from None
        return self


OPTIMIZERS = ("adamw", "adamw8bit")
"""Optimizers that have names; every other one is named package.module:Class."""
OF_ADAMW = ("betas", "eps", "weight_decay")
"""Keys of `optim` that other optimizers may not have."""


class Optim(Section):
    """The optimizer and its schedule, counted in optimizer steps."""

    name: str = "adamw"
    """adamw, adamw8bit (needs the extra `bnb` and a GPU), or any optimizer as package.module:Class, for example
    schedulefree:AdamWScheduleFree."""
    options: dict[str, Any] = Field({})
    """More arguments of the optimizer's class, by its own names."""
    lr: float = Field(gt=0)
    """Learning rate, as used: nothing scales it by batch size or processes."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What follows the warm-up; cosine and linear end at 0."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the trained weights; none is kept if empty."""

    @model_validator(mode="after")
    def _has_keys_of_its_class(self) -> Self:
        if self.name in OPTIMIZERS:
            return self
        if ":" not in self.name:
            raise ValueError(
                f"unknown optimizer '{self.name}'. Known: {', '.join(OPTIMIZERS)}, or package.module:Class"
            )
        for key in OF_ADAMW:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is a key of adamw; write it as an option of {self.name} into optim.options")
        return self


class Train(Section):
    """How long, how much at once, how precise."""

    steps: int = Field(ge=1)
    """Optimizer steps in all, whatever was done before a restart."""
    effective_batch: int = Field(ge=1)
    """Examples (pairs, for DPO) in one optimizer step, over all processes and accumulation."""
    micro_batch: int = Field(ge=1)
    """Examples in one forward pass of one process; changes memory and speed, and the result only of objective kto or
    with lora.dropout, which is drawn for a micro-batch as a whole."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of frozen weights and of the forward pass; trained weights, schedule and losses stay fp32."""
    quantize: Literal["nf4"] | None = None
    """Hold the linear layers of the frozen denoiser's transformer blocks in 4 bits, for a LoRA; needs the extra
    `bnb`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter more time."""
    attention: Literal["default", "math", "xformers"] = "default"
    """Attention backend: torch's own, plain matrix products (fastest for small models on a CPU), or xformers."""
    shard: Literal["fsdp2"] | None = None
    """Full fine-tuning over several processes: fsdp2 leaves to each a part of all weights, averages and moments."""
    compile: Literal["blocks", "whole"] | bool = False
    """Compile the denoiser with torch.compile: each of its repeated blocks (transformer blocks, one compilation for all
    of a shape), or as a whole, which takes long; true is whole."""
    loader_workers: int = Field(0, ge=0)
    """Processes that read data ahead."""


class Checkpoint(Section):
    """When state is saved, and how much of it is kept."""

    every_steps: int = Field(100, ge=1)
    """Optimizer steps between checkpoints."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints kept."""


def reward_sections(rewards: Any) -> Any:
    """A list of rewards with every NAME[=WEIGHT][,option=value...] as the section it stands for."""
    if not isinstance(rewards, list):
        return rewards
    with input_error_as_value_error():
        return [parse_text(reward) if isinstance(reward, str) else reward for reward in cast("list[object]", rewards)]


def named_once(rewards: list[RewardConfig]) -> list[RewardConfig]:
    """The rewards, whose numbers are recorded by name.

    Raises:
        ValueError: a name is there twice.
    """
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        raise ValueError(f"rewards {', '.join(names)}: name each once")
    return rewards


class Validate(Section):
    """What is looked at while training: images of fixed prompts and seeds beside the base's, and held-out pairs."""

    every_steps: int = Field(100, ge=1)
    """Optimizer steps between validations; there is also one before the first step and one after the last."""
    prompts: Path | None = None
    """A text file, one prompt a line. Without it no images are made."""
    max_prompts: int = Field(8, ge=1)
    """How many of them, from the top."""
    guidance_scale: float = Field(5.0, ge=1)
    """Classifier-free guidance of the images."""
    inference_steps: int = Field(30, ge=1)
    """DDIM steps of the images."""
    negative: list[str] = Field([])
    """LoRAs or run folders of a negative model, with :beta if not 1: weights of the images' unconditional branch, which
    are not trained. See docs/negative-guidance.md."""
    negative_alpha: float = 1.0
    """Share of the policy's own LoRA in that branch."""
    rewards: list[Annotated[SerializeAsAny[RewardConfig], Slot("reward")]] = Field([])
    """Pointwise rewards measured on the images, for base and policy; not used in training. Each a section, or
    NAME[=WEIGHT][,option=value...]."""
    weights: Literal["policy", "ema"] = "policy"
    """Whose images: those of the weights that are trained, or of their average (`optim.ema_decay`)."""
    best: str | None = None
    """The name of one of `rewards`: the weights with its highest mean so far are kept as lora-best (or unet-best)."""
    pairs: Annotated[SerializeAsAny[DataConfig] | None, Slot("data")] = None
    """Held-out pairs, of images or of prompts: how often the policy orders them as their labels do."""
    max_pairs: int = Field(200, ge=2)
    """How many of them, drawn once by the run's seed."""
    draws: int = Field(5, ge=1)
    """Fixed draws of timestep and noise for each pair."""

    @field_validator("negative")
    @classmethod
    def _have_scales(cls, negative: list[str]) -> list[str]:
        with input_error_as_value_error():
            parse_loras(negative, "")
        return negative

    @field_validator("rewards", mode="before")
    @classmethod
    def _sections(cls, rewards: Any) -> Any:
        return reward_sections(rewards)

    @field_validator("rewards")
    @classmethod
    def _score_images(cls, rewards: list[RewardConfig]) -> list[RewardConfig]:
        with input_error_as_value_error():
            require_kind(rewards, "pointwise", "validation")
        return named_once(rewards)

    @model_validator(mode="after")
    def _measures_its_best(self) -> Self:
        names = [reward.name for reward in self.rewards]
        if self.best is not None and (self.prompts is None or self.best not in names):
            raise ValueError(
                f"best '{self.best}' needs prompts, and has to be one of rewards ({', '.join(names) or 'none here'})"
            )
        if self.weights == "ema" and self.negative:
            raise ValueError("weights: ema does not go with negative, whose branch is made of the trained weights")
        return self

    @property
    def generation(self) -> GenerationConfig:
        """How the images are made."""
        return GenerationConfig(guidance_scale=self.guidance_scale, inference_steps=self.inference_steps)

    @property
    def every(self) -> int | None:
        """Optimizer steps between measurements; None where nothing is measured."""
        return self.every_steps if self.compares else None

    @property
    def compares(self) -> bool:
        """Whether anything is measured."""
        return self.prompts is not None or self.pairs is not None


class RunConfig(Section):
    """What every kind of training has in common."""

    run_dir: Path
    """Folder of everything this run needs or makes."""
    seed: int = Field(0, ge=0)
    """The seed of all randomness."""
    backbone: Annotated[SerializeAsAny[BackboneConfig], Slot("backbone")]
    """The pretrained model."""
    lora: Lora | None = None
    """Train adapters; without this section the whole denoiser is trained."""
    optim: Optim
    """The optimizer."""
    train: Train
    """Length, batch and precision."""
    checkpoint: Checkpoint = Field(default_factory=lambda: Checkpoint.model_validate({}))
    """Saved states."""
    validation: Validate = Field(default_factory=lambda: Validate.model_validate({}), alias="validate")
    """Images and scores along the way."""
    trackers: list[str | TrackerConfig] = Field(["tensorboard"])
    """Who shows numbers, images and the config while the run trains, by accelerate's names, as [tensorboard, wandb]; a
    section where a tracker has arguments. metrics.jsonl is written in any case."""

    data: Annotated[SerializeAsAny[DataConfig], Slot("data")]
    """The examples; of online training the prompts."""
    noiser: Annotated[SerializeAsAny[Noiser], Slot("noiser")]
    """How a noisy latent is reached."""
    objective: Annotated[SerializeAsAny[Objective], Slot("objective")]
    """The loss."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True)

    @field_validator("trackers")
    @classmethod
    def _trackers_once(cls, trackers: list[str | TrackerConfig]) -> list[str | TrackerConfig]:
        named_trackers(trackers)
        return trackers

    @property
    def batch_dependence(self) -> tuple[str, ...]:
        """The keys by which micro-batch and number of processes have a part in what is learnt; none for most runs."""
        dropout = ("lora.dropout",) if self.lora is not None and self.lora.dropout > 0 else ()
        return (*dropout, *((f"objective '{self.objective.name}'",) if self.objective.batch_dependent else ()))

    @property
    def keeps_reference(self) -> bool:
        """Whether the weights that training starts from answer beside those that are trained."""
        frozen = (*self.objective.required_weights, *self.noiser.required_weights)
        return "reference" in frozen or self.validation.compares  # which compares with what training started from

    @property
    def keeps_old(self) -> bool:
        """Whether the weights that make rollouts are kept apart from those that are trained."""
        return "old" in self.objective.required_weights

    @model_validator(mode="after")
    def _keeps_what_it_measures(self) -> Self:
        if self.validation.weights == "ema" and self.optim.ema_decay is None:
            raise ValueError("validate.weights: ema needs optim.ema_decay, as 0.99")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        effective, micro = self.train.effective_batch, self.train.micro_batch
        if effective % micro:
            raise ValueError(
                f"train.effective_batch {effective} is not a multiple of train.micro_batch {micro}; "
                f"nearest: {max(micro, effective - effective % micro)} or {effective - effective % micro + micro}"
            )
        return self


class OfflineConfig(RunConfig):
    """Training from stored examples: `t2ialign train FILE` builds everything from this."""

    loop: Literal["offline"] = "offline"
    """Kind of training: offline, from stored examples, or online, from images that the policy makes of prompts."""


class OnlineConfig(RunConfig):
    """Training from rewards of the policy's own images."""

    loop: Literal["online"]
    """Kind of training: online, from images that the policy makes of prompts."""
    rollout: Rollout = Field(default_factory=lambda: Rollout.model_validate({}))
    """The images of an iteration."""
    rewards: list[Annotated[SerializeAsAny[RewardConfig], Slot("reward")]] = Field(min_length=1)
    """What judges the images, with weights. Each a section, or NAME[=WEIGHT][,option=value...]."""
    advantage: AdvantageConfig = Field(default_factory=lambda: AdvantageConfig.model_validate({}))
    """How rewards become advantages."""
    monitor: Monitor = Field(default_factory=lambda: Monitor.model_validate({}))
    """Signs that a run goes wrong."""
    max_failed: float = Field(0.05, ge=0, lt=1)
    """Share of an iteration's images that may stay without a reward; they are left out. With more the run stops before
    it learns anything of them."""

    @field_validator("rewards", mode="before")
    @classmethod
    def _sections(cls, rewards: Any) -> Any:
        return reward_sections(rewards)

    @field_validator("rewards")
    @classmethod
    def _named_once(cls, rewards: list[RewardConfig]) -> list[RewardConfig]:
        return named_once(rewards)

    @property
    def keeps_old(self) -> bool:
        return self.rollout.weights == "old" or super().keeps_old

    @property
    def scores_steps(self) -> bool:
        """Whether the steps of the rollouts are trained, and not their images on the forward process."""
        return "transitions" in self.objective.required_fields

    @property
    def examples(self) -> int:
        """Rows of an iteration: every draw of every image that is trained."""
        return self.rollout.prompts * self.rollout.trained_images * self.rollout.timesteps

    @model_validator(mode="after")
    def _can_be_paired(self) -> Self:
        pairs, images = self.advantage.pairs, self.rollout.images
        if pairs is None:
            return self
        if all(reward.kind != "pairwise" for reward in self.rewards):
            raise ValueError("advantage.pairs is of pairwise rewards, and there are none; leave it out")
        if pairs >= images:
            raise ValueError(f"advantage.pairs {pairs}: an image has {images - 1} others; leave it out for all pairs")
        if pairs * images % 2:
            raise ValueError(
                f"advantage.pairs {pairs} x rollout.images {images} is odd, and a pair has two images; make one even"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        rollout, train = self.rollout, self.train
        trained = f"images {rollout.images}" if rollout.best_of is None else f"best_of {rollout.best_of}"
        if self.examples != train.effective_batch * rollout.updates:
            raise ValueError(
                f"rollout.prompts {rollout.prompts} x {trained} x timesteps {rollout.timesteps} are "
                f"{self.examples} examples an iteration, and train.effective_batch {train.effective_batch} x "
                f"rollout.updates {rollout.updates} = {train.effective_batch * rollout.updates}; make them equal"
            )
        if train.steps % rollout.updates:
            raise ValueError(f"train.steps {train.steps} is not a multiple of rollout.updates {rollout.updates}")
        return self


Config: TypeAlias = RunConfig
"""The config of any kind of training."""
LOOPS: dict[str, type[RunConfig]] = {"offline": OfflineConfig, "online": OnlineConfig}
"""`loop` of a config -> its sections."""
