"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from t2ialign.errors import TryAgainError


def sync(path: Path) -> None:
    """Forces a file's bytes, or a folder's names, to disk; Windows keeps its folders by itself."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full_disk(error: Exception) -> bool:
    """Whether a write failed for want of space or quota."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, SafetensorError) and ("No space left" in str(error) or "os error 28" in str(error))


def partial_folder(folder: Path) -> Path:
    """The temporary folder that becomes `folder`."""
    return folder.parent / f".{folder.name}.partial"


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` on success, and leaves nothing behind on failure.

    Raises:
        TryAgainError: the disk is full; what stood at `folder` before is untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(folder)
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
        if is_full_disk(error):
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
def atomic_write(path: Path) -> Iterator[Path]:
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
        if is_full_disk(error):
            raise TryAgainError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, whole or not at all."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def link_or_copy(source: Path, target: Path) -> None:
    """`source` at `target`, whole or not there: a link where the file system allows, else a copy."""
    with atomic_write(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)
