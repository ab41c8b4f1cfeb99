"""LoRA files: those of every public layout are read; ours give plain diffusers the same output."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2ialign.backbones.adapters import (
    EMA,
    INIT,
    LEARNER,
    OLD,
    adapter_config,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    inject_adapter,
)
from t2ialign.backbones.hub import one_line
from t2ialign.backbones.lora_checks import (
    CONFIG_KEY,
    FILE_NAME,
    PREFIX,
    PROVENANCE_KEY,
    check_family,
    check_is_lora,
    lora_file,
    stated_settings,
)
from t2ialign.backbones.lora_layout import MERGE_ADVICE, LoraMatrices, is_text_part, read_matrices
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)

SAVED_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora")


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


def save_lora(folder: Path, denoiser: nn.Module, adapter: str, *, family: str, extra: Mapping[str, Any]) -> Path:
    """Writes `pytorch_lora_weights.safetensors` with its true alpha, and returns its path.

    Args:
        family: architecture that the adapter fits.
        extra: what made it; kept in the file's header as JSON.

    Raises:
        ValueError: there is no such adapter.
        TryAgainError: the disk is full.
    """
    tensors = {
        key.replace(f".{adapter}.", "."): parameter for key, parameter in adapter_parameters(denoiser, adapter).items()
    }
    return _write(folder, tensors, adapter_config(denoiser, adapter), family, extra)


def save_active(folder: Path, denoiser: nn.Module, *, family: str, extra: Mapping[str, Any]) -> Path | None:
    """Writes the adapters that are active as one LoRA, which adds what they add together; None where none is.

    Its matrices are theirs, one below and beside the other, with the scales in `up`.

    Raises:
        TryAgainError: the disk is full.
    """
    layers: dict[str, LoraMatrices] = {}
    for name, layer in denoiser.named_modules():
        if not isinstance(layer, LoraLayer) or layer.disable_adapters:
            continue
        active = [adapter for adapter in layer.active_adapters if adapter in layer.scaling]
        if active:
            down = torch.cat([_weight(layer.lora_A[adapter]) for adapter in active])
            up = torch.cat([layer.scaling[adapter] * _weight(layer.lora_B[adapter]) for adapter in active], 1)
            layers[name] = LoraMatrices(down, up, alpha=len(down))
    if not layers:
        return None
    tensors = {f"{name}.lora_A.weight": matrices.down for name, matrices in layers.items()}
    tensors |= {f"{name}.lora_B.weight": matrices.up for name, matrices in layers.items()}
    return _write(folder, tensors, _config(layers), family, extra)


def _weight(module: nn.Module) -> Tensor:
    return cast(nn.Linear | nn.Conv2d, module).weight


def _write(
    folder: Path, tensors: Mapping[str, Tensor], config: LoraConfig, family: str, extra: Mapping[str, Any]
) -> Path:
    """Writes a LoRA's tensors, named as in the denoiser, with their settings in the header."""
    settings = config.to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])
    header = {
        "format": "pt",
        CONFIG_KEY: json.dumps({PREFIX + key: settings[key] for key in SAVED_SETTINGS}),
        PROVENANCE_KEY: json.dumps({"family": family, **extra}),
    }
    path = folder / FILE_NAME
    with atomic_write(path) as partial:
        save_file(
            {PREFIX + key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()},
            partial,
            metadata=header,
        )
    return path


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error


def _settings(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Any]:
    """What `_stated_settings` finds, checked to be of a plain LoRA.

    Raises:
        InputError: it is damaged, missing, or of another method.
    """
    settings, place = stated_settings(file, tensors, header)
    if settings.get("use_dora"):
        raise InputError(f"{place}: a DoRA (weight-decomposed), which is not supported; {MERGE_ADVICE}")
    if settings.get("peft_type", "LORA") != "LORA":
        raise InputError(f"{place}: holds a {settings['peft_type']}; give a LoRA")
    for key in ("alpha_pattern", "rank_pattern"):
        if not isinstance(settings.get(key) or {}, dict):
            raise InputError(f"{place}: damaged ({key} is no object); get the file again")
    return settings


def _denoiser_part(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that do not belong to a text encoder; those that do are named in a warning.

    Raises:
        InputError: nothing is left.
    """
    part = {key: tensor for key, tensor in tensors.items() if not is_text_part(key)}
    if not part:
        raise InputError(f"{file}: adapts the text encoder only; this project applies a LoRA's denoiser part")
    if len(part) < len(tensors):
        first = next(key for key in tensors if key not in part)
        logger.warning(
            "%s: its part for the text encoder is left out (%d tensors, the first: %s); only the denoiser is adapted",
            *(file, len(tensors) - len(part), first),
        )
    return part


def _config(layers: Mapping[str, LoraMatrices]) -> LoraConfig:
    """peft's settings of an adapter with these layers, each of its own rank and alpha."""
    rank = Counter(matrices.rank for matrices in layers.values()).most_common(1)[0][0]
    alpha = Counter(matrices.alpha for matrices in layers.values()).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=cast(int, alpha),
        rank_pattern={name: part.rank for name, part in layers.items() if part.rank != rank},
        alpha_pattern={name: part.alpha for name, part in layers.items() if part.alpha != alpha},
        target_modules=sorted(layers),
    )


def load_lora(denoiser: nn.Module, path: Path, name: str, *, family: str, trainable: bool = False) -> None:
    """Adds the adapter of a saved LoRA, with each layer's own rank and alpha.

    Args:
        path: a file, or a folder that holds one, in any layout that `lora_layout` lists.
        name: of the adapter, here.
        family: architecture of the denoiser.

    Raises:
        InputError: no such file, not a plain LoRA, damaged, or made for another architecture.
    """
    file = lora_file(path)
    tensors, header = _read(file)
    check_is_lora(file, tensors)
    check_family(file, tensors, header, cast(Any, denoiser).config.cross_attention_dim, family)
    settings = _settings(file, tensors, header)
    layers = read_matrices(_denoiser_part(file, tensors), settings, denoiser, str(file))
    parameters = inject_adapter(denoiser, name, _config(layers), trainable=trainable)
    for key, parameter in parameters.items():
        layer, _, letter = key.removesuffix(f".{name}.weight").rpartition(".lora_")
        parameter.data.copy_(layers[layer].down if letter == "A" else layers[layer].up)
