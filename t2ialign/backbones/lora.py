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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2ialign.backbones.adapters import (
    EMA,
    INIT,
    LEARNER,
    adapter_config,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    inject_adapter,
)
from t2ialign.backbones.hub import PICKLES, near_miss, one_line
from t2ialign.backbones.lora_layout import MERGE_ADVICE, LoraMatrices, is_text_part, other_method, read_matrices
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)

FILE_NAME = "pytorch_lora_weights.safetensors"
"""The file that `pipe.load_lora_weights(folder)` looks for."""
PREFIX = "unet."
"""What diffusers puts before the denoiser's part of a LoRA."""
CONFIG_KEY = "lora_adapter_metadata"
"""Header entry where diffusers keeps ranks, alphas and targets."""
PROVENANCE_KEY = "t2ialign"
"""Header entry of what made the file, as JSON."""
SAVED_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora")
WIDTHS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
"""Cross-attention widths of the published families."""


def add_training_adapters(denoiser: nn.Module, lora: Lora, *, family: str, seed: int, keeps_ema: bool) -> None:
    """Adds the adapters of a run: the learner, what it started from if that is a LoRA, and its average.

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
    settings = adapter_config(denoiser, adapter).to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])
    tensors = {
        PREFIX + key.replace(f".{adapter}.", "."): parameter.detach().contiguous().cpu()
        for key, parameter in adapter_parameters(denoiser, adapter).items()
    }
    header = {
        "format": "pt",
        CONFIG_KEY: json.dumps({PREFIX + key: settings[key] for key in SAVED_SETTINGS}),
        PROVENANCE_KEY: json.dumps({"family": family, **extra}),
    }
    path = folder / FILE_NAME
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata=header)
    return path


def lora_file(path: Path) -> Path:
    """The safetensors file of a LoRA given by its file or its folder.

    Raises:
        InputError: nothing is there, it is a pickle, or the folder does not say which file it is.
    """
    if path.suffix in PICKLES:
        raise InputError(f"{path}: {path.suffix} files are pickles, which can run code when opened; give safetensors")
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such LoRA{near_miss(path)}")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    inner = sorted(path.glob(f"*/{FILE_NAME}")) or files
    hint = f"; did you mean {inner[0]}?" if inner else ""
    raise InputError(f"{path}: has no {FILE_NAME}{hint}")


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error


def _json_object(text: str, place: str) -> dict[str, Any]:
    """The JSON object of a text.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: damaged ({one_line(error)}); get the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{place}: damaged (a JSON object is expected there); get the file again")
    return content


def _settings(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Any]:
    """Ranks and alphas as a file's header, or peft's adapter_config.json beside it, states them.

    Raises:
        InputError: they are damaged, missing in peft's format, or of another method than LoRA.
    """
    config = file.parent / "adapter_config.json"
    if CONFIG_KEY in header:
        place = f"{file}: its header entry {CONFIG_KEY}"
        stated = _json_object(header[CONFIG_KEY], place)
        settings = {key.removeprefix(PREFIX): value for key, value in stated.items() if key.startswith(PREFIX)}
    elif file.name != "adapter_model.safetensors" and not all(key.startswith("base_model.model.") for key in tensors):
        return {}
    elif config.is_file():
        place = str(config)
        settings = _json_object(config.read_text(encoding="utf-8", errors="replace"), place)
    else:
        raise InputError(f"{file}: peft's own format, but {config.name}, which holds its alpha, is not beside it")
    if settings.get("use_dora"):
        raise InputError(f"{place}: a DoRA (weight-decomposed), which is not supported; {MERGE_ADVICE}")
    if settings.get("peft_type", "LORA") != "LORA":
        raise InputError(f"{place}: holds a {settings['peft_type']}; give a LoRA")
    for key in ("alpha_pattern", "rank_pattern"):
        if not isinstance(settings.get(key) or {}, dict):
            raise InputError(f"{place}: damaged ({key} is no object); get the file again")
    return settings


def _cross_attention_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The text width that a LoRA was made for: what its cross-attention keys and values take in."""
    for key, tensor in tensors.items():
        reads_text = "attn2" in key and ("to_k" in key or "to_v" in key)
        is_down = any(part in key for part in ("lora_A", "lora_down", "lora.down"))
        if reads_text and is_down and tensor.ndim > 1:
            return tensor.shape[1]
    return None


def _read_header(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A LoRA's tensors without their numbers, and what the file says of itself."""
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error


def lora_elements(path: Path) -> int:
    """How many numbers a saved LoRA holds.

    Raises:
        InputError: no such LoRA, or it is not a readable safetensors file.
    """
    return sum(tensor.numel() for tensor in _read_header(lora_file(path))[0].values())


def check_lora(path: Path, *, family: str, text_width: int | None) -> None:
    """Checks from its header that a LoRA was made for this architecture.

    Args:
        path: a file, or a folder that holds one.
        text_width: width of the token states that the denoiser reads; None where it is not known.

    Raises:
        InputError: no such file, not a LoRA, damaged, or made for another architecture.
    """
    file = lora_file(path)
    shapes, header = _read_header(file)
    _check_is_lora(file, shapes)
    _check_family(file, shapes, header, text_width, family)


def _check_is_lora(file: Path, tensors: Mapping[str, Tensor]) -> None:
    if not any("lora" in key for key in tensors) and other_method(tensors) is None:
        raise InputError(f"{file}: not a LoRA (first tensor: {next(iter(tensors), 'none')})")


def _check_family(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], expected: int | None, family: str
) -> None:
    """Checks that a LoRA was made for this architecture.

    Raises:
        InputError: its cross-attention has another width, or its header names another family.
    """

    def named(width: int) -> str:
        return f"{width} ({WIDTHS[width]})" if width in WIDTHS else str(width)

    found = _cross_attention_width(tensors)
    if found is not None and expected is not None and found != expected:
        raise InputError(
            f"{file}: this LoRA has cross-attention width {named(found)}; the model, a '{family}', expects "
            f"{named(expected)}. Give the model that the LoRA was made for"
        )
    provenance = _json_object(header.get(PROVENANCE_KEY, "{}"), f"{file}: its header entry {PROVENANCE_KEY}")
    if provenance.get("family", family) != family:
        raise InputError(f"{file}: this LoRA was made for '{provenance['family']}'; the model is a '{family}'")


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
    _check_is_lora(file, tensors)
    _check_family(file, tensors, header, cast(Any, denoiser).config.cross_attention_dim, family)
    settings = _settings(file, tensors, header)
    layers = read_matrices(_denoiser_part(file, tensors), settings, denoiser, str(file))
    parameters = inject_adapter(denoiser, name, _config(layers), trainable=trainable)
    for key, parameter in parameters.items():
        layer, _, letter = key.removesuffix(f".{name}.weight").rpartition(".lora_")
        parameter.data.copy_(layers[layer].down if letter == "A" else layers[layer].up)
