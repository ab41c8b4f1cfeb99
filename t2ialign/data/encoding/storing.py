"""Stored encodings: a folder for each identity if the disk has room for it, each process its share of the shards."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from t2ialign.data.encoding.shards import Shards
from t2ialign.errors import EnvironmentProblem, TryAgainError
from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5
"""Share of the free disk that `auto` may fill."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Share(NamedTuple):
    """One process's part of the shards."""

    rank: int
    world_size: int

    def missing(self, shards: Shards, shift: int = 0) -> list[int]:
        """The shards that this process has to write.

        Args:
            shift: which process writes the first shard, so that not all small stores have the same writer.
        """
        own = range((self.rank - shift) % self.world_size, len(shards), self.world_size)
        return [shard for shard in own if not shards.is_whole(shard)]


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers as they are stored.

    Raises:
        EnvironmentProblem: they are too large for the type.
    """
    narrowed = tensor.to(dtype)
    if not narrowed.isfinite().all():
        raise EnvironmentProblem(f"numbers up to {tensor.abs().max():.3g} do not fit data.cache.dtype; use float32")
    return narrowed


def folder_of(folder: Path, identity: dict[str, Any]) -> Path:
    """A folder of its own for each identity: nothing stored is ever taken for something else."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{identity['holds']}-{key}"


def describe(shards: Shards, identity: dict[str, Any]) -> None:
    """Writes beside the shards what they hold."""
    path = shards.folder / "index.json"
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(identity, indent=1))


def fits(stores: Sequence[tuple[Shards, int]], wanted: bool | Literal["auto"], what: str) -> bool:
    """Whether to store: as the config says, or for `auto` as the disk allows.

    Args:
        stores: shards, and what a row of theirs takes in bytes.

    Raises:
        TryAgainError: the config insists, but the disk is too small.
    """
    needed = sum(row_bytes * shards.unseen_rows for shards, row_bytes in stores)
    folder = stores[0][0].folder
    existing = next(path for path in folder.absolute().parents if path.is_dir())
    free = shutil.disk_usage(existing).free
    if wanted is True and needed > free:
        raise TryAgainError(
            f"{folder}: storing {what} takes {_size_words(needed)}, {_size_words(free)} are free; free some "
            f"space and run the same command again, or set data.cache.{what}=false to encode in each step"
        )
    if wanted is True or needed <= free * FREE_SHARE:
        return True
    logger.warning(
        "%s would take %s, %s are free at %s: they are encoded in each step instead; data.cache.%s=true insists, "
        "data.cache.folder puts them elsewhere",
        *(what, _size_words(needed), _size_words(free), existing, what),
    )
    return False


def _size_words(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
