"""Brings images into the folder beside a table that names them: once all else has worked, and over nothing there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from t2ialign.data.tables.folders import unnamed_images
from t2ialign.errors import InputError
from t2ialign.feedback.pictures import Picture
from t2ialign.storage.atomic import atomic_write, link_or_copy


def check_adoptable(pictures: Sequence[Picture], folder: Path) -> None:
    """Checks that the folder holds no other images than these, of which a call that was cut may have left some.

    Raises:
        InputError: it holds another image, or two different images have the same name.
        DataError: an image cannot be read.
    """
    named: dict[str, Picture] = {}
    for picture in pictures:
        other = named.setdefault(picture.name, picture)
        if other.image != picture.image:
            raise InputError(f"{picture} and {other} would both be {folder / picture.name}; rename one of them")
    if not folder.exists():
        return
    strangers = [problem.origin for problem in unnamed_images(folder, (folder / name for name in named))]
    strangers += [str(folder / name) for name, picture in named.items() if _is_another(folder / name, picture)]
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise InputError(f"{folder}: holds other images ({strangers[0]}{more}); remove them, or give another folder")


def _is_another(path: Path, picture: Picture) -> bool:
    """Whether something other than the picture stands at its place."""
    return os.path.lexists(path) and not (path.is_file() and path.read_bytes() == picture.read())


def adopt(pictures: Sequence[Picture], folder: Path) -> None:
    """Brings pictures into the folder under their names: as links where the file system allows, else as copies.

    Raises:
        InputError, DataError: as `check_adoptable`.
        TryAgainError: the disk is full.
    """
    check_adoptable(pictures, folder)
    for picture in pictures:
        there = folder / picture.name
        if there.exists():
            continue
        if isinstance(picture.image, Path):
            link_or_copy(picture.image, there)
        else:
            with atomic_write(there) as partial:
                partial.write_bytes(picture.read())
