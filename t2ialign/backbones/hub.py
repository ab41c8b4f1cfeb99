"""Finds model files: a local path, or a hub id that is downloaded or taken from the local cache.

Only safetensors are read: a pickle can run code when it is opened.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError

from t2ialign.errors import EnvironmentProblem, InputError

PICKLES = {".ckpt", ".bin", ".pt", ".pth"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
"""Hub ids that no longer exist, and where the same weights are."""
LOADING_FAILURES = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
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
        raise hub_problem(name, revision, path, error) from error


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
    if isinstance(error, ValueError):
        hint = "if it has fp16 files only, set backbone.variant: fp16 (--backbone variant=fp16)"
        return InputError(f"{name}: the hub model cannot be used: {one_line(error)}; {hint}")
    reason = str(causes[-1]).strip().splitlines()
    return EnvironmentProblem(
        f"{name}: no such folder here{near_miss(path)}; as a hub model it is not in the local cache and the hub "
        f"cannot be reached ({reason[0] if reason else type(causes[-1]).__name__}); "
        "check the connection (and HF_HUB_OFFLINE), or give a local folder"
    )
