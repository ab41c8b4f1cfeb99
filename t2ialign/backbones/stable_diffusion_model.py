"""SD1.5 and SDXL: prompts, images, micro-conditioning and the UNet's call, as their diffusers pipelines make them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor, nn

from t2ialign.backbones.loading import latent_side
from t2ialign.backbones.lora import merge_text, text_encoders
from t2ialign.backbones.lora_layout import Parts
from t2ialign.backbones.scheduler import read_schedule
from t2ialign.backbones.segments import segment_tokens
from t2ialign.errors import EnvironmentProblem
from t2ialign.storage.digest import tensor_digest
from t2ialign.types import Conditioning, Posterior

logger = logging.getLogger(__name__)


class StableDiffusionModel(ABC):
    """What both families share: VAE, schedule, truncation, fingerprint.

    Args:
        pipeline: the loaded diffusers pipeline; its modules are frozen here and moved to the device.
        null: what the unconditional branch sees.
        segments: how many segments of the text encoder's length a prompt has.
    """

    name: str

    def __init__(
        self, pipeline: DiffusionPipeline, device: torch.device, null: Literal["empty", "zeros"], segments: int = 1
    ):
        parts = pipeline.components
        self.denoiser: nn.Module = parts["unet"]
        self.schedule, self.sampling = read_schedule(parts["scheduler"], pipeline.name_or_path)
        self.latent_channels: int = parts["vae"].config.latent_channels
        self.vae_factor: int = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        self.resolution = latent_side(self.denoiser) * self.vae_factor
        self.text_loras: list[tuple[Parts, float]] = []
        self._cut: set[str] = set()
        self._scaling: float = parts["vae"].config.scaling_factor
        self._device = device
        self._null_kind = null
        self._segments = segments
        self._pipeline: DiffusionPipeline | None = pipeline
        for part in parts.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval().to(device)

    def pipeline(self) -> DiffusionPipeline:
        if self._pipeline is None:
            raise RuntimeError("VAE and text encoders were released; build the backbone again to use them")
        return self._pipeline

    def release_encoders(self) -> None:
        _ = self._null, self._fingerprint  # both outlive the encoders
        self._pipeline = None

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        return text_encoders(self.pipeline())

    def adapt_text(self, loras: Sequence[tuple[Parts, float]]) -> None:
        merge_text(self.text_encoders, loras)
        self.text_loras += loras
        for found in ("_null", "_fingerprint"):  # of the text encoders as they were
            vars(self).pop(found, None)

    @property
    def _vae(self) -> AutoencoderKL:
        return self.pipeline().components["vae"]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Posterior:
        """Scaled latent posteriors of images [B, 3, H, W] in [-1, 1]; float32.

        Raises:
            EnvironmentProblem: the VAE overflowed in half precision.
        """
        vae = self._vae
        posterior = vae.encode(pixels.to(self._device, vae.dtype)).latent_dist  # type: ignore[union-attr]
        mean, std = posterior.mean.float() * self._scaling, posterior.std.float() * self._scaling
        if not mean.isfinite().all():
            raise EnvironmentProblem(
                f"the VAE gives NaN or infinite latents in {str(vae.dtype).removeprefix('torch.')}; for SDXL in fp16 "
                "set backbone.vae: madebyollin/sdxl-vae-fp16-fix, or use train.precision: bf16"
            )
        return Posterior(mean, std)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], float32, of scaled latents [B, C, h, w]; NaN where they overflow."""
        vae = self._vae
        scaled: Any = latents.to(self._device, vae.dtype) / self._scaling
        images = vae.decode(scaled, return_dict=False)[0]
        pixels = images.float() / 2 + 0.5
        return pixels.clamp(0, 1).where(pixels.isfinite(), torch.nan)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """[B, L, D] and, for SDXL, [B, P]; prompts cut short are counted in `truncated_prompts`."""
        self.truncated(prompts)
        return self._encode(prompts)

    @abstractmethod
    def _encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of prompts already looked at."""

    def _tokens(self, tokenizer: Any, prompts: list[str]) -> Tensor:
        """[B * segments, L] int64, padded and cut to the text encoder's length"""
        return segment_tokens(tokenizer, prompts, self._segments).flatten(0, 1).to(self._device)

    def _joined(self, states: Tensor) -> Tensor:
        """The segments of each prompt one after the other. [B, segments * L, D] of [B * segments, L, D]"""
        return states.unflatten(0, (-1, self._segments)).flatten(1, 2)

    @property
    def truncated_prompts(self) -> int:
        """How many different prompts were cut short so far."""
        return len(self._cut)

    def truncated(self, prompts: list[str]) -> list[str]:
        """Those of the prompts that exceed the text encoder; they are counted, and the first find is warned of."""
        tokenizer = self.pipeline().components["tokenizer"]
        rows = tokenizer(prompts, truncation=False, verbose=False).input_ids
        length = self._segments * (tokenizer.model_max_length - 2) + 2
        cut = [prompt for prompt, row in zip(prompts, rows, strict=True) if len(row) > length]
        if cut and not self._cut:
            logger.warning(
                "%d of %d prompts exceed the text encoder's %d tokens and are cut, the first: %r; "
                "later ones are counted, not warned of",
                *(len(cut), len(prompts), length, cut[0][:80]),
            )
        self._cut.update(cut)
        return cut

    @cached_property
    def _null(self) -> Conditioning:
        with torch.no_grad():
            empty = self._encode([""])
        return empty if self._null_kind == "empty" else empty.map(torch.zeros_like)

    def null(self) -> Conditioning:
        """What the unconditional branch sees. [1, L, D] and, for SDXL, [1, P]"""
        return self._null

    @cached_property
    def _fingerprint(self) -> str:
        """A digest of VAE, text encoders, tokenizers, and of what the unconditional branch sees."""
        tensors: dict[str, Tensor] = {}
        words: list[object] = []
        for name, part in self.pipeline().components.items():
            if name.startswith("tokenizer"):
                words += [name, part.model_max_length, part.pad_token_id, sorted(part.get_vocab().items())]
            elif name == "vae" or name.startswith("text_encoder"):
                tensors |= {f"{name}.{key}": tensor for key, tensor in part.state_dict().items()}
        if self._segments > 1:
            words += ["segments", self._segments]
        return tensor_digest(tensors.items(), self.name, self._scaling, self._null_kind, words)

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes latents or text embeddings; found once."""
        return self._fingerprint


class Model15(StableDiffusionModel):
    """One text encoder, no micro-conditioning."""

    name = "sd15"

    def _encode(self, prompts: list[str]) -> Conditioning:
        parts = self.pipeline().components
        # the last hidden state, after the final layer norm
        return Conditioning(self._joined(parts["text_encoder"](self._tokens(parts["tokenizer"], prompts))[0]))

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor | None:
        return None

    def predict(
        self, denoiser: nn.Module, x_t: Tensor, timesteps: Tensor, cond: Conditioning, geometry: Tensor | None
    ) -> Tensor:
        """The UNet's output. [B, C, H, W]"""
        return denoiser(x_t, timesteps, encoder_hidden_states=cond.tokens, return_dict=False)[0]


