"""Digests of files, remembered by path, size and modification time, so that no file is hashed twice."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

SETTLED_NANOSECONDS = 2_000_000_000
"""A file that was changed less than this ago may change again within one tick of its clock: it is not remembered."""
FAILURES = (sqlite3.Error, OSError, RuntimeError, UnicodeError)
"""Of the memory; hashing anew is only slower."""
_TABLE = "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, sha256 TEXT)"


class FileState(NamedTuple):
    """What tells whether a file is still the one that was hashed."""

    path: str
    size: int
    changed: int
    """Time of the last change, in ns."""


def file_state(path: Path) -> FileState:
    """The state of a file, taken before its content is read.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return FileState(os.path.abspath(path), found.st_size, found.st_mtime_ns)


def recall_digests(states: Sequence[FileState]) -> list[str | None]:
    """The SHA-256 of each file, if it is remembered in this state."""
    query = "SELECT sha256 FROM digests WHERE path = ? AND size = ? AND changed = ?"
    try:
        with closing(connect()) as memory:
            rows = [memory.execute(query, state).fetchone() for state in states]
    except FAILURES:
        return [None] * len(states)
    return [None if row is None else row[0] for row in rows]


def remember_digests(digests: Iterable[tuple[FileState, str]]) -> None:
    """Remembers files that have not changed for a while; without a word where nothing can be written."""
    latest = time.time_ns() - SETTLED_NANOSECONDS
    rows = [(*state, digest) for state, digest in digests if state.changed < latest]
    if not rows:
        return
    with suppress(*FAILURES), closing(connect()) as memory:
        memory.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)
        memory.commit()


def connect() -> sqlite3.Connection:
    """What is remembered between runs.

    Raises:
        sqlite3.Error, OSError, RuntimeError: nothing can be remembered here; see `FAILURES`.
    """
    folder = Path(os.environ.get("T2IALIGN_CACHE") or Path("~/.cache/t2ialign").expanduser())
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "digests.sqlite", timeout=5)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(_TABLE)
    return connection
