"""Finds model files: a local path, or a hub id that is downloaded or taken from the local cache.

Only safetensors are read: a pickle can run code when it is opened.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from t2ialign.errors import EnvironmentProblem, InputError

PICKLES = {".ckpt", ".bin", ".pt", ".pth"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class HubModel(NamedTuple):
    """A model on the hub."""

    name: str
    revision: str | None
    """Commit or tag; None is the newest."""


ALIASES = {
    "sd15": HubModel("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    "sdxl": HubModel("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
}
"""Short names of the base models, which are the names of their families, and the commits that they stand for."""
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
"""Hub ids that no longer exist, and where the same weights are."""
LOADING_FAILURES = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
"""What diffusers and safetensors raise of missing, torn or foreign files."""


def hub_model(name: str, revision: str | None = None) -> HubModel:
    """What a name stands for on the hub: an alias, a hub id, or `id@revision`; a given `revision` comes first."""
    name, _, own = name.partition("@")
    if name in ALIASES and not Path(name).exists():
        name, pinned = ALIASES[name]
        own = own or pinned
    return HubModel(name, revision or own or None)


def is_hub_name(name: str) -> bool:
    """Whether a name can be an alias or a hub id."""
    return not name.endswith(".safetensors") and HUB_ID.fullmatch(hub_model(name).name) is not None


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of an alias or hub id in the local cache; None where it is not there. Nothing is downloaded."""
    if not is_hub_name(name):
        return None
    name, revision = hub_model(name, revision)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # one variant of several, or one part of the model
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return None


def check_local(name: str, what: str) -> Path | None:
    """The file or folder of this name; None where it can be a hub id.

    Args:
        what: what else to give instead of a pickle, for the message.

    Raises:
        InputError: nothing is there, or it is a pickle.
    """
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        raise InputError(f"{name}: {path.suffix} files are pickles, which can run code when opened; give {what}")
    if path.exists():
        return path
    if not is_hub_name(name):
        raise InputError(f"{name}: no such file or folder{near_miss(path)}")
    return None


def locate(name: str, pipeline: type[DiffusionPipeline], revision: str | None, variant: str | None) -> Path:
    """The local folder or file of a path, alias or hub id; what is on the hub is downloaded, or taken from the cache.

    Where no variant is asked for and the hub has half-precision weights only, these are taken.

    Raises:
        InputError: nothing is there, or it is a pickle.
        EnvironmentProblem: the hub cannot be reached and nothing is cached, or it wants a login.
    """
    path = check_local(name, "the .safetensors file or a diffusers folder of the same model")
    if path is not None:
        return path
    hub_id, revision = hub_model(name, revision)
    try:
        return _download(hub_id, pipeline, revision, variant)
    except Exception as error:  # the network's errors have no common base below diffusers
        cached = cached_folder(hub_id, revision)
        if cached is not None and any(cached.glob("unet/*.safetensors")):
            return cached
        raise hub_problem(hub_id, revision, Path(name).expanduser(), error) from error


def locate_part(name: str, part: str, variant: str | None) -> Path:
    """The local file or folder of a path or hub id that holds one part of a model, alone or among others.

    Of a hub id, this part alone is downloaded: in the variant, or without one, or in half precision.

    Args:
        part: unet or vae.

    Raises:
        InputError, EnvironmentProblem: see `locate`.
    """
    path = check_local(name, "safetensors")
    if path is not None:
        return path
    hub_id, revision = hub_model(name)
    try:
        for kind in dict.fromkeys((variant or "", "", "fp16")):
            stem = "diffusion_pytorch_model" + (f".{kind}" if kind else "")
            files = ("config.json", f"{stem}.safetensors", f"{stem}-*-of-*.safetensors", f"{stem}.*.json")
            wanted = [*files, *(f"{part}/{file}" for file in files)]
            folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
            if any(folder.glob(f"{stem}*.safetensors")) or any(folder.glob(f"{part}/{stem}*.safetensors")):
                return folder
    except Exception as error:  # the network's errors have no common base
        cached = cached_folder(hub_id, revision)
        if cached is None:
            raise hub_problem(hub_id, revision, Path(name).expanduser(), error) from error
        return cached
    raise InputError(f"{name}: this hub model has no safetensors of a {part}; give another")


def locate_index(name: str, revision: str | None) -> Path:
    """The local folder of a path or hub id whose model_index.json is read; of a hub id, this file alone is downloaded.

    Raises:
        InputError, EnvironmentProblem: see `locate`.
    """
    path = check_local(name, "safetensors") or cached_folder(name, revision)
    if path is not None:
        return path
    hub_id, revision = hub_model(name, revision)
    try:
        return Path(hf_hub_download(hub_id, "model_index.json", revision=revision)).parent
    except Exception as error:  # the network's errors have no common base
        raise hub_problem(hub_id, revision, Path(name).expanduser(), error) from error


def _download(name: str, pipeline: type[DiffusionPipeline], revision: str | None, variant: str | None) -> Path:
    options = {"revision": revision, "use_safetensors": True}
    try:
        return Path(pipeline.download(name, variant=variant, **options))
    except OSError as error:
        if variant is not None or "`safetensors` weights" not in str(error):
            raise
        return Path(pipeline.download(name, variant="fp16", **options))


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, cut to 400 characters."""
    return " ".join(str(error).split())[:400]


def near_miss(path: Path) -> str:
    """A suggestion: the most similar name beside a path that does not exist."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def hub_problem(name: str, revision: str | None, path: Path, error: BaseException) -> Exception:
    """The error that tells the user what to do about a failed download."""
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
    if any(isinstance(cause, RemoteEntryNotFoundError) for cause in causes):
        return InputError(
            f"{name}: this hub model has no model_index.json; if it holds a UNet alone, give it as backbone.unet "
            "(--unet) beside a base model, as sdxl"
        )
    if isinstance(error, ValueError):
        hint = "if it has fp16 files only, set backbone.variant: fp16 (--backbone variant=fp16)"
        return InputError(f"{name}: the hub model cannot be used: {one_line(error)}; {hint}")
    reason = str(causes[-1]).strip().splitlines()
    return EnvironmentProblem(
        f"{name}: no such folder here{near_miss(path)}; as a hub model it is not in the local cache and the hub "
        f"cannot be reached ({reason[0] if reason else type(causes[-1]).__name__}); "
        "check the connection (and HF_HUB_OFFLINE), or give a local folder"
    )
