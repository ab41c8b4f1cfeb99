"""Sizes of images, remembered by the state of the file they lie in, so that no header is read twice."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing, suppress

from t2ialign.storage.digest_memory import FAILURES, SETTLED_NANOSECONDS, FileState, connect

Size = tuple[int, int]
"""(width, height) in px"""
_TABLE = """CREATE TABLE IF NOT EXISTS sizes
    (path TEXT, place TEXT, size INTEGER, changed INTEGER, width INTEGER, height INTEGER, PRIMARY KEY (path, place))"""


def recall_sizes(states: Iterable[FileState]) -> dict[str, dict[str, Size]]:
    """path -> place in the file -> size, of the images of some files that are remembered in this state."""
    query = "SELECT place, width, height FROM sizes WHERE path = ? AND size = ? AND changed = ?"
    found: dict[str, dict[str, Size]] = {}
    with suppress(*FAILURES), closing(connect()) as memory:
        memory.execute(_TABLE)
        for state in states:
            found[state.path] = {place: (width, height) for place, width, height in memory.execute(query, state)}
    return found


def remember_sizes(sizes: Iterable[tuple[FileState, str, Size]]) -> None:
    """Remembers images in files that have not changed for a while; without a word where nothing can be written.

    Args:
        sizes: state of the file, place in it, size.
    """
    latest = time.time_ns() - SETTLED_NANOSECONDS
    rows = [
        (state.path, place, state.size, state.changed, *size) for state, place, size in sizes if state.changed < latest
    ]
    if not rows:
        return
    with suppress(*FAILURES), closing(connect()) as memory:
        memory.execute(_TABLE)
        memory.executemany("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?, ?, ?, ?)", rows)
        memory.commit()
