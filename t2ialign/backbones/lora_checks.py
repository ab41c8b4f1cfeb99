"""LoRA files before their numbers are read: where they lie, and what their headers say they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2ialign.backbones.folders import unet_folder
from t2ialign.backbones.hub import PICKLES, near_miss, one_line
from t2ialign.backbones.ldm_names import holds_unet
from t2ialign.backbones.lora_layout import MERGE, is_dora, other_method
from t2ialign.backbones.lora_origin import (
    PEFT_CONFIG,
    PEFT_FILE,
    Origin,
    check_family,
    json_object,
    origin_of,
    stated_provenance,
)
from t2ialign.backbones.lora_text import split_text, text_part
from t2ialign.errors import InputError

FILE_NAME = "pytorch_lora_weights.safetensors"
"""The file that `pipe.load_lora_weights(folder)` looks for."""
DENOISER = "unet"
"""What diffusers calls the denoiser's part of a LoRA."""
CONFIG_KEY = "lora_adapter_metadata"
"""Header entry where diffusers keeps ranks, alphas and targets."""


def lora_folder(path: str | Path) -> Path:
    """The file or folder of a LoRA that is given by its path or by the run that made it."""
    of_run = Path(path) / "lora"
    return of_run if of_run.is_dir() else Path(path)


def lora_file(path: Path) -> Path:
    """The safetensors file of a LoRA given by its file, its folder, or the run that made it.

    Raises:
        InputError: nothing is there, it is a pickle, or the folder does not say which file it is.
    """
    if path.suffix in PICKLES:
        raise InputError(f"{path}: {path.suffix} files are pickles, which can run code when opened; give safetensors")
    if path.is_file():
        return path
    path = lora_folder(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such LoRA{near_miss(path)}")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    whole = unet_folder(path)
    if whole is not None and any(whole.glob("diffusion_pytorch_model*")):
        raise InputError(
            f"{path}: holds a whole UNet, no LoRA; give it as backbone.unet (--unet), or a run as the model"
        )
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    inner = sorted(path.glob(f"*/{FILE_NAME}")) or files
    hint = f"; did you mean {inner[0]}?" if inner else ""
    raise InputError(f"{path}: has no {FILE_NAME}{hint}")


def stated_settings(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], part: str = DENOISER
) -> tuple[dict[str, Any], str]:
    """Ranks and alphas as a file's header, or peft's adapter_config.json beside it, states them; and where.

    Args:
        part: of the pipeline; adapter_config.json is of all parts.

    Raises:
        InputError: they are damaged, or missing in peft's format.
    """
    config = file.parent / PEFT_CONFIG
    if CONFIG_KEY in header:
        place = f"{file}: its header entry {CONFIG_KEY}"
        stated = json_object(header[CONFIG_KEY], place)
        own = {key.removeprefix(f"{part}."): value for key, value in stated.items() if key.startswith(f"{part}.")}
        return own, place
    if file.name != PEFT_FILE and not all(key.startswith("base_model.model.") for key in tensors):
        return {}, str(file)
    if config.is_file():
        return json_object(config.read_text(encoding="utf-8", errors="replace"), str(config)), str(config)
    raise InputError(f"{file}: peft's own format, but {config.name}, which holds its alpha, is not beside it")


def _read_header(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A LoRA's tensors without their numbers, and what the file says of itself."""
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error


def provenance(path: Path) -> dict[str, Any]:
    """What made a saved LoRA, as this project's header states it; empty for files of others.

    Raises:
        InputError: no such LoRA, or it is damaged.
    """
    file = lora_file(path)
    _, header = _read_header(file)
    return stated_provenance(file, header)


def lora_origin(path: Path) -> Origin:
    """What a saved LoRA was made for.

    Raises:
        InputError: no such file, not a LoRA, or damaged.
    """
    file = lora_file(path)
    tensors, header = _read_header(file)
    check_is_lora(file, tensors)
    return origin_of(file, tensors, header)


def lora_elements(path: Path) -> int:
    """How many numbers the matrices of a saved LoRA's denoiser part hold.

    Raises:
        InputError: no such LoRA, or it is not a readable safetensors file.
    """
    part, _ = split_text(_read_header(lora_file(path))[0])
    return sum(tensor.numel() for key, tensor in part.items() if not key.endswith(".alpha"))


def check_lora(path: Path, *, family: str, text_width: int | None) -> None:
    """Checks from its header that a LoRA was made for this architecture.

    Args:
        path: a file, or a folder that holds one.
        text_width: width of the token states that the denoiser reads; None where it is not known.

    Raises:
        InputError: no such file, not a LoRA, damaged, made for another architecture, or of text encoders alone.
    """
    file = lora_file(path)
    shapes, header = _read_header(file)
    check_is_lora(file, shapes)
    check_family(file, shapes, header, text_width, family)
    check_adapts_denoiser(file, shapes)


def check_mixable(path: Path, merged: str) -> None:
    """Checks from its header that shares of an adapter can be added to other weights, as a negative model needs.

    Args:
        merged: as what the folder of a base with the adapter merged into it may be given, for the message.

    Raises:
        InputError: no such file, damaged, or a DoRA.
    """
    file = lora_file(path)
    tensors, header = _read_header(file)
    settings, _ = stated_settings(file, tensors, header)
    if settings.get("use_dora") or is_dora(tensors):
        raise InputError(
            f"{file}: a DoRA (weight-decomposed) rescales weights instead of adding to them, so that a negative "
            f"model's branch cannot have a share of it; train a LoRA, or {MERGE} and give that folder as {merged}"
        )


def text_tensor(path: Path) -> str | None:
    """The first tensor of a LoRA that belongs to a text encoder; None where there is none.

    Raises:
        InputError: no such file, or it is damaged.
    """
    return next((key for key in _read_header(lora_file(path))[0] if text_part(key) is not None), None)


def check_denoiser_alone(path: Path) -> None:
    """Checks from its header that a LoRA has no part for text encoders.

    Raises:
        InputError: no such file, damaged, or it has one.
    """
    first = text_tensor(path)
    if first is not None:
        raise InputError(
            f"{lora_file(path)}: adapts the text encoder too (tensor {first}), which both branches of guidance share, "
            f"so that a negative model can change the denoiser alone; train one that does, or {MERGE} and give that "
            "folder as the negative model, of which the UNet is taken"
        )


def check_adapts_denoiser(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks from the names of its tensors that a LoRA has a part for the denoiser.

    Raises:
        InputError: it has none.
    """
    if not split_text(tensors)[0]:
        raise InputError(
            f"{file}: adapts the text encoder only; to start a training from, and as a negative model, give a LoRA of "
            "the denoiser"
        )


def check_is_lora(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks from the names of its tensors that a file holds an adapter.

    Raises:
        InputError: it does not.
    """
    if holds_unet(tensors):
        raise InputError(f"{file}: holds a whole UNet, no LoRA; give it as backbone.unet (--unet)")
    if not any("lora" in key for key in tensors) and other_method(tensors) is None:
        raise InputError(f"{file}: not a LoRA (first tensor: {next(iter(tensors), 'none')})")
