"""LoRA files written: an adapter's matrices, as diffusers and as kohya's trainer, ComfyUI and their kind read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from t2ialign.backbones.adapters import tuner_layers
from t2ialign.backbones.ldm_names import unet_names
from t2ialign.backbones.lora_checks import CONFIG_KEY, DENOISER, FILE_NAME
from t2ialign.backbones.lora_layout import Layers, LoraMatrices, Parts, adaptable_layers
from t2ialign.backbones.lora_origin import PROVENANCE_KEY
from t2ialign.backbones.lora_text import FIRST, SECOND
from t2ialign.storage.atomic import atomic_write

SAVED_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora")
KOHYA_PREFIXES = {
    "sd15": {DENOISER: "lora_unet_", FIRST: "lora_te_"},
    "sdxl": {DENOISER: "lora_unet_", FIRST: "lora_te1_", SECOND: "lora_te2_"},
}
"""Family -> part -> what kohya's layout puts before its layers."""


def adapter_layers(denoiser: nn.Module, adapter: str) -> dict[str, LoraMatrices]:
    """The matrices of one adapter by the denoiser's layers.

    Raises:
        ValueError: there is no such adapter.
    """
    layers = {
        name: LoraMatrices(
            _weight(layer.lora_A[adapter]),
            _weight(layer.lora_B[adapter]),
            layer.lora_alpha[adapter],
            _weight(layer.lora_magnitude_vector[adapter]) if adapter in layer.lora_magnitude_vector else None,
        )
        for name, layer in denoiser.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }
    if not layers:
        known = sorted({name for layer in tuner_layers(denoiser) for name in layer.lora_A})
        raise ValueError(f"there is no adapter '{adapter}'; there are: {', '.join(known) or 'none'}")
    return layers


def active_layers(denoiser: nn.Module) -> dict[str, LoraMatrices]:
    """The adapters that are active as one, which adds what they add together; empty where none is."""
    layers: dict[str, LoraMatrices] = {}
    for name, layer in denoiser.named_modules():
        if not isinstance(layer, LoraLayer) or layer.disable_adapters:
            continue
        active = [adapter for adapter in layer.active_adapters if adapter in layer.scaling]
        if active:
            downs, ups = ([_weight(part[adapter]) for adapter in active] for part in (layer.lora_A, layer.lora_B))
            layers[name] = _stacked(downs, ups, [layer.scaling[adapter] for adapter in active])
    return layers


def summed(loras: Sequence[tuple[Layers, float]]) -> dict[str, LoraMatrices]:
    """Several LoRAs, each times its scale, as one; a single one of scale 1 as it is.

    Raises:
        ValueError: one of several, or with another scale, is a DoRA, which does not add to a weight.
    """
    if len(loras) == 1 and loras[0][1] == 1:
        return dict(loras[0][0])
    found: dict[str, list[tuple[LoraMatrices, float]]] = {}
    for layers, scale in loras:
        for name, matrices in layers.items():
            if matrices.magnitude is not None:
                raise ValueError("a DoRA cannot be added to another LoRA, or scaled")
            found.setdefault(name, []).append((matrices, scale * matrices.alpha / matrices.rank))
    return {
        name: _stacked([part.down for part, _ in parts], [part.up for part, _ in parts], [scale for _, scale in parts])
        for name, parts in found.items()
    }


def summed_parts(loras: Sequence[tuple[Parts, float]]) -> dict[str, dict[str, LoraMatrices]]:
    """The parts of several LoRAs, each times its scale, as those of one; see `summed`."""
    names = dict.fromkeys(name for parts, _ in loras for name in parts)
    return {name: summed([(parts[name], scale) for parts, scale in loras if name in parts]) for name in names}


def _stacked(downs: list[Tensor], ups: list[Tensor], scales: list[float]) -> LoraMatrices:
    """Matrices one below and beside the other, with the scales in `up`."""
    down = torch.cat(downs)
    up = torch.cat([scale * matrix for scale, matrix in zip(scales, ups, strict=True)], 1)
    return LoraMatrices(down, up, alpha=len(down))


