"""An append-only file of entries that are looked up by key: what was paid for is kept, whatever fails later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter

from t2ialign.errors import DataError, TryAgainError
from t2ialign.storage.atomic import is_full_disk

Entry = TypeVar("Entry", bound=NamedTuple)
Key = TypeVar("Key", bound=Hashable)


class Journal(Generic[Entry, Key]):
    """Entries on disk, a JSON object a line. The last entry of a key is the one found.

    A line that a kill cut short is removed when the journal is opened. Threads may share a journal.

    Args:
        path: the file; it and its folder are made when they are missing.
        entry: the type of an entry, a NamedTuple whose fields are the keys of the JSON object.
        key: the key of an entry.

    Raises:
        OSError: the folder cannot be written to.
        DataError: a line is not an entry.
    """

    def __init__(self, path: Path, entry: type[Entry], key: Callable[[Entry], Key]):
        self.path = path
        self._key = key
        self._lock = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            if is_full_disk(error):
                raise _disk_is_full(path) from error
            raise
        _remove_torn_line(path)
        self._entries = {key(found): found for found in read_entries(path, entry)}

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """The last entry with this key."""
        return self._entries.get(key)

    def __iter__(self) -> Iterator[Entry]:
        """The last entry of each key, in the order in which the keys came."""
        return iter(self._entries.values())

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries and returns when they are on disk.

        Raises:
            TryAgainError: the disk is full.
        """
        new = list(entries)
        if not new:
            return
        try:
            with self._lock, self.path.open("a", encoding="utf-8") as file:
                file.write(format_entries(new))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if is_full_disk(error):
                raise _disk_is_full(self.path) from error
            raise
        self._entries |= {self._key(entry): entry for entry in new}

    def remove(self) -> None:
        """Removes the file, once its content stands elsewhere."""
        self.path.unlink(missing_ok=True)


def format_entries(entries: Iterable[NamedTuple]) -> str:
    """The lines of entries, a JSON object each."""
    return "".join(_line(entry._asdict()) + "\n" for entry in entries)


def _line(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(row)  # lone surrogates cannot be written as UTF-8


def read_entries(path: Path, entry: type[Entry], *, whole_lines: bool = False) -> list[Entry]:
    """The entries of a file of JSON lines, in order; none where there is no file. Other keys of a line are ignored.

    Args:
        whole_lines: leave out what follows the last line end, in a file that is still written.

    Raises:
        DataError: a line is not an entry.
    """
    if not path.is_file():
        return []
    fields = TypeAdapter(entry)
    found = []
    content = path.read_bytes()
    if whole_lines:
        content = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
            found.append(fields.validate_python({field: row[field] for field in entry._fields}))
        except (ValueError, KeyError, TypeError, RecursionError):  # pydantic's errors are ValueErrors
            raise DataError(
                f"{path}:{number}: not an entry with {', '.join(entry._fields)}; remove the line, or the file"
            ) from None
    return found


def _disk_is_full(path: Path) -> TryAgainError:
    return TryAgainError(f"{path}: the disk is full; free some space and run the same command again")


def _remove_torn_line(path: Path) -> None:
    """Removes what follows the last line end."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
