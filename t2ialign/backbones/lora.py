"""LoRAs in a model: those of files as adapters or merged into weights, and adapters as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from torch import nn

from t2ialign.backbones.adapters import (
    EMA,
    INIT,
    LEARNER,
    OLD,
    adapter_config,
    add_adapter,
    copy_adapter,
    inject_adapter,
    tuner_layers,
)
from t2ialign.backbones.base import Backbone
from t2ialign.backbones.lora_checks import DENOISER
from t2ialign.backbones.lora_layout import Layers, Parts
from t2ialign.backbones.lora_read import LoraFile, read_parts
from t2ialign.backbones.lora_text import FIRST, SECOND, of_module
from t2ialign.backbones.lora_write import adapter_layers, peft_config, save_parts
from t2ialign.config.schema import Lora

logger = logging.getLogger(__name__)


def add_training_adapters(
    denoiser: nn.Module, lora: Lora, *, family: str, seed: int, keeps_ema: bool, keeps_old: bool = False
) -> None:
    """Adds the adapters of a run: the learner, what it started from if that is a LoRA, and its averages.

    Args:
        lora: `lora.init` decides rank, alpha and layers where it is given.
        family: architecture of the denoiser.
        seed: of a fresh learner's weights.

    Raises:
        InputError: `lora.init` cannot be used.
    """
    if lora.init is None:
        add_adapter(denoiser, LEARNER, lora, seed=seed, trainable=True)
    else:
        load_lora(denoiser, lora.init, INIT, family=family)
        copy_adapter(denoiser, INIT, LEARNER, trainable=True, dropout=lora.dropout)
        _warn_of_unused_settings(denoiser, lora)
    if keeps_ema:
        copy_adapter(denoiser, LEARNER, EMA, trainable=False)
    if keeps_old:
        copy_adapter(denoiser, LEARNER, OLD, trainable=False)


def _warn_of_unused_settings(denoiser: nn.Module, lora: Lora) -> None:
    """Names the settings of the config that the file of `lora.init` overrules."""
    used = adapter_config(denoiser, LEARNER)
    overruled = {
        f"lora.{key}": f"{asked:g} (there: {there:g})"
        for key, asked, there in (("rank", lora.rank, used.r), ("alpha", lora.alpha, used.lora_alpha))
        if key in lora.model_fields_set and asked != there
    }
    if overruled:
        settings = ", ".join(f"{key} {values}" for key, values in overruled.items())
        logger.warning("%s: rank and alpha are those of lora.init, not %s", lora.init, settings)


def save_lora(
    folder: Path, denoiser: nn.Module, adapter: str, *, family: str, extra: Mapping[str, Any], text: Parts | None = None
) -> Path:
    """Writes one adapter as `save_parts` does.

    Args:
        text: parts for text encoders that are written beside it.

    Raises:
        ValueError: there is no such adapter.
        TryAgainError: the disk is full.
    """
    parts = {DENOISER: adapter_layers(denoiser, adapter), **(text or {})}
    return save_parts(folder, parts, family=family, extra=extra)


def load_lora(denoiser: nn.Module, path: Path, name: str, *, family: str, trainable: bool = False) -> None:
    """Adds the adapter of a saved LoRA or DoRA, with each layer's own rank and alpha.

    Args:
        name: of the adapter, here.

    Raises:
        InputError: see `LoraFile.denoiser`.
    """
    inject_layers(denoiser, name, LoraFile(path).denoiser(denoiser, family=family), trainable=trainable)


def inject_layers(network: nn.Module, name: str, layers: Layers, *, trainable: bool = False) -> None:
    """Adds an adapter with these matrices."""
    parameters = inject_adapter(network, name, peft_config(layers), trainable=trainable)
    for key, parameter in parameters.items():
        layer, _, letter = key.removesuffix(f".{name}.weight").rpartition(".lora_")
        part = {"A": layers[layer].down, "B": layers[layer].up, "magnitude_vector": layers[layer].magnitude}[letter]
        assert part is not None, key
        parameter.data.copy_(part)


def add_text_loras(backbone: Backbone, loras: Sequence[tuple[LoraFile, float]], *, family: str) -> None:
    """Adds the parts of LoRAs for text encoders, times their scales, to the weights of a backbone's.

    Raises:
        InputError: see `LoraFile`.
    """
    text = [(lora.text(backbone.text_encoders, family=family), scale) for lora, scale in loras if lora.adapts_text]
    if text:
        backbone.adapt_text(text)


def merge_loras(pipeline: Any, loras: Mapping[Path, float], *, family: str) -> None:
    """Adds saved LoRAs, times their scales and in their order, to the weights of a pipeline; no adapter is left.

    Raises:
        InputError: see `LoraFile`.
    """
    encoders = text_encoders(pipeline)
    read = [(read_parts(path, pipeline.unet, encoders, family=family), scale) for path, scale in loras.items()]
    merge_layers(pipeline.unet, [(parts[DENOISER], scale) for parts, scale in read if DENOISER in parts])
    merge_text(encoders, read)


def text_encoders(pipeline: Any) -> dict[str, nn.Module]:
    """The text encoders of a pipeline, by their names there."""
    return {name: pipeline.components[name] for name in (FIRST, SECOND) if pipeline.components.get(name) is not None}


def merge_text(encoders: Mapping[str, nn.Module], loras: Sequence[tuple[Parts, float]]) -> None:
    """Adds LoRAs, times their scales and in their order, to the weights of text encoders."""
    for name, encoder in encoders.items():
        merge_layers(encoder, [(of_module(parts[name], encoder), scale) for parts, scale in loras if name in parts])


@torch.no_grad()
def merge_layers(network: nn.Module, loras: Sequence[tuple[Layers, float]]) -> None:
    """Adds LoRAs, times their scales and in their order, to a network's weights; no adapter is left."""
    names = [f"merged{place}" for place in range(len(loras))]
    for name, (layers, _) in zip(names, loras, strict=True):
        inject_layers(network, name, layers)
    for layer in tuner_layers(network):
        for name, (_, scale) in zip(names, loras, strict=True):
            if name in layer.scaling:
                layer.scaling[name] *= scale
        layer.merge(adapter_names=[name for name in names if name in layer.scaling])
    if loras:
        recurse_remove_peft_layers(network)
        del cast(Any, network).peft_config
