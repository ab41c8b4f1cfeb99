"""Arrow files, as the `datasets` library saves and caches them, read through memory maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from t2ialign.data.tables.arrow_rows import DAMAGE, ArrowRows, damaged
from t2ialign.data.tables.table import Table
from t2ialign.errors import DataError


class MappedColumns:
    """An Arrow file; its pages are the system's, not the process's."""

    format = "Arrow file"

    def __init__(self, path: Path):
        self.path = path
        self._table: pa.Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}  # another process maps the file itself

    @property
    def table(self) -> pa.Table:
        if self._table is None:
            mapped = pa.memory_map(str(self.path))
            try:
                self._table = pa.ipc.open_stream(mapped).read_all()
            except pa.ArrowInvalid:  # the other of Arrow's two formats
                self._table = pa.ipc.open_file(mapped).read_all()
        return self._table

    def column(self, name: str) -> pa.ChunkedArray:
        return self.table.column(name)

    def cell(self, name: str, row: int) -> Any:
        return self.table.column(name)[row].as_py()

    def group(self, row: int) -> int:
        return 0


def read_arrow(path: Path) -> Table:
    """An Arrow file, of which nothing but its schema is read yet.

    Raises:
        DataError: it is damaged.
    """
    file = MappedColumns(path)
    try:
        table = file.table
        rows = ArrowRows(file, table.schema, table.num_rows)
    except DAMAGE as error:
        raise damaged(file, error) from None
    return Table(path, list(table.schema.names), rows, format="an Arrow table")


def saved_files(folder: Path) -> list[Path] | None:
    """The files of a data set that `datasets` saved in a folder, in order; None if there is none.

    Raises:
        DataError: its description is damaged.
    """
    path = folder / "state.json"
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not the state.json of a saved data set (no _data_files); save it again") from None
