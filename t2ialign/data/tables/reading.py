"""Reads tables by their ending, and the shards of a folder as one table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from t2ialign.data.tables.parts import SUFFIXES, find_parts
from t2ialign.data.tables.table import Table, is_file, join_tables
from t2ialign.data.tables.text_tables import read_csv, read_json, read_jsonl
from t2ialign.errors import DataError, InputError

TEXT_READERS = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".json": read_json}


def read_table(path: Path) -> Table:
    """The table in a file.

    Raises:
        InputError: no such file, or not a kind of table that is read.
        DataError: its content is not what its suffix says, or it has no rows.
    """
    return _with_rows(_read_files([path])[0])


def read_tables(folder: Path, split: str | None = None, shards: int | None = None) -> Table | None:
    """The table of a folder, or None if it holds none.

    Args:
        split: which part of the data set, where the folder holds several.
        shards: how many of its files, in order; default: all.

    Raises:
        InputError: a file cannot be read.
        DataError: as `read_table`; or the folder holds several tables or splits.
    """
    parts = find_parts(folder, split, shards)
    if parts is None:
        return None
    tables = _read_files(parts.files)
    table = _with_rows(join_tables(tables[0].path if len(tables) == 1 else folder, tables))
    words = [parts.layout, table.format, f"split '{parts.split}'" if parts.split else ""]
    return table._replace(unused=(*table.unused, *parts.others), format=", ".join(word for word in words if word))


def _with_rows(table: Table) -> Table:
    if not table.rows:
        raise DataError(f"{table.path}: has no rows{' below its header' if table.columns else ''}")
    return table


def _read_files(files: list[Path]) -> list[Table]:
    readers: dict[str, Callable[[Path], Table]] = {}
    tables = []
    for path in files:
        if not is_file(path):
            raise InputError(f"{path}: no such file")
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            unpacked = "; unpack it and give the .tar" if ".tar" in path.name.lower() else ""
            raise InputError(f"{path}: tables end in {', '.join(SUFFIXES)}; this ends in '{path.suffix}'{unpacked}")
        if suffix not in readers:
            readers[suffix] = TEXT_READERS.get(suffix) or _shard_reader(suffix)
        try:
            tables.append(readers[suffix](path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return tables


def _shard_reader(suffix: str) -> Callable[[Path], Table]:
    """What reads shards with an ending; Parquet files of one reader share what is held of their images."""
    if suffix == ".tar":
        from t2ialign.data.tables.webdataset import read_tar

        return read_tar
    if suffix == ".arrow":
        from t2ialign.data.tables.arrow import read_arrow  # pyarrow is slow to import

        return read_arrow
    from t2ialign.data.tables.parquet import RowGroups, read_parquet

    return partial(read_parquet, groups=RowGroups())
