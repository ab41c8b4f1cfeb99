"""Tables that are text: CSV, TSV, JSON lines and JSON arrays; and lines of text files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2ialign.data.tables.table import Row, Table
from t2ialign.errors import DataError

CELL_CHARACTERS = 2**31 - 1
"""Longest cell of a CSV; the csv module's own limit would refuse an image as text."""
NOT_JSON = (ValueError, RecursionError)
"""What json raises: a key twice, a number of thousands of digits, thousands of brackets."""


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
def read_csv(path: Path) -> Table:
    """A CSV table with a header, or a .tsv with tabs."""
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
        rows.append(Row(dict(zip(header, cells, strict=True)), f"{path}:{line}", path.parent))
    return Table(path, header, rows, format="a TSV table" if path.suffix.lower() == ".tsv" else "a CSV table")


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


def read_jsonl(path: Path) -> Table:
    """JSON lines, an object each."""
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        cells = parse_object(line, f"{path}:{number}")
        columns.update(dict.fromkeys(cells))
        rows.append(Row(cells, f"{path}:{number}", path.parent))
    return Table(path, list(columns), rows, format="JSON lines")


def read_json(path: Path) -> Table:
    """A JSON array of objects."""
    content = _parsed("".join(_text_lines(path)), str(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: holds {_kind(content)}; a .json table is one array of objects {{column: value}}")
    columns: dict[str, None] = {}
    rows: list[Row] = []
    for number, cells in enumerate(content, start=1):
        if not isinstance(cells, dict):
            raise DataError(f"{path}:item {number}: holds {_kind(cells)}; each item is one object {{column: value}}")
        columns.update(dict.fromkeys(cells))
        rows.append(Row(cells, f"{path}:item {number}", path.parent))
    return Table(path, list(columns), rows, format="a JSON array")


def parse_object(text: str | bytes, origin: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        DataError: not JSON, or no object.
    """
    cells = _parsed(text, origin)
    if not isinstance(cells, dict):
        raise DataError(f"{origin}: holds {_kind(cells)}; each line is one object {{column: value}}")
    return cells


def _parsed(text: str | bytes, origin: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"{origin}: not JSON: {error.msg} at {line}column {error.colno}") from None
    except NOT_JSON as error:
        raise DataError(f"{origin}: not usable JSON: {error}") from None


def _kind(value: Any) -> str:
    return type(value).__name__


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key '{twice}' is written twice")
    return found
