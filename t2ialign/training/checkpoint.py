"""The format of a checkpoint: a folder of safetensors and one JSON file, whole or not there.

A folder gets its name only after every byte of it is on disk. `manifest.json` carries each file's size and checksum, so
that a folder damaged later is recognised and never read.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from t2ialign.errors import InputError
from t2ialign.storage.atomic import atomic_directory

MANIFEST = "manifest.json"
STATE = "state.json"


class Saved(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, dict[str, Tensor]]
    """File stem -> tensors."""
    state: dict[str, Any]


class Damaged(NamedTuple):
    """A checkpoint that is not whole."""

    folder: Path
    reason: str


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Writes a checkpoint at `folder`, whole or not at all.

    Raises:
        TryAgainError: the disk is full.
    """
    with atomic_directory(folder) as partial:
        for stem, group in tensors.items():
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in group.items()},
                partial / f"{stem}.safetensors",
            )
        seal(partial, state)


def seal(partial: Path, state: dict[str, Any]) -> None:
    """Adds the state to the files of the tensors, and the manifest of all."""
    (partial / STATE).write_text(json.dumps(state, indent=1))
    files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(partial.iterdir())}
    (partial / MANIFEST).write_text(json.dumps(files, indent=1))


def verify(folder: Path) -> str | None:
    """Why a checkpoint cannot be read, or None where it is whole."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"it has no {MANIFEST} (killed while saving?)"
    try:
        files: Any = json.loads(manifest.read_text())
    except ValueError:
        return f"its {MANIFEST} is not JSON"
    if not isinstance(files, dict) or STATE not in files:
        return f"its {MANIFEST} is not one of ours"
    entries = cast(dict[str, list[int]], files)
    for name, (size, checksum) in entries.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if _checksum(path) != checksum:
            return f"{name} has changed since it was saved"
    return None


def load(folder: Path) -> Saved:
    """Reads a checkpoint that `verify` found whole."""
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Saved(tensors, read_state(folder))


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors."""
    return json.loads((folder / STATE).read_text())


def copy_into(saved: Mapping[str, Tensor], here: Mapping[str, Tensor], folder: Path) -> None:
    """Copies saved tensors over those of the same names.

    Args:
        folder: the checkpoint, for the message.

    Raises:
        InputError: the names differ.
    """
    if set(saved) != set(here):
        odd = sorted(set(saved) ^ set(here))[0]
        raise InputError(f"{folder}: its weights are not this policy's (for example '{odd}'); use a new run_dir")
    for key, value in saved.items():
        here[key].copy_(value)


def name(step: int) -> str:
    return f"step-{step:06d}"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name), reverse=True)


def newest(folder: Path, report: Callable[[Damaged], None]) -> Path | None:
    """The newest whole checkpoint below `folder`; damaged ones are reported and passed over."""
    for path in _newest_first(folder):
        reason = verify(path)
        if reason is None:
            return path
        report(Damaged(path, reason))
    return None


def newest_beyond(folder: Path, step: int) -> int | None:
    """The step of the newest whole checkpoint after `step`, None where there is none; no earlier one is read."""
    for path in _newest_first(folder):
        found = int(path.name.removeprefix("step-"))
        if found <= step:
            return None
        if verify(path) is None:
            return found
    return None


def prune(folder: Path, newest: Path, keep: int) -> None:
    """Removes all but `newest` and the `keep` - 1 checkpoints before it, and what a killed save left behind.

    What is newer than `newest` was found damaged when the run went on from an earlier one.
    """
    order = _newest_first(folder)
    place = order.index(newest)
    for path in order[:place] + order[place + keep :]:
        shutil.rmtree(path)
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)
