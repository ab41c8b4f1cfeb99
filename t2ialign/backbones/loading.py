"""Opens pretrained Stable Diffusion weights: a diffusers folder, one .safetensors file, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from t2ialign.backbones.folders import load_folder, load_part
from t2ialign.backbones.hub import HUB_ID, PICKLES, hub_problem, locate, near_miss
from t2ialign.backbones.single_files import (
    DEFAULT_CONFIGS,
    Stated,
    load_single_file,
    load_vae_file,
    read_contents,
    stated_prediction,
)
from t2ialign.errors import InputError
from t2ialign.schedules import PredictionType


def load_pipeline(
    name: str,
    pipeline: type[DiffusionPipeline],
    *,
    family: str,
    dtype: torch.dtype,
    revision: str | None,
    variant: str | None,
    single_file_config: str | None,
    options: dict[str, Any],
) -> DiffusionPipeline:
    """The diffusers pipeline of a path or hub id.

    Args:
        family: "sd15" or "sdxl"; weights of the other family are refused.
        single_file_config: folder or hub id with the configs and tokenizers that a single file lacks.
        options: components (for example another VAE) and settings that are given to the pipeline class as they are.

    Raises:
        InputError: missing, damaged, incomplete or foreign weights.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    path = locate(name, pipeline, revision, variant)
    if path.is_file():
        return load_single_file(path, pipeline, family=family, dtype=dtype, config=single_file_config, options=options)
    return load_folder(path, name, pipeline, family=family, dtype=dtype, variant=variant, options=options)


def stated_by_file(name: str, prediction_type: PredictionType | None) -> Stated:
    """What a model's prediction is, by the config's `prediction_type` if it is given, or else by a single file's marks.

    Folders and hub ids state it in their scheduler instead.

    Raises:
        InputError: the marks contradict each other, or name a kind that is not known.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return Stated(prediction_type, False)
    return stated_prediction(path, read_contents(path), prediction_type)


def load_vae(
    name: str, *, family: str, dtype: torch.dtype, variant: str | None = None, config: str | None = None
) -> AutoencoderKL:
    """The VAE of a folder (of a VAE, or of a whole pipeline), a single file or a hub id.

    Args:
        family: of the model that it is for.
        config: folder or hub id with the config of a single file's VAE; default: the hub's of the family.

    Raises:
        InputError: nothing is there, or it cannot be loaded.
        EnvironmentProblem: the hub cannot be reached and nothing is cached.
    """
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise InputError(f"{name}: {path.suffix} files are pickles, which can run code when opened; give safetensors")
    if path.is_file():
        return load_vae_file(path, dtype, config or DEFAULT_CONFIGS[family])
    if path.is_dir():
        part = "vae" if (path / "vae" / "config.json").is_file() else ""
        return load_part(AutoencoderKL, path, part, name, dtype, variant)
    if path.suffix == ".safetensors" or HUB_ID.fullmatch(name) is None:
        raise InputError(f"{name}: no such file or folder{near_miss(path)}")
    try:
        return AutoencoderKL.from_pretrained(name, dtype=dtype, variant=variant, use_safetensors=True)
    except Exception as error:  # the network's errors have no common base below diffusers
        raise hub_problem(name, None, path, error) from error


def latent_side(unet: Any) -> int:
    """The side of the latents that a UNet was made for."""
    size = unet.config.sample_size
    return size if isinstance(size, int) else size[0]


def check_configs(pipeline: Any, name: str) -> None:
    """Checks that the parts' configs state what is read of them, and that the parts belong together.

    Raises:
        InputError: they do not.
    """
    unet, vae, text = pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config
    second = pipeline.components.get("text_encoder_2")
    side = unet.sample_size[0] if isinstance(unet.sample_size, list | tuple) else unet.sample_size
    for part, key, value in (
        ("unet", "sample_size", side),
        ("unet", "cross_attention_dim", unet.cross_attention_dim),
        ("vae", "scaling_factor", vae.scaling_factor),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"{name}: {part}/config.json: {key} is {value!r}, no positive number; get the model again")
    if unet.in_channels != vae.latent_channels:
        raise InputError(
            f"{name}: its UNet takes {unet.in_channels} channels, its VAE gives {vae.latent_channels}; "
            "in-painting models cannot be aligned, give a text-to-image model"
        )
    width = text.hidden_size + (0 if second is None else second.config.hidden_size)
    if unet.cross_attention_dim != width:
        raise InputError(
            f"{name}: its UNet has cross-attention width {unet.cross_attention_dim}, its text encoders give {width}; "
            "the parts do not belong together"
        )
