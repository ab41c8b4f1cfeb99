"""A pretrained model with adapters, opened for whoever wants images or accuracy and no training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from diffusers.models.attention_processor import AttnProcessor

from t2ialign.backbones.lora import load_lora
from t2ialign.config.component import resolve
from t2ialign.errors import InputError
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process


def family_of(model: str) -> str:
    """The backbone name of a model folder, from its own index; 'sd15' or 'sdxl'.

    Raises:
        InputError: the folder does not say, so the caller must.
    """
    index = Path(model) / "model_index.json"
    if index.is_file():
        pipeline = json.loads(index.read_text()).get("_class_name", "")
        return "sdxl" if "XL" in pipeline else "sd15"
    raise InputError(f"{model}: no model_index.json says which architecture this is; add --family sd15 or sdxl")


def open_policy(
    model: str, *, family: str | None = None, loras: Mapping[str, float] | None = None, precision: str = "fp32"
) -> tuple[Policy, dict[str, float]]:
    """A model for making images, and the mixture of its adapters.

    Args:
        model: diffusers folder, single file or hub id.
        family: backbone name; read from a folder if not said.
        loras: LoRA file, folder or run folder -> scale.
        precision: of the weights.

    Raises:
        InputError: the model or a LoRA does not exist or does not fit.
    """
    configure_runtime()
    section = resolve("backbone", family or family_of(model)).model_validate(
        {"name": family or family_of(model), "pretrained": model}
    )
    backbone = section.build(device_of_process(), DTYPES[precision])  # type: ignore[attr-defined]
    mixture = {}
    for place, (path, scale) in enumerate((loras or {}).items()):
        folder = Path(path)
        run_lora = folder / "lora"
        load_lora(backbone.denoiser, run_lora if run_lora.is_dir() else folder, f"lora{place}", family=section.family)  # type: ignore[attr-defined]
        mixture[f"lora{place}"] = scale
    if next(backbone.denoiser.parameters()).device.type == "cpu":
        backbone.denoiser.set_attn_processor(AttnProcessor())
    autocast = None if precision == "fp32" else DTYPES[precision]
    return Policy(backbone, autocast=autocast), mixture
