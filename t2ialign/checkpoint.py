"""The format of a checkpoint: a folder of safetensors and one JSON file, whole or not there.

A folder gets its name only after every byte of it is on disk. `manifest.json` carries each file's size and checksum, so
that a folder damaged later is recognised and never read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2ialign.errors import TryAgainError

MANIFEST = "manifest.json"
STATE = "state.json"


class Saved(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, dict[str, Tensor]]
    """File stem -> tensors."""
    state: dict[str, Any]


class Torn(NamedTuple):
    """A checkpoint that is not whole."""

    folder: Path
    reason: str


def sync(path: Path) -> None:
    """Forces a file's or a folder's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, SafetensorError) and ("No space left" in str(error) or "os error 28" in str(error))


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` on success, and leaves nothing behind on failure.

    Raises:
        TryAgainError: the disk is full; what stood at `folder` before is untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            sync(path)
        sync(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if _is_full_disk(error):
            free = shutil.disk_usage(folder.parent).free / 2**20
            raise TryAgainError(
                f"{folder}: the disk is full ({free:.0f} MiB free) while saving; nothing half-written was kept. "
                "Free some space and run the same command again: it goes on from the last checkpoint."
            ) from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path whose file becomes `path` on success, and leaves nothing behind on failure.

    Raises:
        TryAgainError: the disk is full; what stood at `path` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial"
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        if _is_full_disk(error):
            raise TryAgainError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Writes a checkpoint at `folder`, whole or not at all.

    Raises:
        TryAgainError: the disk is full.
    """
    with whole_folder(folder) as partial:
        for stem, group in tensors.items():
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in group.items()},
                partial / f"{stem}.safetensors",
            )
        (partial / STATE).write_text(json.dumps(state, indent=1))
        files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(files, indent=1))


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be read, or None if it is whole."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"it has no {MANIFEST} (killed while saving?)"
    try:
        files = json.loads(manifest.read_text())
    except ValueError:
        return f"its {MANIFEST} is not JSON"
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if _checksum(path) != checksum:
            return f"{name} has changed since it was saved"
    return None


def load(folder: Path) -> Saved:
    """Reads a checkpoint that `damage` found whole."""
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Saved(tensors, json.loads((folder / STATE).read_text()))


def name(step: int) -> str:
    return f"step-{step:06d}"


def newest(folder: Path, report: Callable[[Torn], None]) -> Path | None:
    """The newest whole checkpoint below `folder`; damaged ones are reported and passed over."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("step-*"), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        report(Torn(path, reason))
    return None


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and what a killed save left behind."""
    for path in sorted(folder.glob("step-*"), reverse=True)[keep:]:
        shutil.rmtree(path)
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)
