"""LoRA files before their numbers are read: where they lie, and what their headers say they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2ialign.backbones.hub import PICKLES, near_miss, one_line
from t2ialign.backbones.lora_layout import MERGE, is_dora, other_method
from t2ialign.errors import InputError

FILE_NAME = "pytorch_lora_weights.safetensors"
"""The file that `pipe.load_lora_weights(folder)` looks for."""
PREFIX = "unet."
"""What diffusers puts before the denoiser's part of a LoRA."""
CONFIG_KEY = "lora_adapter_metadata"
"""Header entry where diffusers keeps ranks, alphas and targets."""
PROVENANCE_KEY = "t2ialign"
"""Header entry of what made the file, as JSON."""
WIDTHS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
"""Cross-attention widths of the published families."""


def lora_folder(path: str | Path) -> Path:
    """The file or folder of a LoRA that is given by its path or by the run that made it."""
    of_run = Path(path) / "lora"
    return of_run if of_run.is_dir() else Path(path)


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


def stated_settings(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Ranks and alphas as a file's header, or peft's adapter_config.json beside it, states them; and where.

    Raises:
        InputError: they are damaged, or missing in peft's format.
    """
    config = file.parent / "adapter_config.json"
    if CONFIG_KEY in header:
        place = f"{file}: its header entry {CONFIG_KEY}"
        stated = _json_object(header[CONFIG_KEY], place)
        return {key.removeprefix(PREFIX): value for key, value in stated.items() if key.startswith(PREFIX)}, place
    if file.name != "adapter_model.safetensors" and not all(key.startswith("base_model.model.") for key in tensors):
        return {}, str(file)
    if config.is_file():
        return _json_object(config.read_text(encoding="utf-8", errors="replace"), str(config)), str(config)
    raise InputError(f"{file}: peft's own format, but {config.name}, which holds its alpha, is not beside it")


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
    check_is_lora(file, shapes)
    check_family(file, shapes, header, text_width, family)


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


def check_is_lora(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks from the names of its tensors that a file holds an adapter.

    Raises:
        InputError: it does not.
    """
    if not any("lora" in key for key in tensors) and other_method(tensors) is None:
        raise InputError(f"{file}: not a LoRA (first tensor: {next(iter(tensors), 'none')})")


def check_family(
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
