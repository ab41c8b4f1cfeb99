"""Parquet files: whole columns of numbers and text, images a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2ialign.data.tables.arrow_rows import DAMAGE, ArrowRows, damaged
from t2ialign.data.tables.table import Table

HELD = 4
"""Row groups of a column that are held at least."""
WINDOW = 256
"""Rows behind the newest group that are held at least: more than threads read ahead."""


class RowGroups:
    """The newest row groups of each column, shared by the files of a data set so that memory does not grow with them.

    Threads may share it: a group that several wait for is read once.
    """

    def __init__(self, window: int = WINDOW):
        self.window = window
        self._held: dict[str, OrderedDict[tuple[Path, int], pa.ChunkedArray]] = defaultdict(OrderedDict)
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"window": self.window}  # another process reads for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["window"])

    def get(self, file: ParquetColumns, column: str, group: int) -> pa.ChunkedArray:
        """One column of a row group."""
        with self._lock:
            held = self._held[column]
            found = held.get((file.path, group))
            if found is None:
                found = pq.ParquetFile(file.path).read_row_group(group, columns=[column]).column(0)
                held[(file.path, group)] = found
                self._release(held)
            held.move_to_end((file.path, group))
            return found

    def _release(self, held: OrderedDict[tuple[Path, int], pa.ChunkedArray]) -> None:
        """Lets go of the oldest groups that the window does not reach."""
        rows = sum(map(len, held.values()))
        while len(held) > HELD and rows - len(next(iter(held.values()))) >= self.window + len(
            next(reversed(held.values()))
        ):
            rows -= len(held.popitem(last=False)[1])


class ParquetColumns:
    """A Parquet file.

    Args:
        ends: rows up to the end of each row group.
    """

    format = "Parquet file"

    def __init__(self, path: Path, ends: list[int], groups: RowGroups):
        self.path = path
        self.ends = ends
        self.groups = groups

    def column(self, name: str) -> pa.ChunkedArray:
        return pq.ParquetFile(self.path).read(columns=[name]).column(0)

    def cell(self, name: str, row: int) -> Any:
        group = self.group(row)
        return self.groups.get(self, name, group)[row - (self.ends[group - 1] if group else 0)].as_py()

    def group(self, row: int) -> int:
        """The row group that a row lies in."""
        return bisect_right(self.ends, row)


def read_parquet(path: Path, groups: RowGroups | None = None) -> Table:
    """A Parquet file, of which nothing but its footer is read yet.

    Raises:
        DataError: it is damaged.
    """
    columns = ParquetColumns(path, [], groups or RowGroups())
    try:
        file = pq.ParquetFile(path)
        schema, metadata = file.schema_arrow, file.metadata
        columns.ends = list(accumulate(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)))
    except DAMAGE as error:
        raise damaged(columns, error) from None
    rows = ArrowRows(columns, schema, columns.ends[-1] if columns.ends else 0)
    return Table(path, list(schema.names), rows, format="a Parquet table")
