"""Tables on disk: CSV, TSV, JSON lines and Parquet become rows that know where they were read."""

from __future__ import annotations

import csv
import json
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from t2ialign.errors import DataError, InputError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """One row of a table."""

    cells: dict[str, Any]
    """Column -> value; None where the row has none. Images embedded in Parquet are `EmbeddedImage`."""
    origin: str
    """file:line (for Parquet, file:row), counted from 1."""


class Table(NamedTuple):
    """A table, read whole except for images embedded in it."""

    path: Path
    columns: list[str]
    rows: list[Row]

    @property
    def folder(self) -> Path:
        """What relative image paths are relative to."""
        return self.path if self.path.is_dir() else self.path.parent


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
            DataError: there are none.
        """
        group = bisect_right(self.first_rows, row) - 1
        held = self._group  # one look: another thread may replace it meanwhile
        if held is None or held[0] != group:
            table = pq.ParquetFile(self.path).read_row_group(group, columns=[self.column])
            held = self._group = (group, table.column(0).to_pylist())
        value = held[1][row - self.first_rows[group]]
        if not isinstance(value, dict):
            content = value
        elif value["bytes"] is None and value.get("path"):
            content = self._beside(value["path"])
        else:
            content = value["bytes"]
        if not content:
            raise DataError("no image stored")
        return content

    def _beside(self, name: str) -> bytes:
        path = self.path.parent / name
        if not path.is_file():
            raise DataError(f"no such image {path}")
        return path.read_bytes()


class EmbeddedImage(NamedTuple):
    """An image inside a Parquet file, not yet read."""

    images: ParquetImages
    row: int

    def read(self) -> bytes:
        return self.images.read(self.row)

    def __str__(self) -> str:
        return f"{self.images.column} in row {self.row + 1}"


def find_table(folder: Path) -> Path | None:
    """The one table a folder holds, the folder itself if it holds Parquet shards, or None.

    Raises:
        DataError: it holds several, so that one must be named.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(found) <= 1:
        return found[0] if found else None
    if all(path.suffix.lower() == ".parquet" for path in found):
        return folder
    raise DataError(f"{folder}: holds {len(found)} tables ({_listing(p.name for p in found)}); set data.path to one")


def read_table(path: Path) -> Table:
    """Reads a table, or a folder of Parquet shards.

    Raises:
        InputError: no such file, or not a kind of table that is read.
        DataError: its content is not what its suffix says, or it has no rows.
    """
    if path.is_dir():
        shards = [_read_parquet(shard) for shard in sorted(path.glob("*.parquet"))]
        odd = next((shard for shard in shards if shard.columns != shards[0].columns), None)
        if odd is not None:
            raise DataError(f"{odd.path}: has columns {_listing(odd.columns)}, but {shards[0].path.name} has others")
        table = Table(path, shards[0].columns, [row for shard in shards for row in shard.rows])
    else:
        table = _reader(path)(path)
    if not table.rows:
        raise DataError(f"{path}: has no rows{' below its header' if table.columns else ''}")
    return table


def _reader(path: Path):
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if suffix not in readers:
        raise InputError(f"{path}: tables end in {', '.join(SUFFIXES)}; this ends in '{suffix}'")
    return readers[suffix]


def _listing(names) -> str:
    return ", ".join(map(str, names))


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends; a byte order mark is dropped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from None


def _read_csv(path: Path) -> Table:
    records = list(_csv_records(path))
    if not records:
        return Table(path, [], [])
    header = [name.strip() for name in records[0].cells]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{path}:1: column '{min(twice)}' stands twice in the header")
    if len(header) == 1 and ";" in header[0]:
        raise DataError(f"{path}:1: columns are separated by ';'; save the table with commas, or as .tsv with tabs")
    rows = []
    for cells, line in records[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{line}: has {len(cells)} cells, the header has {len(header)}; "
                "put quotes around cells that hold the separator"
            )
        rows.append(Row(dict(zip(header, cells, strict=True)), f"{path}:{line}"))
    return Table(path, header, rows)


class _Record(NamedTuple):
    cells: list[str]
    line: int
    """Where it begins; a quoted cell may run over several lines."""


def _csv_records(path: Path) -> Iterator[_Record]:
    reader = csv.reader(_text_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not a table: {error}; a quote may be missing or left open") from None
        if cells:
            yield _Record(cells, line)


def _read_jsonl(path: Path) -> Table:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(cells, dict):
            raise DataError(f"{path}:{number}: holds {type(cells).__name__}; each line is one object {{column: value}}")
        columns.update(dict.fromkeys(cells))
        rows.append(Row(cells, f"{path}:{number}"))
    return Table(path, list(columns), rows)


def _read_parquet(path: Path) -> Table:
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        images = [field.name for field in schema if _holds_bytes(field.type)]
        plain = file.read(columns=[name for name in schema.names if name not in images]).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    first_rows = [sum(sizes[:index]) for index in range(len(sizes))]
    embedded = {name: ParquetImages(path, name, first_rows) for name in images}
    rows = []
    for number in range(file.metadata.num_rows):
        cells: dict[str, Any] = dict(plain[number]) if plain else {}
        cells.update({name: EmbeddedImage(column, number) for name, column in embedded.items()})
        rows.append(Row(cells, f"{path}:row {number + 1}"))
    return Table(path, list(schema.names), rows)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images, plainly or as data-set libraries wrap them in {bytes, path}."""
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
