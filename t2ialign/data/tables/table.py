"""Tables of examples: rows that know where they were read, and shards that are one table."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from t2ialign.data.account import Problem
from t2ialign.errors import DataError


class Row(NamedTuple):
    """One row of a table."""

    cells: Mapping[str, Any]
    """Column -> value; None where the row has none. Images inside other files are `StoredImage`."""
    origin: str
    """file:line (for shards, file:row), counted from 1."""
    folder: Path = Path()
    """What relative image paths are relative to."""


class Table(NamedTuple):
    """A table, of which images inside other files are not yet read."""

    path: Path
    columns: list[str]
    rows: Sequence[Row]
    unused: tuple[Problem, ...] = ()
    """Files beside it that are not read, and rows of a prompt file that belong to no row."""
    format: str = ""
    """What kind of table it is, in words."""


Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence whose items are made when they are asked for."""

    @abstractmethod
    def item(self, place: int) -> Item:
        """One of them, 0 <= place < len(self)."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.item(place) for place in range(*index.indices(len(self)))]
        return self.item(range(len(self))[index])


class ShardRows(LazySequence[Row]):
    """The rows of several tables, one after another."""

    def __init__(self, parts: Sequence[Sequence[Row]]):
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, place: int) -> Row:
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]


def join_tables(path: Path, tables: Sequence[Table]) -> Table:
    """Several tables as one.

    Raises:
        DataError: they have different columns.
    """
    first = tables[0]
    odd = next((table for table in tables if {*table.columns} != {*first.columns}), None)
    if odd is not None:
        raise DataError(f"{odd.path}: has columns {listed(odd.columns)}, but {first.path.name} has others")
    rows = first.rows if len(tables) == 1 else ShardRows([table.rows for table in tables])
    unused = tuple(problem for table in tables for problem in table.unused)
    count = f"{len(tables)} files, each " if len(tables) > 1 else ""
    return Table(path, first.columns, rows, unused, count + first.format)


def is_file(path: Path) -> bool:
    """Whether a path names a file; text that no file can be named by does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)
