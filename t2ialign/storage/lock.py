"""Locks that keep other processes out of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from t2ialign.errors import InputError

LOCK_FILE = ".lock"


@contextmanager
def lock_folder(folder: Path, *, busy: str | None = None) -> Iterator[None]:
    """Makes the folder if it is not there, and holds its lock; the end of the process frees it, also a kill.

    Forked children, such as loader workers, give their copy of the lock up as they start, so they hold nothing when the
    process that made them is killed.

    Args:
        busy: what is said if another process holds the lock; default: wait until it is free.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, blocking=busy is None)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: {busy}") from None
    try:
        yield
    finally:
        lock.release()
