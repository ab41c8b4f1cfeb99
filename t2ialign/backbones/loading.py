"""Opens pretrained Stable Diffusion weights: a diffusers folder, one .safetensors file, or a hub id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from t2ialign.backbones.folders import load_folder, load_part, unet_folder
from t2ialign.backbones.hub import LOADING_FAILURES, locate, locate_part, one_line
from t2ialign.backbones.single_files import (
    DEFAULT_CONFIGS,
    Stated,
    load_single_file,
    load_vae_file,
    no_configs,
    read_contents,
    stated_prediction,
)
from t2ialign.backbones.unet_files import load_unet_file
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
    path = locate_part(name, "vae", variant)
    if path.is_file():
        return load_vae_file(path, dtype, config or DEFAULT_CONFIGS[family])
    part = "vae" if (path / "vae" / "config.json").is_file() else ""
    return load_part(AutoencoderKL, path, part, name, dtype, variant)


def load_unet(
    name: str, *, base: Callable[[], Mapping[str, Any]], dtype: torch.dtype, variant: str | None = None
) -> UNet2DConditionModel:
    """The UNet of a folder (its own, a whole model's, or a full fine-tuning's run), a single file or a hub id.

    Args:
        base: gives the configuration of the base's UNet, which a single file has.

    Raises:
        InputError: nothing is there, or it cannot be loaded.
        EnvironmentProblem: the hub cannot be reached and nothing is cached.
    """
    path = locate_part(name, "unet", variant)
    if path.is_file():
        return load_unet_file(path, base(), dtype)
    folder = unet_folder(path)
    if folder is None:
        raise InputError(
            f"{name}: holds no UNet (no config.json, here or in unet/); give a folder, file or hub id of one, and a "
            "LoRA as --lora or lora.init"
        )
    folder = folder.resolve()
    return load_part(UNet2DConditionModel, folder.parent, folder.name, name, dtype, variant)


def unet_config(base: Path, default: str) -> dict[str, Any]:
    """The configuration of a model's UNet.

    Args:
        base: the folder or single file of the model.
        default: folder or hub id with the configs of a single file.

    Raises:
        InputError: it is damaged.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    place = base if base.is_dir() else default
    try:
        return cast(Any, UNet2DConditionModel).load_config(str(place), subfolder="unet")
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise no_configs(base, error) from error
    except LOADING_FAILURES as error:
        raise InputError(f"{place}: the configuration of its UNet cannot be read: {one_line(error)}") from error


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
