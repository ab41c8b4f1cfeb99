"""A Stable Diffusion model without its numbers: modules on the meta device, for whoever asks what they would take."""

from __future__ import annotations

import json
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig

from t2ialign.backbones.facts import ModelFacts
from t2ialign.backbones.folders import PARTS


def outline_pipeline(facts: ModelFacts, family: str, dtype: torch.dtype) -> DiffusionPipeline:
    """The diffusers pipeline that a folder's JSON files describe, of `dtype`, without numbers and tokenizers."""
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(facts.unet),
            "vae": AutoencoderKL.from_config(_config(facts, "vae")),
            **outline_text_encoders(facts, family),
        }
    for part in parts.values():
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    parts["scheduler"] = DDIMScheduler.from_config(_config(facts, "scheduler", "scheduler_config.json"))
    parts["tokenizer"] = None
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, tokenizer_2=None)  # pyright: ignore[reportArgumentType]
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts)


def outline_text_encoders(facts: ModelFacts, family: str) -> dict[str, nn.Module]:
    """The text encoders that a folder's JSON files describe, without numbers, by their names in the pipeline."""
    with torch.device("meta"):
        return {
            part: cast(Any, model)(CLIPTextConfig.from_dict(_config(facts, part)))
            for part, model in PARTS.get(family, {}).items()
            if part.startswith("text_encoder") and (facts.folder / part / "config.json").is_file()
        }


def _config(facts: ModelFacts, part: str, name: str = "config.json") -> dict[str, Any]:
    return json.loads((facts.folder / part / name).read_text(encoding="utf-8"))
