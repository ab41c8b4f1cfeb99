"""The sections of a config, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import ConfigDict, Field, SerializeAsAny, field_validator, model_validator
from typing_extensions import Self

from t2ialign.backbones.base import BackboneConfig
from t2ialign.config.component import Section, Slot, input_error_as_value_error
from t2ialign.config.generation import GenerationConfig
from t2ialign.config.loras import parse_loras
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
    init: Path | None = None
    """A saved LoRA to start from; it becomes the reference too."""


class Optim(Section):
    """AdamW and its schedule, counted in optimizer steps."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit needs the extra `bnb` and a GPU."""
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
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter more time."""
    attention: Literal["default", "math", "xformers"] = "default"
    """Attention backend: torch's own, plain matrix products (fastest for small models on a CPU), or xformers."""
    compile: bool = False
    """Compile the denoiser with torch.compile."""
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
    """What is looked at while training: images of fixed prompts and seeds, the base on the left, and held-out pairs."""

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

    @property
    def generation(self) -> GenerationConfig:
        """How the images are made."""
        return GenerationConfig(guidance_scale=self.guidance_scale, inference_steps=self.inference_steps)

    @property
    def compares(self) -> bool:
        """Whether anything is measured."""
        return self.prompts is not None or self.pairs is not None


class Rollout(Section):
    """The images that the policy makes of itself in an iteration, and what is trained on them."""

    prompts: int = Field(16, ge=1)
    """Prompts of an iteration, over all processes; each prompt of the data once before any comes again."""
    images: int = Field(8, ge=2)
    """Images of each prompt, its group, which are compared with each other."""
    timesteps: int = Field(4, ge=1)
    """Draws of timestep and noise that each image is trained on; of objective grpo steps of its trajectory, drawn
    without repetition."""
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


class AdvantageConfig(Section):
    """How the rewards of a group become advantages."""

    of: Literal["score", "win_rate"] = "score"
    """What of pointwise and groupwise rewards: the score, or the share of the group's others that it beats (ties
    count half). Pairwise rewards always give win rates."""
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

    data: Annotated[SerializeAsAny[DataConfig], Slot("data")]
    """The examples; of online training the prompts."""
    noiser: Annotated[SerializeAsAny[Noiser], Slot("noiser")]
    """How a noisy latent is reached."""
    objective: Annotated[SerializeAsAny[Objective], Slot("objective")]
    """The loss."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True)

    @property
    def batch_dependence(self) -> tuple[str, ...]:
        """The keys by which micro-batch and number of processes have a part in what is learnt; none for most runs."""
        dropout = ("lora.dropout",) if self.lora is not None and self.lora.dropout > 0 else ()
        return (*dropout, *((f"objective '{self.objective.name}'",) if self.objective.batch_dependent else ()))

    @property
    def keeps_old(self) -> bool:
        """Whether the weights that make rollouts are kept apart from those that are trained."""
        return "old" in self.objective.required_weights

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
        """Rows of an iteration: every draw of every image."""
        return self.rollout.prompts * self.rollout.images * self.rollout.timesteps

    @model_validator(mode="after")
    def _divides(self) -> Self:
        rollout, train = self.rollout, self.train
        if self.examples != train.effective_batch * rollout.updates:
            raise ValueError(
                f"rollout.prompts {rollout.prompts} x images {rollout.images} x timesteps {rollout.timesteps} are "
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
