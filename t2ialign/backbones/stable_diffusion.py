"""SD1.5 and SDXL: prompts, images, micro-conditioning and the UNet's call, as their diffusers pipelines make them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor, nn

from t2ialign.backbones.base import BackboneConfig
from t2ialign.backbones.loading import check_configs, latent_side, load_pipeline, load_vae, stated_by_file
from t2ialign.backbones.scheduler import read_schedule, set_prediction
from t2ialign.errors import EnvironmentProblem
from t2ialign.schedules import PredictionType
from t2ialign.storage.digest import tensor_digest
from t2ialign.types import Conditioning, Posterior

logger = logging.getLogger(__name__)


class _StableDiffusion(ABC):
    """What both families share: VAE, schedule, truncation, fingerprint.

    Args:
        pipeline: the loaded diffusers pipeline; its modules are frozen here and moved to the device.
        null: what the unconditional branch sees.
    """

    name: str

    def __init__(self, pipeline: DiffusionPipeline, device: torch.device, null: Literal["empty", "zeros"]):
        parts = pipeline.components
        self.denoiser: nn.Module = parts["unet"]
        self.schedule, self.sampling = read_schedule(parts["scheduler"], pipeline.name_or_path)
        self.latent_channels: int = parts["vae"].config.latent_channels
        self.vae_factor: int = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        self.resolution = latent_side(self.denoiser) * self.vae_factor
        self._cut: set[str] = set()
        self._scaling: float = parts["vae"].config.scaling_factor
        self._device = device
        self._null_kind = null
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
        """[B, L] int64, padded and cut to the text encoder's length"""
        length = tokenizer.model_max_length
        rows = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return rows.input_ids.to(self._device)

    @property
    def truncated_prompts(self) -> int:
        """How many different prompts were cut short so far."""
        return len(self._cut)

    def truncated(self, prompts: list[str]) -> list[str]:
        """Those of the prompts that exceed the text encoder; they are counted, and the first find is warned of."""
        tokenizer = self.pipeline().components["tokenizer"]
        rows = tokenizer(prompts, truncation=False, verbose=False).input_ids
        cut = [prompt for prompt, row in zip(prompts, rows, strict=True) if len(row) > tokenizer.model_max_length]
        if cut and not self._cut:
            logger.warning(
                "%d of %d prompts exceed the text encoder's %d tokens and are cut, the first: %r; "
                "later ones are counted, not warned of",
                *(len(cut), len(prompts), tokenizer.model_max_length, cut[0][:80]),
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
        return tensor_digest(tensors.items(), self.name, self._scaling, self._null_kind, words)

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes latents or text embeddings; found once."""
        return self._fingerprint


class _StableDiffusion15(_StableDiffusion):
    """One text encoder, no micro-conditioning."""

    name = "sd15"

    def _encode(self, prompts: list[str]) -> Conditioning:
        parts = self.pipeline().components
        # the last hidden state, after the final layer norm
        return Conditioning(parts["text_encoder"](self._tokens(parts["tokenizer"], prompts))[0])

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor | None:
        return None

    def predict(
        self, denoiser: nn.Module, x_t: Tensor, timesteps: Tensor, cond: Conditioning, geometry: Tensor | None
    ) -> Tensor:
        """The UNet's output. [B, C, H, W]"""
        return denoiser(x_t, timesteps, encoder_hidden_states=cond.tokens, return_dict=False)[0]


class _StableDiffusionXL(_StableDiffusion):
    """Two text encoders, a pooled embedding, and sizes as micro-conditioning (Podell et al. 2023, arXiv:2307.01952)."""

    name = "sdxl"

    def _encode(self, prompts: list[str]) -> Conditioning:
        parts = self.pipeline().components
        first = parts["text_encoder"](self._tokens(parts["tokenizer"], prompts), output_hidden_states=True)
        second = parts["text_encoder_2"](self._tokens(parts["tokenizer_2"], prompts), output_hidden_states=True)
        # penultimate states of both; the second's first output is its projected pooled embedding
        return Conditioning(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second[0])

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


class _StableDiffusionConfig(BackboneConfig):
    """Keys of both families."""

    single_file_config: str | None = None
    """Folder or hub id with the configs and tokenizers of a single file; default: the hub's own of the family."""
    prediction_type: PredictionType | None = None
    """What the denoiser predicts; default: what the model's files say."""
    zero_terminal_snr: bool | None = None
    """Whether the last timestep is pure noise (arXiv:2305.08891); default: what the model's files say."""

    def _load(self, pipeline: type[DiffusionPipeline], dtype: torch.dtype, options: dict[str, Any]) -> Any:
        stated = stated_by_file(self.pretrained, self.prediction_type)
        if self.vae is not None:
            options = {**options, "vae": self._load_vae(self.vae, dtype)}
        loaded = load_pipeline(
            self.pretrained,
            pipeline,
            family=self.family,
            dtype=dtype,
            revision=self.revision,
            variant=self.variant,
            single_file_config=self.single_file_config,
            options=options,
        )
        check_configs(loaded, self.pretrained)
        set_prediction(loaded, self.pretrained, stated, self.zero_terminal_snr)
        return loaded

    def _load_vae(self, name: str, dtype: torch.dtype) -> AutoencoderKL:
        config = self.single_file_config
        if config is None and (Path(self.pretrained).expanduser() / "vae" / "config.json").is_file():
            config = str(Path(self.pretrained).expanduser())
        return load_vae(name, family=self.family, dtype=dtype, variant=self.variant, config=config)


class StableDiffusion15(_StableDiffusionConfig):
    """Stable Diffusion 1.5 and its fine-tunes."""

    name: str = "sd15"
    family: ClassVar[str] = "sd15"

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> _StableDiffusion15:
        """Loads the weights, frozen, in evaluation mode.

        Raises:
            InputError: missing, torn, foreign or wrong-family weights.
            EnvironmentProblem: the hub is needed and cannot be reached.
        """
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return _StableDiffusion15(
            self._load(StableDiffusionPipeline, dtype, options), torch.device(device), self.null or "empty"
        )


class StableDiffusionXL(_StableDiffusionConfig):
    """Stable Diffusion XL base and its fine-tunes."""

    name: str = "sdxl"
    family: ClassVar[str] = "sdxl"

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> _StableDiffusionXL:
        """Loads the weights, frozen, in evaluation mode; the stock VAE, which overflows in fp16, stays in fp32.

        Raises:
            InputError: missing, torn, foreign or wrong-family weights.
            EnvironmentProblem: the hub is needed and cannot be reached.
        """
        pipeline = self._load(StableDiffusionXLPipeline, dtype, {"add_watermarker": False})
        if dtype == torch.float16 and pipeline.vae.config.force_upcast:
            pipeline.vae.float()
        null = self.null or ("zeros" if pipeline.config.force_zeros_for_empty_prompt else "empty")
        return _StableDiffusionXL(pipeline, torch.device(device), null)
