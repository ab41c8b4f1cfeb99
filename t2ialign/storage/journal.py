"""Files that only grow, a line an entry, and survive a kill."""

from __future__ import annotations

import os
from pathlib import Path

from t2ialign.errors import TryAgainError
from t2ialign.storage.atomic import is_full_disk


def append_lines(path: Path, text: str) -> None:
    """Appends whole lines and waits until they are on disk.

    Raises:
        TryAgainError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_full_disk(error):
            raise TryAgainError(f"{path}: the disk is full; free some space and run the same again") from error
        raise


def truncate_partial_line(path: Path) -> None:
    """Removes what follows the last line end, as a kill leaves it, so that the next line starts on its own."""
    if path.is_file():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
