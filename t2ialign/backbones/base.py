"""What a backbone is: the parts of a pretrained text-to-image model, behind a few members."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from t2ialign.config.component import Component

if TYPE_CHECKING:  # a config is validated without torch
    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from t2ialign.backbones.facts import ModelFacts
    from t2ialign.backbones.lora_layout import Parts
    from t2ialign.schedules import Schedule, TimestepSpacing
    from t2ialign.types import Conditioning, Posterior


class Backbone(Protocol):
    """A pretrained family. Adapters, EMA, devices of training and checkpoints live elsewhere."""

    name: str
    denoiser: nn.Module
    """The network that is aligned."""

    @property
    def schedule(self) -> Schedule:
        """alpha_t and sigma_t, and what the network predicts."""
        ...

    latent_channels: int
    """C of the latents."""
    vae_factor: int
    """Pixels per latent cell along one side."""
    resolution: int
    """The side, in px, that the model was made for."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes latents or text embeddings: the cache's key."""
        ...

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """The networks that read prompts, by their names in the pipeline: text_encoder, text_encoder_2."""
        ...

    text_loras: list[tuple[Parts, float]]
    """LoRAs that `adapt_text` added, and their scales."""

    def adapt_text(self, loras: Sequence[tuple[Parts, float]]) -> None:
        """Adds LoRAs, times their scales, to the text encoders' weights, before a prompt is encoded."""
        ...

    sampling: TimestepSpacing
    """How the sampler's timesteps are spaced."""

    def encode_images(self, pixels: Tensor) -> Posterior:
        """Scaled latent posteriors of images [B, 3, H, W] in [-1, 1]."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of scaled latents [B, C, h, w]; NaN where they overflow."""
        ...

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """[B, L, D] and, where the family has it, [B, P]. Prompts cut short are counted and warned of."""
        ...

    def truncated(self, prompts: list[str]) -> list[str]:
        """Those of the prompts that exceed the text encoder and would be cut."""
        ...

    def null(self) -> Conditioning:
        """What the unconditional branch sees, the same in training, generation and rollouts. [1, L, D], [1, P]"""
        ...

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor | None:
        """Micro-conditioning of one image, sizes as (height, width), crop as (top, left); None without it. [6]"""
        ...

    def predict(
        self, denoiser: nn.Module, x_t: Tensor, timesteps: Tensor, cond: Conditioning, geometry: Tensor | None
    ) -> Tensor:
        """The denoiser's output for [B, C, H, W], [B], [B, L, D] and [B, 6]. [B, C, H, W]"""
        ...

    def pipeline(self) -> DiffusionPipeline:
        """The diffusers pipeline of the same modules, for export and parity tests."""
        ...

    def release_encoders(self) -> None:
        """Frees VAE and text encoders, once everything is cached."""
        ...


class BackboneConfig(Component):
    """Which weights a backbone loads, and how."""

    slot: ClassVar[str] = "backbone"
    family: ClassVar[str]
    """Name of the architecture, as in a LoRA's metadata."""
    pretrained: str
    """sd15 or sdxl, a diffusers folder, a single .safetensors file, a hub id, or a run folder."""
    revision: str | None = None
    """Commit or tag of a hub id; sd15 and sdxl stand for one commit each, main is the newest."""
    variant: str | None = None
    """File variant of a folder or hub id, for example fp16; the only one there is needs no name."""
    unet: str | None = None
    """Another UNet, as DPO, SmPO and InPO were released: a folder, a run's, a .safetensors file, or a hub id
    (id@revision)."""
    vae: str | None = None
    """Another VAE: a diffusers folder, a single file or a hub id (id@revision)."""
    null: Literal["empty", "zeros"] | None = None
    """The unconditional branch: the encoded empty prompt, or zeros; default: what the run in `pretrained` has, or the
    family's own."""
    prompt_segments: int | None = Field(None, ge=1, le=8)
    """Segments of 75 tokens that a prompt has, each encoded by itself; what exceeds them is cut; default: 1, or what
    the run in `pretrained` has. More take longer in each pass, for short prompts too."""

    def outline(self, facts: ModelFacts, dtype: torch.dtype) -> Backbone | None:
        """The backbone without numbers, on the meta device; default: None, as a family's shapes may not be known."""
        return None

    @abstractmethod
    def build(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        """Loads the weights, frozen, in evaluation mode."""
