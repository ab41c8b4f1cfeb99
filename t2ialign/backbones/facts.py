"""What a model's JSON files say of it, read without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from t2ialign.backbones.adapters import TARGETS
from t2ialign.backbones.loading import HUB_ID
from t2ialign.backbones.lora_checks import lora_elements
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


def read_facts(pretrained: str, revision: str | None = None) -> ModelFacts | None:
    """The configuration of a diffusers folder or of a hub id in the local cache; None where only weights would tell.

    Raises:
        InputError: a file of the folder is damaged, or says nothing that is needed.
    """
    folder = _local_folder(pretrained, revision)
    if folder is None or not (folder / "unet" / "config.json").is_file():
        return None
    unet, vae, scheduler, text = (
        _read(folder / name / file)
        for name, file in (
            ("unet", "config.json"),
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
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: its configuration lacks what a Stable Diffusion model states: {error}") from None


def _local_folder(pretrained: str, revision: str | None) -> Path | None:
    path = Path(pretrained).expanduser()
    if path.exists():
        return path if path.is_dir() else None
    if HUB_ID.fullmatch(pretrained) is None:
        return None
    try:
        return Path(snapshot_download(pretrained, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


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


def trainable_parameters(facts: ModelFacts, lora: Lora | None) -> int:
    """How many numbers are trained: of the adapters that `lora` describes, or of the whole denoiser."""
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(facts.unet)
    assert isinstance(denoiser, UNet2DConditionModel)
    if lora is None:
        return sum(parameter.numel() for parameter in denoiser.parameters())
    if lora.init is not None:
        return lora_elements(lora.init)
    targets = tuple("." + target for target in TARGETS[lora.targets])
    layers = (module for name, module in denoiser.named_modules() if f".{name}".endswith(targets))
    return sum(_adapter_elements(layer, lora.rank) for layer in layers)


def _adapter_elements(layer: nn.Module, rank: int) -> int:
    if isinstance(layer, nn.Linear):
        return rank * (layer.in_features + layer.out_features)
    if isinstance(layer, nn.Conv2d):
        return rank * (layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] + layer.out_channels)
    return 0
