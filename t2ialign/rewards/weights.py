"""Opens the weights of other people's reward models: safetensors, or a pickle of tensors whose sha256 is known."""

from __future__ import annotations

import pickle
import urllib.error
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.storage.digest import file_digest


def check_weights(path: Path, expected: str | None = None) -> None:
    """Checks that a weights file is there, whole, and the published one; reads no tensor.

    Args:
        path: a .safetensors file, or one written by torch.save.
        expected: the file's sha256 as its publisher states it; needed for anything but safetensors.

    Raises:
        InputError: no such file, a torn one, or a pickle without or with another sha256.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return
        except SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
    found = file_digest(path)
    if expected is None:
        raise InputError(
            f"{path}: a pickle is only opened when its checksum is known. Compare sha256 {found} with what the "
            "publisher states and pass it as sha256=..., or convert the file to .safetensors"
        )
    if found != expected.lower():
        raise InputError(f"{path}: sha256 is {found}, not {expected}: damaged, or another file. Fetch it again")


def read_weights(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU.

    Args:
        path, expected: as `check_weights` takes them.

    Raises:
        InputError: as `check_weights`, or not a file of tensors alone.
    """
    check_weights(path, expected)
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: holds more than tensors, or is damaged ({str(error).splitlines()[0]})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds {type(content).__name__}, not named tensors")
    return content


def cached_file(url: str, expected: str) -> Path:
    """Where `fetch` keeps a file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{expected[:16]}-{url.rpartition('/')[2]}"


def fetch(url: str, expected: str) -> Path:
    """The file behind a URL, kept in torch's cache; what arrives must have this sha256.

    Raises:
        EnvironmentProblem: it is not in the cache and cannot be fetched.
    """
    path = cached_file(url, expected)
    if path.is_file() and file_digest(path) == expected:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected)
    except (urllib.error.URLError, TimeoutError) as error:
        raise EnvironmentProblem(
            f"{url} cannot be fetched ({error}); fetch it where there is a network and name the file: weights=PATH"
        ) from None
    return path
