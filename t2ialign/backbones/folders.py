"""Models in diffusers' folder format: every tensor that the model needs comes from the folder, or it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from t2ialign.backbones.hub import PICKLES, one_line
from t2ialign.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

PARTS: dict[str, dict[str, type[nn.Module]]] = {
    "sd15": {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
    "sdxl": {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    },
}
"""Family -> its parts with weights, and their classes."""
HARMLESS = re.compile(r"(.*\.)?(position_ids|logit_scale|text_projection(\.weight)?)")
"""Tensors that older tools saved and that no model reads."""
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")


def load_folder(
    folder: Path,
    name: str,
    pipeline: type[DiffusionPipeline],
    *,
    family: str,
    dtype: torch.dtype,
    variant: str | None,
    options: dict[str, Any],
) -> DiffusionPipeline:
    """The pipeline of a diffusers folder.

    Args:
        name: of the model, for messages.
        options: components and settings that are given to the pipeline class as they are.

    Raises:
        InputError: no diffusers folder, another family, or files that are missing, damaged or incomplete.
    """
    index = _check_folder(folder, name, family)
    parts = {part: model for part, model in PARTS[family].items() if part not in options}
    for part, model in parts.items():
        _check_class(name, part, index.get(part), model)
    if variant is not None and not any(variant in _variants(folder / part) for part in parts):
        raise InputError(f"{name}: has no files of variant '{variant}' (backbone.variant); {_known_variants(folder)}")
    loaded = {part: load_part(model, folder, part, name, dtype, variant) for part, model in parts.items()}
    try:
        return pipeline.from_pretrained(folder, **{**options, **loaded})
    except Exception as error:  # a damaged config fails anywhere in diffusers and transformers
        raise InputError(f"{name}: the folder cannot be loaded: {one_line(error)}") from error


def _check_folder(folder: Path, name: str, family: str) -> dict[str, Any]:
    """The content of a folder's model_index.json, checked to be of the family."""
    index = folder / "model_index.json"
    if not index.is_file():
        inner = sorted(entry.parent.name for entry in folder.glob("*/model_index.json"))
        hint = f"; did you mean {folder / inner[0]}?" if inner else "; give a folder that diffusers saved"
        if unet_folder(folder) is not None:
            hint = "; it holds a UNet: give it as backbone.unet (--unet) beside a base model, as sdxl"
        raise InputError(f"{name}: not a diffusers model: it has no model_index.json{hint}")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        found = str(content["_class_name"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{index}: damaged ({one_line(error)}); get the folder again") from error
    is_xl = found.startswith("StableDiffusionXL")
    if not found.startswith("StableDiffusion") or is_xl != (family == "sdxl"):
        raise InputError(f"{name}: holds a {found}, not a model of backbone '{family}'{_right_name(found)}")
    if is_xl and _class_of(content.get("text_encoder")) is None:
        raise InputError(f"{name}: an SDXL refiner (one text encoder); give an SDXL base model")
    return content


def _right_name(class_name: str) -> str:
    if class_name.startswith("StableDiffusionXL"):
        return "; set backbone.name: sdxl"
    if class_name in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        return "; set backbone.name: sd15"
    return "; known families: sd15, sdxl"


def _class_of(entry: Any) -> str | None:
    """The class that a model_index.json names for a part."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _check_class(name: str, part: str, entry: Any, model: type[nn.Module]) -> None:
    found = _class_of(entry)
    if found != model.__name__:
        what = f"is a {found}" if found else "is missing"
        raise InputError(f"{name}: its {part} {what}; this backbone needs a {model.__name__}")


def _variants(folder: Path) -> set[str | None]:
    """Variants of the weights in a part's folder; None of those without one."""
    found = (_WEIGHTS.fullmatch(path.name) for path in folder.glob("*.safetensors"))
    return {match["variant"] for match in found if match}


def _known_variants(folder: Path) -> str:
    found = sorted({variant for part in folder.iterdir() for variant in _variants(part) if variant})
    return f"there are: {', '.join(found)}" if found else "it has files without a variant only: leave the key out"


def _variant_of_part(folder: Path, part: str, name: str, wanted: str | None) -> str | None:
    """The variant of a part to load: the wanted one, or that of files without one, or the only one there is."""
    found = _variants(folder / part)
    if wanted in found:
        return wanted
    if None in found:
        return None
    if not found:
        raise InputError(f"{name}: its {part or 'VAE'} has no .safetensors weights{_only_pickles(folder)}")
    if len(found) == 1:
        return found.pop()
    there = sorted(str(variant) for variant in found)
    raise InputError(
        f"{name}: its {part or 'VAE'} has weights of variants {' and '.join(there)}; say which: backbone.variant: "
        f"{there[0]} (on the command line: --backbone variant={there[0]})"
    )


def _only_pickles(folder: Path) -> str:
    files = [entry for entry in folder.glob("*/*") if entry.suffix in {*PICKLES, ".safetensors"}]
    pickles = sorted(entry for entry in files if entry.suffix in PICKLES)
    if not pickles or len(pickles) < len(files):
        return "; get the folder again"
    return (
        f"; it holds only pickles ({pickles[0].relative_to(folder)}), which are not opened; convert it to safetensors"
    )


def load_part(
    model: type[Module], folder: Path, part: str, name: str, dtype: torch.dtype, variant: str | None
) -> Module:
    """One part of a diffusers folder, with every tensor from its files.

    Args:
        part: its subfolder; "" for a folder that holds this part alone.
        name: of the model, for messages.

    Raises:
        InputError: tensors are missing, damaged, of other shapes, or left over.
    """
    chosen = _variant_of_part(folder, part, name, variant)
    options: dict[str, Any] = {"subfolder": part, "dtype": dtype, "variant": chosen, "use_safetensors": True}
    try:
        loaded, found = model.from_pretrained(folder, output_loading_info=True, **options)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # a damaged config fails anywhere in diffusers and transformers
        raise InputError(f"{name}: its {part or 'VAE'} cannot be loaded: {one_line(error)}") from error
    check_tensors(f"{name}: its {part or 'VAE'}", found["missing_keys"], found["unexpected_keys"])
    return loaded


def unet_folder(path: str | Path) -> Path | None:
    """The folder of the whole UNet that a path names: a full fine-tuning's run, a diffusers folder, or the UNet's own.

    None of a path that names a LoRA, or nothing.
    """
    given = Path(path).expanduser()
    folders = () if (given / "lora").is_dir() else (given / "unet", given)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def check_tensors(what: str, missing: Iterable[str], left_over: Iterable[str]) -> None:
    """Checks that a part of a model has the tensors that it needs and no others.

    Args:
        what: how messages begin, for example "models/x: its unet".

    Raises:
        InputError: some are missing or left over.
    """
    if lacking := sorted(missing):
        raise InputError(f"{what} lacks {len(lacking)} tensors, the first: {lacking[0]}; get the model again")
    if strange := sorted(key for key in left_over if not HARMLESS.fullmatch(key)):
        raise InputError(
            f"{what} holds {len(strange)} tensors that have no place in the model, the first: {strange[0]}; "
            "weights and config do not belong together, or they are quantised or of another kind of model"
        )
