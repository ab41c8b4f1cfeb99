"""Rows of tensors in safetensors shards: written whole or not at all, read through memory maps."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2ialign.storage.atomic import atomic_write

ROWS = 64
"""Rows of a shard: what a kill while encoding can lose."""
OPEN_SHARDS = 32
"""Shards a reader keeps open; their pages are the system's, not the process's."""


class Shards:
    """`rows` rows of named tensors in a folder, in shards of ROWS. Opened when first read, in each process anew."""

    def __init__(self, folder: Path, rows: int):
        self.folder = folder
        self.rows = rows
        self.keys: dict[int, str] = {}
        """Of shards whose file name tells their content, what it says of it."""
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.rows // ROWS)

    def span(self, shard: int) -> range:
        """The rows that lie in a shard."""
        return range(shard * ROWS, min(self.rows, (shard + 1) * ROWS))

    def path(self, shard: int) -> Path:
        key = f"-{self.keys[shard]}" if shard in self.keys else ""
        return self.folder / f"{shard:06d}{key}.safetensors"

    def seen(self) -> set[int]:
        """Shards of which there is a file, whatever its key."""
        return {int(path.name[:6]) for path in self.folder.glob("[0-9]" * 6 + "*.safetensors")} & {*range(len(self))}

    @property
    def unseen_rows(self) -> int:
        """Rows of the shards of which there is no file."""
        return sum(len(self.span(shard)) for shard in {*range(len(self))} - self.seen())

    def is_whole(self, shard: int) -> bool:
        """Whether a shard is on disk with all its rows; a damaged one is not."""
        path = self.path(shard)
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                counts = {file.get_slice(name).get_shape()[0] for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            return False
        return counts == {len(self.span(shard))}

    def write(self, shard: int, tensors: dict[str, Tensor]) -> None:
        """Stores a shard's rows, [n, ...] each.

        Raises:
            TryAgainError: the disk is full.
        """
        with atomic_write(self.path(shard)) as partial:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)

    def read(self, rows: list[int]) -> dict[str, Tensor]:
        """The named tensors of some rows, float32. [len(rows), ...] each"""
        return stack_rows([self.row(row) for row in rows])

    def pick(self, name: str, rows: list[int], places: list[int]) -> Tensor:
        """Of a tensor [rows, n, ...], one of the n of each of some rows, float32. [len(rows), ...]"""
        found: list[Tensor] = []
        for row, place in zip(rows, places, strict=True):
            shard, within = divmod(row, ROWS)
            found.append(self._shard(shard).get_slice(name)[within, place])
        return torch.stack(found).float()

    def row(self, row: int) -> dict[str, Tensor]:
        """The named tensors of a row, as they are stored."""
        shard, within = divmod(row, ROWS)
        file = self._shard(shard)
        return {name: file.get_slice(name)[within] for name in file.keys()}  # noqa: SIM118

    def _shard(self, shard: int) -> Any:
        file = self._open.get(shard)
        if file is None:
            if len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)
            file = self._open[shard] = safe_open(self.path(shard), framework="pt")
        self._open.move_to_end(shard)
        return file


def stack_rows(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The named tensors of some rows together, float32. [len(rows), ...] each"""
    return {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}