class ModelXL(StableDiffusionModel):
    """Two text encoders, a pooled embedding, and sizes as micro-conditioning (Podell et al. 2023, arXiv:2307.01952)."""

    name = "sdxl"

    def _encode(self, prompts: list[str]) -> Conditioning:
        parts = self.pipeline().components
        first = parts["text_encoder"](self._tokens(parts["tokenizer"], prompts), output_hidden_states=True)
        second = parts["text_encoder_2"](self._tokens(parts["tokenizer_2"], prompts), output_hidden_states=True)
        # penultimate states of both; the second's first output is its projected pooled embedding, of a first segment
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return Conditioning(self._joined(states), second[0][:: self._segments])

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
        """(original h, w, crop top, left, target h, w). [6] float32"""
        return torch.tensor([*original, *crop, *target], dtype=torch.float32)

    def predict(
        self, denoiser: nn.Module, x_t: Tensor, timesteps: Tensor, cond: Conditioning, geometry: Tensor | None
    ) -> Tensor:
        """The UNet's output. [B, C, H, W]

        Raises:
            ValueError: pooled text or geometry [B, 6] is missing.
        """
        if cond.pooled is None or geometry is None:
            missing = "pooled text embedding" if cond.pooled is None else "geometry"
            raise ValueError(f"SDXL's UNet needs the {missing}; got None")
        added = {"text_embeds": cond.pooled, "time_ids": geometry}
        return denoiser(x_t, timesteps, encoder_hidden_states=cond.tokens, added_cond_kwargs=added, return_dict=False)[
            0
        ]
