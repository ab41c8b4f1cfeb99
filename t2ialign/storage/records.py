"""The record that a finished folder keeps: which settings it was made with, and what became of everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from t2ialign.errors import DataError, InputError
from t2ialign.storage.atomic import atomic_write

Read = TypeVar("Read")
OPAQUE = {"images": "other images", "data": "other data"}
"""Settings whose values are checksums, and how a difference in them is told."""


def write_record(path: Path, settings: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Writes the record; the last step of whoever makes the folder."""
    with atomic_write(path) as partial:
        record = {"settings": settings, **content}
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")


def read_record(
    path: Path, settings: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Read], *, whole: Path
) -> Read | None:
    """What `read` makes of the record that an earlier call with equal settings left, or None if none came to its end.

    Args:
        path: the record.
        settings: of this call; None and a missing key are the same.
        read: takes the record.
        whole: the table without which the folder is not finished.

    Raises:
        InputError: the settings were others.
        DataError: the record is damaged.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        before, content = record["settings"], read(record)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the record of a finished folder ({error!r}); remove it and start again") from None
    differing = [key for key in {**settings, **before} if settings.get(key) != before.get(key)]
    if differing:
        key = differing[0]
        seen = OPAQUE.get(key, f"{key} {before.get(key)!r}, not {settings.get(key)!r}")
        remove = path.parent if key in OPAQUE else path
        raise InputError(f"{path.parent}: was built with {seen}; give another folder, or remove {remove}")
    return content if whole.is_file() else None
