"""How images are made: one section for the command line, pairs, validation and the demo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from t2ialign.config.component import Section

SeedPolicy = Literal["keyed", "official", "per_prompt"]
Scheduler = Literal["ddim", "euler", "dpm++"]


class GenerationConfig(Section):
    """Everything that decides images besides the model and the prompts, and how many are made at once."""

    guidance_scale: float = Field(default=5.0, ge=1)
    """Classifier-free guidance; 1 makes no unconditional pass."""
    negative_prompt: str | None = None
    """What the unconditional branch sees instead of the model's own: the empty prompt, or zeros."""
    scheduler: Scheduler = "ddim"
    """Takes the steps: DDIM, as rollouts do, or diffusers' Euler or DPM-Solver++ (2M)."""
    inference_steps: int = Field(default=30, ge=1)
    """Steps from noise to image."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """Noise of the DDIM steps: 0 is deterministic, 1 as noisy as ancestral sampling."""
    resolution: int | None = Field(default=None, ge=1)
    """Side in px; default: the model's own."""
    width: int | None = Field(default=None, ge=1)
    """Width in px; default: the resolution."""
    height: int | None = Field(default=None, ge=1)
    """Height in px; default: the resolution."""
    batch: int = Field(default=4, ge=1)
    """Images made at once; changes them by rounding only."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Images of each prompt."""
    seed: int = Field(default=0, ge=0)
    """The seed of all images."""
    seed_policy: SeedPolicy = "keyed"
    """How the seed of an image follows from it; see `generation.images.image_seed`."""

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.negative_prompt is not None and self.guidance_scale == 1:
            raise ValueError("negative_prompt has no part in images of guidance_scale 1; give more guidance")
        if self.eta and self.scheduler != "ddim":
            raise ValueError(f"eta {self.eta:g} is noise of DDIM's steps; scheduler {self.scheduler} has none")
        return self
