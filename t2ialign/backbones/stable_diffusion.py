"""SD1.5 and SDXL as sections of a config: which weights are loaded, and what replaces parts of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from t2ialign.backbones.base import BackboneConfig
from t2ialign.backbones.facts import ModelFacts
from t2ialign.backbones.hub import locate
from t2ialign.backbones.loading import (
    check_configs,
    load_pipeline,
    load_unet,
    load_vae,
    stated_by_file,
    unet_config,
)
from t2ialign.backbones.lora import merge_loras
from t2ialign.backbones.outline import outline_pipeline
from t2ialign.backbones.runs import TrainedModel, read_run, stated_by_run
from t2ialign.backbones.scheduler import set_prediction
from t2ialign.backbones.single_files import DEFAULT_CONFIGS, Stated
from t2ialign.backbones.stable_diffusion_model import Model15, ModelXL
from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.schedules import PredictionType


class _StableDiffusionConfig(BackboneConfig):
    """Keys of both families."""

    single_file_config: str | None = None
    """Folder or hub id with the configs and tokenizers of a single file; default: the hub's own of the family."""
    prediction_type: PredictionType | None = None
    """What the denoiser predicts; default: what the model's files say."""
    zero_terminal_snr: bool | None = None
    """Whether the last timestep is pure noise (arXiv:2305.08891); default: what the model's files say."""

    def _load(self, pipeline: type[DiffusionPipeline], dtype: torch.dtype, options: dict[str, Any]) -> Any:
        run = read_run(self.pretrained)
        if run is not None:
            return self._load_run(run, pipeline, dtype, options)
        stated = self._stated()
        if self.vae is not None:
            options = {**options, "vae": self._load_vae(self.vae, dtype)}
        if self.unet is not None:
            options = {**options, "unet": self._load_unet(self.unet, pipeline, dtype)}
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

    def _load_run(
        self, run: TrainedModel, pipeline: type[DiffusionPipeline], dtype: torch.dtype, options: dict[str, Any]
    ) -> Any:
        """The base of a run, with its LoRA merged into the weights, or with its UNet."""
        if run.backbone["name"] != self.name:
            raise InputError(
                f"{self.pretrained}: a run of backbone '{run.backbone['name']}', not of '{self.name}'; set "
                f"backbone.name: {run.backbone['name']}"
            )
        given = {key: value for key, value in self if value is not None and key != "pretrained"}
        trained = {} if run.is_lora else {"unet": str(run.result)}
        base = validated("backbone", {**run.backbone, **trained, **given})
        loaded = base._load(pipeline, dtype, options)
        if run.is_lora:
            merge_loras(loaded, {run.result: 1.0}, family=self.family)
        return loaded

    def _segments(self) -> int:
        """What the config says, or the run that is the model."""
        return self.prompt_segments or stated_by_run(self.pretrained, "prompt_segments") or 1

    def _null(self, default: Literal["empty", "zeros"]) -> Literal["empty", "zeros"]:
        """What the config says, or the run that is the model, or the model's own."""
        return self.null or stated_by_run(self.pretrained, "null") or default

    def _stated(self) -> Stated:
        """What the marks of a single file say of the prediction; those of the UNet's file come first."""
        base = stated_by_file(self.pretrained, self.prediction_type)
        if self.unet is None:
            return base
        own = stated_by_file(self.unet, self.prediction_type)
        return Stated(own.prediction_type or base.prediction_type, own.zero_terminal_snr or base.zero_terminal_snr)

    def _load_unet(self, name: str, pipeline: type[DiffusionPipeline], dtype: torch.dtype) -> UNet2DConditionModel:
        def base() -> dict[str, Any]:
            path = locate(self.pretrained, pipeline, self.revision, self.variant)
            return unet_config(path, self.single_file_config or DEFAULT_CONFIGS[self.family])

        return load_unet(name, base=base, dtype=dtype, variant=self.variant)

    def _load_vae(self, name: str, dtype: torch.dtype) -> AutoencoderKL:
        config = self.single_file_config
        if config is None and (Path(self.pretrained).expanduser() / "vae" / "config.json").is_file():
            config = str(Path(self.pretrained).expanduser())
        return load_vae(name, family=self.family, dtype=dtype, variant=self.variant, config=config)


class StableDiffusion15(_StableDiffusionConfig):
    """Stable Diffusion 1.5 and its fine-tunes."""

    name: str = "sd15"
    family: ClassVar[str] = "sd15"

    def outline(self, facts: ModelFacts, dtype: torch.dtype) -> Model15:
        """The backbone without numbers, on the meta device."""
        return Model15(outline_pipeline(facts, self.family, dtype), torch.device("meta"), "zeros")

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Model15:
        """Loads the weights, frozen, in evaluation mode.

        Raises:
            InputError: missing, torn, foreign or wrong-family weights.
            EnvironmentProblem: the hub is needed and cannot be reached.
        """
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return Model15(
            self._load(StableDiffusionPipeline, dtype, options),
            torch.device(device),
            self._null("empty"),
            self._segments(),
        )


class StableDiffusionXL(_StableDiffusionConfig):
    """Stable Diffusion XL base and its fine-tunes."""

    name: str = "sdxl"
    family: ClassVar[str] = "sdxl"

    def outline(self, facts: ModelFacts, dtype: torch.dtype) -> ModelXL:
        """The backbone without numbers, on the meta device."""
        return ModelXL(outline_pipeline(facts, self.family, dtype), torch.device("meta"), "zeros")

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> ModelXL:
        """Loads the weights, frozen, in evaluation mode; the stock VAE, which overflows in fp16, stays in fp32.

        Raises:
            InputError: missing, torn, foreign or wrong-family weights.
            EnvironmentProblem: the hub is needed and cannot be reached.
        """
        pipeline = self._load(StableDiffusionXLPipeline, dtype, {"add_watermarker": False})
        if dtype == torch.float16 and pipeline.vae.config.force_upcast:
            pipeline.vae.float()
        null = self._null("zeros" if pipeline.config.force_zeros_for_empty_prompt else "empty")
        return ModelXL(pipeline, torch.device(device), null, self._segments())
