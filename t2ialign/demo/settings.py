"""What the demo does, and where it puts what."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from t2ialign.config.generation import GenerationConfig
from t2ialign.generation.shards import ImageJob, ImageModel
from t2ialign.generation.worker import WorkerProcess
from t2ialign.report.run_folder import TRAINING

SETTINGS_FILE = "demo.json"
TIMINGS = "timings.json"
SHEET = "sheet.png"
WITH_NEGATIVE = "aligned+negative"
"""The aligned model with a negative model in the unconditional branch of guidance."""
ONLINE = "online"
"""The model that learnt from rewards of its own images."""
FOLDERS = {"sft": "training_sft", "aligned": TRAINING, ONLINE: "training_online"}
"""Folder of the training run of each trained model."""


@dataclass(frozen=True)
class Settings:
    """What the demo does; the defaults fit in minutes on two cores."""

    prompts: int = 1000
    """Held-out prompts that are measured, one image each from every model."""
    seed: int = 0
    """Of prompts, images and training."""
    pair_prompts: int = 800
    """Prompts of the training split that pairs are made of."""
    images_per_prompt: int = 8
    """Candidates of each of them."""
    reward: str = "shapes.mixed"
    """What labels the candidates."""
    keep: Literal["best_worst", "all"] = "best_worst"
    """Which candidates of a prompt become pairs, as in `t2ialign data build`."""
    margin: float = 0.0
    """Scores that differ by no more are a tie."""
    guidance_scale: float = 1.5
    """Of candidates, and of the images that are compared at equal guidance."""
    inference_steps: int = 10
    """DDIM steps of all images."""
    scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 7.5)
    """Guidance scales among which each model's own is chosen."""
    validation_prompts: int = 100
    """Prompts of the validation split, for each model and scale, that it is chosen on."""
    own_prompts: int = 500
    """Of the held-out prompts, how many are drawn at each model's own guidance: a minute and a half less than all."""
    checked: int = 300
    """Images of base, and as many of the aligned model, that the independent verifier reads."""
    batch: int = 50
    """Images made at once by a process."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted config key -> value, instead of what configs/shapes_dpo.yaml says."""
    sft_overrides: dict[str, Any] = field(default_factory=dict)
    """The same for configs/shapes_sft.yaml."""
    negative: dict[str, float] = field(default_factory=dict)
    """Negative models and their beta; with them `WITH_NEGATIVE` is compared too, at its own guidance."""
    negative_alpha: float = 1.0
    """Share of the aligned model's LoRA in their branch."""

    online: bool = False
    """Also train a model from rewards of its own images, and compare it as the others are."""
    online_prompts: int = 3000
    """Prompts of the training split that it makes images of."""
    online_overrides: dict[str, Any] = field(default_factory=dict)
    """The same for configs/shapes_nft.yaml."""

    def as_dict(self) -> dict[str, Any]:
        """What demo.json holds: of what is optional only what is asked for."""
        left_out = (() if self.negative else NEGATIVE_KEYS) + (() if self.online else ONLINE_KEYS)
        return {key: value for key, value in asdict(self).items() if key not in left_out}


NEGATIVE_KEYS = ("negative", "negative_alpha")
ONLINE_KEYS = ("online", "online_prompts", "online_overrides")


class Recipes(NamedTuple):
    """The training configs."""

    aligned: Path
    sft: Path
    online: Path


@dataclass(frozen=True)
class Demo:
    """A demo at work: its folder, what it does, and the processes that do it."""

    run_dir: Path
    settings: Settings
    model: Path
    """A diffusers folder that knows Shapes."""
    recipes: Recipes
    worker: WorkerProcess | None
    """A second process; None where one works alone."""
    threads: int
    """Of each process."""


def pair_settings(settings: Settings) -> dict[str, Any]:
    """What decides the pairs, but for the seed."""
    keys = ("pair_prompts", "images_per_prompt", "reward", "keep", "margin", "guidance_scale", "inference_steps")
    return {key: value for key, value in asdict(settings).items() if key in keys}


def image_job(
    settings: Settings,
    model: ImageModel,
    prompts: list[str],
    out: Path,
    guidance_scale: float,
    images_per_prompt: int = 1,
) -> ImageJob:
    """A folder of images to make. One seed serves all models: image i starts from the same noise in each."""
    generation = GenerationConfig(
        guidance_scale=guidance_scale,
        inference_steps=settings.inference_steps,
        batch=settings.batch,
        images_per_prompt=images_per_prompt,
        seed=settings.seed,
    )
    return ImageJob(model, prompts, out, generation)
