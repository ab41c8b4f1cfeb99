"""Finds and opens pretrained Stable Diffusion weights: a diffusers folder, one .safetensors file, or a hub id.

Only safetensors are read: a pickle can run code when it is opened.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

from t2ialign.errors import EnvironmentProblem, InputError

PICKLES = {".ckpt", ".bin", ".pt", ".pth"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
"""Hub ids that no longer exist, and where the same weights are."""
LOADING_FAILURES = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What diffusers and safetensors raise of missing, torn or foreign files."""


def locate(name: str, pipeline: type[DiffusionPipeline], revision: str | None, variant: str | None) -> Path:
    """The local folder or file of a path or hub id; a hub id is downloaded, or taken from the local cache.

    Raises:
        InputError: nothing is there, or it is a pickle.
        EnvironmentProblem: the hub cannot be reached and nothing is cached, or it wants a login.
    """
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise InputError(
            f"{name}: {path.suffix} files are pickles, which can run code when opened; "
            "give the .safetensors file or a diffusers folder of the same model"
        )
    if path.exists():
        return path
    if path.suffix == ".safetensors" or HUB_ID.fullmatch(name) is None:
        raise InputError(f"{name}: no such file or folder{near_miss(path)}")
    try:
        return Path(pipeline.download(name, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # the network's errors have no common base below diffusers
        raise _hub_problem(name, revision, path, error) from error


def near_miss(path: Path) -> str:
    """A suggestion of what stands beside a path that does not exist."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _hub_problem(name: str, revision: str | None, path: Path, error: BaseException) -> Exception:
    """What a failed download means to the user."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if name in MOVED:
        return InputError(f"{name}: this hub model does not exist any more; the same weights: {MOVED[name]}")
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return EnvironmentProblem(
            f"{name}: this hub model needs a login and an accepted licence; "
            f"accept it at https://huggingface.co/{name}, run `hf auth login`, then the same command again"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return InputError(f"{name}: this hub model has no revision '{revision}'; leave backbone.revision out")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return InputError(
            f"{name}: no such folder here, and no such model on the hub (or it is private: `hf auth login`)"
            + near_miss(path)
        )
    if isinstance(error, ValueError):
        return InputError(f"{name}: the hub model cannot be used: {error}")
    reason = str(causes[-1]).strip().splitlines()
    return EnvironmentProblem(
        f"{name}: no such folder here{near_miss(path)}; as a hub model it is not in the local cache and the hub "
        f"cannot be reached ({reason[0] if reason else type(causes[-1]).__name__}); "
        "check the connection (and HF_HUB_OFFLINE), or give a local folder"
    )


def load_pipeline(
    name: str,
    pipeline: type[DiffusionPipeline],
    *,
    family: str,
    dtype: torch.dtype,
    revision: str | None,
    variant: str | None,
    single_file_config: str | None,
    vae: AutoencoderKL | None,
    options: dict[str, Any],
) -> DiffusionPipeline:
    """The diffusers pipeline of `name`.

    Args:
        family: "sd15" or "sdxl"; weights of the other family are refused.
        single_file_config: folder or hub id with the configs and tokenizers that a single file lacks.
        vae: used instead of the model's own.
        options: components and settings that the pipeline class is given as they are.

    Raises:
        InputError: missing, torn, foreign or wrong-family weights.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    path = locate(name, pipeline, revision, variant)
    if vae is not None:
        options = {**options, "vae": vae}
    if path.is_file():
        _check_single_file(path, family)
        return _load_single_file(path, pipeline, dtype, single_file_config, options)
    _check_folder(path, name, family)
    try:
        return pipeline.from_pretrained(path, dtype=dtype, variant=variant, use_safetensors=True, **options)
    except LOADING_FAILURES as error:
        raise InputError(f"{name}: the folder cannot be loaded: {one_line(error)}{_only_pickles(path)}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


def _only_pickles(folder: Path) -> str:
    files = [entry for entry in folder.glob("*/*") if entry.suffix in {*PICKLES, ".safetensors"}]
    pickles = [entry for entry in files if entry.suffix in PICKLES]
    if not pickles or len(pickles) < len(files):
        return ""
    return (
        f"; it holds only pickles ({pickles[0].relative_to(folder)}), which are not opened; convert it to safetensors"
    )


def _check_folder(folder: Path, name: str, family: str) -> None:
    """Refuses folders that are no diffusers model, or one of another family."""
    index = folder / "model_index.json"
    if not index.is_file():
        inner = sorted(entry.parent.name for entry in folder.glob("*/model_index.json"))
        hint = f"; did you mean {folder / inner[0]}?" if inner else "; give a folder that diffusers saved"
        raise InputError(f"{name}: not a diffusers model: it has no model_index.json{hint}")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        found = str(content["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: damaged ({one_line(error)}); get the folder again") from error
    if family == "sd15" and not found.startswith("StableDiffusionXL") and found.startswith("StableDiffusion"):
        return
    if family == "sdxl" and found.startswith("StableDiffusionXL"):
        if content.get("text_encoder", [None])[0] is None:
            raise InputError(f"{name}: an SDXL refiner (one text encoder); give an SDXL base model")
        return
    raise InputError(f"{name}: holds a {found}, not a model of backbone '{family}'{_right_name(found)}")


def _right_name(class_name: str) -> str:
    if class_name.startswith("StableDiffusionXL"):
        return "; set backbone.name: sdxl"
    if class_name in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        return "; set backbone.name: sd15"
    return "; known families: sd15, sdxl"


def _check_single_file(path: Path, family: str) -> None:
    """Refuses files that are no full checkpoint of the family, by the names of their tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({one_line(error)}); get it again") from error
    if any(name.startswith("conditioner.embedders.") for name in names):
        found = "sdxl"
    elif any(name.startswith("cond_stage_model.") for name in names):
        found = "sd15"
    else:
        kind = "a LoRA" if any("lora" in name for name in names) else "no complete Stable Diffusion checkpoint"
        raise InputError(f"{path}: {kind} (first tensor: {names[0] if names else 'none'}); give a full checkpoint")
    if found != family:
        raise InputError(f"{path}: a checkpoint of '{found}', not of backbone '{family}'; set backbone.name: {found}")


def _load_single_file(
    path: Path, pipeline: type[DiffusionPipeline], dtype: torch.dtype, config: str | None, options: dict[str, Any]
) -> DiffusionPipeline:
    try:
        return pipeline.from_single_file(str(path), config=config, dtype=dtype, **options)  # type: ignore[attr-defined]
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise EnvironmentProblem(
            f"{path}: a single file holds no configs and tokenizers, and the hub, where they are taken from, cannot be "
            f"reached ({one_line(error)}); set backbone.single_file_config to a diffusers folder of the same family"
        ) from error
    except LOADING_FAILURES as error:
        raise InputError(f"{path}: the checkpoint cannot be loaded: {one_line(error)}") from error


def load_vae(name: str, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE of a folder (of a VAE, or of a whole pipeline), a single file or a hub id.

    Raises:
        InputError: nothing is there, or it cannot be loaded.
        EnvironmentProblem: the hub cannot be reached and nothing is cached.
    """
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise InputError(f"{name}: {path.suffix} files are pickles, which can run code when opened; give safetensors")
    if not path.exists() and (path.suffix == ".safetensors" or HUB_ID.fullmatch(name) is None):
        raise InputError(f"{name}: no such file or folder{near_miss(path)}")
    subfolder = "vae" if (path / "vae" / "config.json").is_file() else None
    try:
        if path.is_file():
            return AutoencoderKL.from_single_file(str(path), dtype=dtype)
        source = str(path) if path.exists() else name
        return AutoencoderKL.from_pretrained(source, subfolder=subfolder, dtype=dtype, use_safetensors=True)
    except Exception as error:  # the network's errors have no common base below diffusers
        if path.exists():
            raise InputError(f"{name}: the VAE cannot be loaded: {one_line(error)}") from error
        raise _hub_problem(name, None, path, error) from error
