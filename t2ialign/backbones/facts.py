"""What a model's JSON files say of it, read without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from t2ialign.backbones.adapters import target_layers
from t2ialign.backbones.folders import unet_folder
from t2ialign.backbones.hub import cached_folder
from t2ialign.backbones.lora_checks import lora_elements
from t2ialign.backbones.runs import read_run
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError


class ModelFacts(NamedTuple):
    """A diffusers folder's configuration."""

    num_train_timesteps: int
    prediction_type: str
    """What the denoiser predicts, as the scheduler states it."""
    latent_channels: int
    vae_factor: int
    """Pixels per latent cell along one side."""
    resolution: int
    """Side in px that the model was made for."""
    text_width: int
    """Width of the token states that the denoiser reads."""
    text_tokens: int
    """Tokens of a prompt."""
    unet: dict[str, Any]
    """The denoiser's whole configuration."""
    folder: Path
    """Where the configuration was read."""


def read_facts(pretrained: str, revision: str | None = None, unet: str | None = None) -> ModelFacts | None:
    """The configuration of a diffusers folder, a run's base, or a hub id in the local cache.

    None where only weights would tell.

    Args:
        unet: another UNet, as in `backbone.unet`.

    Raises:
        InputError: a file of the folder is damaged, or says nothing that is needed.
    """
    run = read_run(pretrained)
    if run is not None:
        own = run.backbone.get("unet") if run.is_lora else str(run.result)
        return read_facts(str(run.backbone["pretrained"]), run.backbone.get("revision"), unet or own)
    folder = _local_folder(pretrained, revision)
    # a single file has no configuration but its base's
    other = folder if unet is None or Path(unet).expanduser().is_file() else _local_folder(unet, None)
    there = None if other is None else unet_folder(other)
    if folder is None or there is None or there == folder:
        return None
    return _facts(folder, there)


def _facts(folder: Path, unet_folder: Path) -> ModelFacts:
    unet = _read(unet_folder / "config.json")
    vae, scheduler, text = (
        _read(folder / name / file)
        for name, file in (
            ("vae", "config.json"),
            ("scheduler", "scheduler_config.json"),
            ("text_encoder", "config.json"),
        )
    )
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return ModelFacts(
            num_train_timesteps=scheduler.get("num_train_timesteps", 1000),
            prediction_type=scheduler.get("prediction_type", "epsilon"),
            latent_channels=vae["latent_channels"],
            vae_factor=factor,
            resolution=unet["sample_size"] * factor,
            text_width=unet["cross_attention_dim"],
            text_tokens=text.get("max_position_embeddings", 77),
            unet=unet,
            folder=folder,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: its configuration lacks what a Stable Diffusion model states: {error}") from None


def _local_folder(name: str, revision: str | None) -> Path | None:
    path = Path(name).expanduser()
    if path.exists():
        return path if path.is_dir() else None
    return cached_folder(name, revision)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}  # another command's part, such as a VAE that is given apart; loading names what is missing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); get the model again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not an object; get the model again")
    return content


def empty_denoiser(facts: ModelFacts) -> UNet2DConditionModel:
    """The denoiser without its weights: names and shapes of its layers."""
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(facts.unet)
    assert isinstance(denoiser, UNet2DConditionModel)
    return denoiser


class Parameters(NamedTuple):
    """How many numbers a model has, and how many of them are trained."""

    denoiser: int
    """Of the denoiser, without adapters."""
    trained: int
    """Of the adapters, or of the whole denoiser."""


def count_parameters(facts: ModelFacts, lora: Lora | None) -> Parameters:
    """The parameters of the denoiser, and of the adapters that `lora` describes."""
    denoiser = empty_denoiser(facts)
    whole = sum(parameter.numel() for parameter in denoiser.parameters())
    return Parameters(whole, whole if lora is None else _adapter_parameters(denoiser, lora))


def _adapter_parameters(denoiser: nn.Module, lora: Lora) -> int:
    if lora.init is not None:
        return lora_elements(lora.init)
    return sum(_adapter_elements(layer, rank, lora.dora) for layer, rank in target_layers(denoiser, lora).values())


def _adapter_elements(layer: nn.Linear | nn.Conv2d, rank: int, dora: bool) -> int:
    rows = layer.weight.shape[0]
    columns = layer.weight.numel() // rows
    return rank * (rows + columns) + rows * dora
