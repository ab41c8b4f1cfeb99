"""Rows of Arrow columns, which are read and turned into Python objects only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from t2ialign.data.base import StoredImage
from t2ialign.data.tables.table import LazySequence, Row
from t2ialign.errors import DataError

DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
"""What pyarrow raises on damaged files."""
SHOWN_CHARACTERS = 200
"""Characters of pyarrow's message that are passed on."""


class ArrowFile(Protocol):
    """A file of Arrow columns."""

    path: Path
    format: str

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column that holds no images."""
        ...

    def cell(self, name: str, row: int) -> Any:
        """One cell of a column of images."""
        ...

    def group(self, row: int) -> int:
        """The part of the file that is read at once with a row."""
        ...


@dataclass(frozen=True, slots=True)
class ArrowImage(StoredImage):
    """An image inside such a file, not yet read."""

    within: ArrowFile
    column: str
    row: int

    @property
    def file(self) -> Path:
        return self.within.path

    @property
    def place(self) -> str:
        return f"{self.column}/{self.row}"

    @property
    def group(self) -> int:
        return self.within.group(self.row)

    def read(self) -> bytes:
        """Its encoded bytes.

        Raises:
            DataError: there are none, or the file is damaged.
        """
        try:
            value = self.within.cell(self.column, self.row)
        except DAMAGE as error:
            raise damaged(self.within, error) from None
        if isinstance(value, dict):
            beside = value.get("path") if value["bytes"] is None else None
            value = _read_beside(self.file.parent / str(beside)) if beside else value["bytes"]
        if not value:
            raise DataError("no image stored")
        return value

    def __str__(self) -> str:
        return f"{self.column} in row {self.row + 1}"


def _read_beside(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError):
        raise DataError(f"no such image {path}") from None


class ArrowRows(LazySequence[Row]):
    """The rows of a file of Arrow columns; of a column that is never asked for nothing is read.

    Args:
        count: rows of the file.
    """

    def __init__(self, file: ArrowFile, schema: pa.Schema, count: int):
        self.file = file
        self._count = count
        self.images = {field.name: _holds_bytes(field.type) for field in schema}
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return self._count

    def item(self, place: int) -> Row:
        return Row(_Cells(self, place), f"{self.file.path}:row {place + 1}", self.file.path.parent)

    def cell(self, name: str, row: int) -> Any:
        """A cell; of a column of images where the image lies."""
        if self.images[name]:
            return ArrowImage(self.file, name, row)
        try:
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = self._read(name)
            return column[row].as_py()
        except DAMAGE as error:
            raise damaged(self.file, error) from None

    def _read(self, name: str) -> pa.ChunkedArray:
        column = self.file.column(name)
        if len(column) != self._count:
            raise ValueError(f"it holds {len(column)} rows, and says {self._count}")
        return column.cast(pa.string()) if pa.types.is_temporal(column.type) else column


class _Cells(Mapping[str, Any]):
    """The cells of one row."""

    def __init__(self, rows: ArrowRows, row: int):
        self._rows = rows
        self._row = row

    def __getitem__(self, name: str) -> Any:
        return self._rows.cell(name, self._row)

    def get(self, key: str, default: Any = None) -> Any:
        """A cell, or the default where there is no such column; quicker than the mapping's own."""
        return self._rows.cell(key, self._row) if key in self._rows.images else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.images)

    def __len__(self) -> int:
        return len(self._rows.images)


def damaged(file: ArrowFile, error: Exception) -> DataError:
    """The error of a file that pyarrow cannot read."""
    words = " ".join(str(error).split())[:SHOWN_CHARACTERS] or type(error).__name__
    return DataError(f"{file.path}: not a readable {file.format}: {words}")


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images, plainly or as data-set libraries wrap them in {bytes, path}."""
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
