"""Parquet tables, and the images embedded in them, which stay on disk until they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from t2ialign.data.tables.table import Row, Table
from t2ialign.errors import DataError

DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
"""What pyarrow raises on damaged files."""
SHOWN_CHARACTERS = 200
"""Characters of pyarrow's message that are passed on."""


class ParquetImages:
    """Encoded images in one column of a Parquet file, read a row group at a time when asked for."""

    def __init__(self, path: Path, column: str, first_rows: list[int]):
        self.path = path
        self.column = column
        self.first_rows = first_rows
        """Number of each row group's first row."""
        self._group: tuple[int, list[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": None}  # a worker reads for itself

    def read(self, row: int) -> bytes:
        """The encoded bytes at a row.

        Raises:
            DataError: there are none, or the file is damaged.
        """
        group = bisect_right(self.first_rows, row) - 1
        held = self._group  # read once: another thread may replace it meanwhile
        if held is None or held[0] != group:
            held = self._group = (group, self._read_group(group))
        value = held[1][row - self.first_rows[group]]
        if not isinstance(value, dict):
            content = value
        elif value["bytes"] is None and value.get("path"):
            content = self._beside(str(value["path"]))
        else:
            content = value["bytes"]
        if not content:
            raise DataError("no image stored")
        return content

    def _read_group(self, group: int) -> list[Any]:
        try:
            return pq.ParquetFile(self.path).read_row_group(group, columns=[self.column]).column(0).to_pylist()
        except DAMAGE as error:
            raise damaged(self.path, error) from None

    def _beside(self, name: str) -> bytes:
        path = self.path.parent / name
        try:
            return path.read_bytes()
        except (OSError, ValueError):
            raise DataError(f"no such image {path}") from None


class EmbeddedImage(NamedTuple):
    """An image inside a Parquet file, not yet read."""

    images: ParquetImages
    row: int

    @property
    def file(self) -> Path:
        return self.images.path

    @property
    def place(self) -> str:
        return f"{self.images.column}/{self.row}"

    def read(self) -> bytes:
        return self.images.read(self.row)

    def __str__(self) -> str:
        return f"{self.images.column} in row {self.row + 1}"


def read_parquet(path: Path) -> Table:
    """A Parquet file, whole except for its columns of images.

    Raises:
        DataError: it is damaged.
    """
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        images = [field.name for field in schema if _holds_bytes(field.type)]
        plain = file.read(columns=[name for name in schema.names if name not in images]).to_pylist()
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        count = file.metadata.num_rows
    except DAMAGE as error:
        raise damaged(path, error) from None
    if plain and len(plain) != count:
        raise DataError(f"{path}: not a readable Parquet file: it holds {len(plain)} rows, and says {count}")
    first_rows = [sum(sizes[:index]) for index in range(len(sizes))]
    embedded = {name: ParquetImages(path, name, first_rows) for name in images}
    rows = []
    for number in range(count if embedded else len(plain)):
        cells: dict[str, Any] = dict(plain[number]) if plain else {}
        cells.update({name: EmbeddedImage(column, number) for name, column in embedded.items()})
        rows.append(Row(cells, f"{path}:row {number + 1}"))
    return Table(path, list(schema.names), rows)


def damaged(path: Path, error: Exception) -> DataError:
    """The error of a file that pyarrow cannot read."""
    words = " ".join(str(error).split())[:SHOWN_CHARACTERS] or type(error).__name__
    return DataError(f"{path}: not a readable Parquet file: {words}")


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images, plainly or as data-set libraries wrap them in {bytes, path}."""
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
