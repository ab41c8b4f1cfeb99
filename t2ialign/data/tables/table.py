"""Tables on disk: CSV, TSV, JSON lines and Parquet become rows that know where they were read."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.data.account import OTHER_SPLIT, Problem
from t2ialign.errors import DataError, InputError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
CELL_CHARACTERS = 2**31 - 1
"""Longest cell of a CSV; the csv module's own limit would refuse an image as text."""
SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
"""Names of a data set's parts, with which file names begin."""


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
    unused: tuple[Problem, ...] = ()
    """Files beside it that are not read, and rows of a prompt file that belong to no row."""

    @property
    def folder(self) -> Path:
        """What relative image paths are relative to."""
        return self.path if self.path.is_dir() else self.path.parent


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
    raise DataError(f"{folder}: holds {len(found)} tables ({_listed(p.name for p in found)}); set data.path to one")


def read_table(path: Path, split: str | None = None) -> Table:
    """Reads a table, or a folder of Parquet shards.

    Args:
        split: which part of the data set, where the folder holds shards of several.

    Raises:
        InputError: no such file, or not a kind of table that is read.
        DataError: its content is not what its suffix says, it has no rows, or it holds several splits.
    """
    table = _read_shards(path, split) if path.is_dir() else _read_file(path)
    if not table.rows:
        raise DataError(f"{path}: has no rows{' below its header' if table.columns else ''}")
    return table


def _read_shards(folder: Path, split: str | None) -> Table:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".parquet")
    splits = {path: split_of(path.stem) for path in files}
    known = sorted({name for name in splits.values() if name is not None})
    if split is None and len(known) > 1:
        raise DataError(f"{folder}: holds shards of several splits ({_listed(known)}); set data.split to one of them")
    if split is not None and split not in known:
        raise DataError(f"{folder}: data.split is '{split}'; it holds shards of {_listed(known) or 'no named split'}")
    chosen = [path for path in files if split is None or splits[path] == split]
    shards = [_read_file(path) for path in chosen]
    odd = next((shard for shard in shards if shard.columns != shards[0].columns), None)
    if odd is not None:
        raise DataError(f"{odd.path}: has columns {_listed(odd.columns)}, but {shards[0].path.name} has others")
    others = tuple(Problem(str(path), OTHER_SPLIT) for path in files if path not in chosen)
    return Table(folder, shards[0].columns, [row for shard in shards for row in shard.rows], others)


def split_of(name: str) -> str | None:
    """The split that a file's name begins with, as `test` of test-00000-of-00001."""
    first = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return first if first in SPLITS else None


def _read_file(path: Path) -> Table:
    from t2ialign.data.tables.parquet import read_parquet  # pyarrow is slow to import, and builds on the records here

    if not is_file(path):
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": read_parquet}
    if suffix not in readers:
        raise InputError(f"{path}: tables end in {', '.join(SUFFIXES)}; this ends in '{suffix}'")
    try:
        return readers[suffix](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def is_file(path: Path) -> bool:
    """Whether a path names a file; text that no file can be named by does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, without surrounding blanks.

    Raises:
        DataError: not UTF-8 text, or the file cannot be read.
    """
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of `read_lines` with their numbers, counted from 1."""
    try:
        lines = [line.strip() for line in "".join(_text_lines(path)).split("\n")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends; a byte order mark is dropped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lets the csv module read cells of any length, such as images as text."""
    before = csv.field_size_limit(CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@_long_cells()
def _read_csv(path: Path) -> Table:
    records = _csv_records(path)
    first, _ = next(records, ([], 0))
    header = [name.strip() for name in first]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{path}:1: column '{min(twice)}' stands twice in the header")
    if len(header) == 1 and ";" in header[0]:
        raise DataError(f"{path}:1: columns are separated by ';'; save the table with commas, or as .tsv with tabs")
    rows = []
    for cells, line in records:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{line}: has {len(cells)} cells, the header has {len(header)}; "
                "put quotes around cells that hold the separator"
            )
        rows.append(Row(dict(zip(header, cells, strict=True)), f"{path}:{line}"))
    return Table(path, header, rows)


def _csv_records(path: Path) -> Iterator[tuple[list[str], int]]:
    """(cells, the line where they begin) of each record; a quoted cell may run over several lines."""
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
            yield cells, line


def _read_jsonl(path: Path) -> Table:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        cells = _json_object(line, f"{path}:{number}")
        columns.update(dict.fromkeys(cells))
        rows.append(Row(cells, f"{path}:{number}"))
    return Table(path, list(columns), rows)


def _json_object(line: str, origin: str) -> dict[str, Any]:
    try:
        cells = json.loads(line, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise DataError(f"{origin}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a key twice, a number of thousands of digits, thousands of brackets
        raise DataError(f"{origin}: not usable JSON: {error}") from None
    if not isinstance(cells, dict):
        raise DataError(f"{origin}: holds {type(cells).__name__}; each line is one object {{column: value}}")
    return cells


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key '{twice}' is written twice")
    return found
