"""Files of a run folder: written whole or not at all, appended to line by line, held by one process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unigenbench.errors import TryAgainError, file_problem

LOCK = "lock"
OWNER = "lock.owner"
"""Process and host that hold the lock, for the message of another process."""
SYNC_LINES = 64
SYNC_SECONDS = 1.0


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns what the file system refuses into a message with the place, also where the system names no file.

    Raises:
        TryAgainError: the disk is full.
        ServerError, InputError: the place cannot be used: no rights, a file in the way, ...
    """
    try:
        yield
    except OSError as error:
        named = OSError(error.errno, error.strerror or str(error), str(place))
        raise file_problem(named) or error from error


def atomic_write(path: Path, text: str) -> None:
    """Writes a file whole or not at all; see `write_together`."""
    write_together({path: text})


def write_together(files: Mapping[Path, str]) -> None:
    """Writes all of the files or none, and leaves nothing else behind: temporary names, fsync, then rename.

    Lone surrogates, which no file can hold, are written as \\udXXX, their form in JSON.

    Raises:
        TryAgainError, InputError: as `disk_errors`.
    """
    partials = {path: path.with_name(f".{path.name}.partial") for path in files}
    try:
        for path, partial in partials.items():
            with disk_errors(path), partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            with disk_errors(path):
                partial.replace(path)
    finally:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink()


def lock_folder(folder: Path) -> FileLock:
    """Locks a folder until `release()` or the end of the process, however it ends.

    Raises:
        TryAgainError: another process holds the lock.
        InputError: the folder cannot be written.
    """
    lock, owner = FileLock(folder / LOCK), folder / OWNER
    with disk_errors(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            seen = owner.read_text(encoding="utf-8").strip() if owner.is_file() else ""
            raise TryAgainError(f"{folder}: in use by process {seen or 'unknown'}; wait for it, or stop it") from error
        owner.write_text(f"{os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock


def archive_folder(folder: Path) -> Path | None:
    """Renames a run folder to a free name beside it, as what was paid for is not deleted; None where there is none.

    Raises:
        TryAgainError: another process holds the lock.
    """
    if not folder.exists():
        return None
    lock_folder(folder).release()
    number = 1
    while (archived := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with disk_errors(archived):
        folder.rename(archived)
    return archived


class LineLog:
    """An append-only file of lines. A line survives a kill at once, and a power cut a second later."""

    def __init__(self, path: Path):
        """Opens or makes the file; truncates a last line that a kill cut, so that the next one starts on its own."""
        self.path = path
        with disk_errors(path):
            self._file = path.open("ab+", buffering=0)
        try:
            self._truncate_partial_line()
        except BaseException:
            self._file.close()
            raise
        self._unsynced, self._synced_at = 0, time.monotonic()

    def append(self, line: str) -> None:
        """Writes one line, whole or not at all.

        Raises:
            TryAgainError: the disk is full.
            InputError: the file can no longer be written.
        """
        start, rest = self._file.seek(0, os.SEEK_END), line.encode(errors="backslashreplace") + b"\n"
        with disk_errors(self.path):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(start)
                raise
            self._unsynced += 1
            if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
                self._sync()

    def close(self) -> None:
        """Forces what was written to disk and closes the file."""
        try:
            with disk_errors(self.path):
                self._sync()
        finally:
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _truncate_partial_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        end = self._last_line_end(size)
        if end < size:
            self._file.truncate(end)

    def _last_line_end(self, size: int, block: int = 1 << 16) -> int:
        """Position after the last line feed; 0 where there is none."""
        start = size
        while start > 0:
            start, stop = max(0, start - block), start
            self._file.seek(start)
            place = self._file.read(stop - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
        return 0