def _weight(module: nn.Module) -> Tensor:
    return cast(nn.Linear | nn.Conv2d, module).weight


def peft_config(layers: Layers) -> LoraConfig:
    """peft's settings of an adapter with these layers, each of its own rank and alpha."""
    rank = Counter(matrices.rank for matrices in layers.values()).most_common(1)[0][0]
    alpha = Counter(matrices.alpha for matrices in layers.values()).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=cast(int, alpha),
        rank_pattern={name: part.rank for name, part in layers.items() if part.rank != rank},
        alpha_pattern={name: part.alpha for name, part in layers.items() if part.alpha != alpha},
        target_modules=sorted(layers),
        use_dora=any(matrices.magnitude is not None for matrices in layers.values()),
    )


def write_diffusers(path: Path, parts: Parts, header: Mapping[str, str], dtype: torch.dtype = torch.float32) -> None:
    """Writes a file that diffusers' `load_lora_weights` reads, with every layer's rank and alpha in its header.

    Raises:
        TryAgainError: the disk is full.
    """
    stated: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for part, layers in parts.items():
        # without text_model. settings fit CLIPTextModel with and without that module (transformers 4 and 5)
        settings = peft_config({name.removeprefix("text_model."): found for name, found in layers.items()}).to_dict()
        settings["target_modules"] = sorted(settings["target_modules"])
        stated |= {f"{part}.{key}": settings[key] for key in SAVED_SETTINGS}
        for name, matrices in layers.items():
            stem = f"{part}.{name}"
            tensors |= {f"{stem}.lora_A.weight": matrices.down, f"{stem}.lora_B.weight": matrices.up}
            if matrices.magnitude is not None:
                # the loader of transformers 5 drops a text encoder's that is called as diffusers calls a denoiser's
                end = "" if part == DENOISER else ".weight"
                tensors[f"{stem}.lora_magnitude_vector{end}"] = matrices.magnitude
    _write(path, tensors, {**header, CONFIG_KEY: json.dumps(stated)}, dtype)


def write_kohya(
    path: Path, parts: Parts, denoiser: nn.Module, header: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a file in the layout of kohya's trainer, with an alpha tensor for every layer.

    SDXL's layers have the names of the original repository there, those of Stable Diffusion 1.5 the names of diffusers;
    text encoders those of transformers.

    Args:
        denoiser: of which the layers are; its weights are not read.

    Raises:
        TryAgainError: the disk is full.
    """
    is_xl = cast(Any, denoiser).config.addition_embed_type == "text_time"
    prefixes = KOHYA_PREFIXES["sdxl" if is_xl else "sd15"]
    called = unet_names(adaptable_layers(denoiser)) if is_xl else {}
    tensors: dict[str, Tensor] = {}
    for part, layers in parts.items():
        for name, matrices in layers.items():
            stem = prefixes[part] + (called.get(name, name) if part == DENOISER else name).replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": matrices.down, f"{stem}.lora_up.weight": matrices.up}
            tensors[f"{stem}.alpha"] = torch.tensor(float(matrices.alpha))
            if matrices.magnitude is not None:
                tensors[f"{stem}.dora_scale"] = matrices.magnitude.reshape(-1, *[1] * (matrices.down.ndim - 1))
    _write(path, tensors, header, dtype)


def _write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], dtype: torch.dtype) -> None:
    with atomic_write(path) as partial:
        save_file(
            {key: tensor.detach().to(dtype).contiguous().cpu() for key, tensor in tensors.items()},
            partial,
            metadata={"format": "pt", **header},
        )


def save_parts(folder: Path, parts: Parts, *, family: str, extra: Mapping[str, Any]) -> Path:
    """Writes `pytorch_lora_weights.safetensors` with its true alpha, and returns its path.

    Args:
        family: architecture that the adapter fits.
        extra: what made it; kept in the file's header as JSON.

    Raises:
        TryAgainError: the disk is full.
    """
    path = folder / FILE_NAME
    write_diffusers(path, parts, {PROVENANCE_KEY: json.dumps({"family": family, **extra})})
    return path
