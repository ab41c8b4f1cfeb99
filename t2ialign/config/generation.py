"""How images are made: one section for the command line, pairs, validation and the demo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from t2ialign.config.component import Section

SeedPolicy = Literal["keyed", "official", "per_prompt"]


class GenerationConfig(Section):
    """Everything that decides images besides the model and the prompts, and how many are made at once."""

    guidance_scale: float = Field(default=5.0, ge=1)
    """Classifier-free guidance; 1 makes no unconditional pass."""
    inference_steps: int = Field(default=30, ge=1)
    """DDIM steps."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """Noise of the DDIM steps: 0 is deterministic, 1 as noisy as ancestral sampling."""
    resolution: int | None = Field(default=None, ge=1)
    """Side in px; default: the model's own."""
    batch: int = Field(default=4, ge=1)
    """Images made at once; changes them by rounding only."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Images of each prompt."""
    seed: int = Field(default=0, ge=0)
    """The seed of all images."""
    seed_policy: SeedPolicy = "keyed"
    """How the seed of an image follows from it; see `generation.images.image_seed`."""
