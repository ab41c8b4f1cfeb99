"""Sizes of the images of a data set, from the heads of their files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from t2ialign.data.account import UNREADABLE, Problem, unusable_rows_error
from t2ialign.data.base import Example, Source
from t2ialign.data.images import ImageLocation, image_size, in_threads
from t2ialign.errors import DataError
from t2ialign.progress import track
from t2ialign.storage.digest_memory import FileState, file_state
from t2ialign.storage.size_memory import Size, recall_sizes, remember_sizes

Key = tuple[Path, str] | bytes
"""The file of an image and its place there, or the image itself."""


def find_sizes(source: Source) -> list[list[Size]]:
    """(width, height) of the images of each example, without the padding of lists; remembered between runs.

    Raises:
        DataError: images are missing or damaged; counts them and names the first.
    """
    keys = [[_key(image) for image in _images(source[row])] for row in range(len(source))]
    states = _states(keys)
    known = _recalled(states)
    found = [[known.get(key) for key in row] for row in keys]
    unknown = [row for row, sizes in enumerate(found) if None in sizes]
    read = in_threads(_read, (source[row] for row in unknown))
    problems: list[Problem] = []
    new: dict[Key, Size] = {}
    for row, sizes in zip(unknown, track(read, "reading the sizes of images", len(unknown)), strict=True):
        if isinstance(sizes, Problem):
            problems.append(sizes)
        else:
            new.update(sizes)
            found[row] = [size for _, size in sizes]
    if problems:
        raise unusable_rows_error("data", len(source), problems)
    places = ((key, size) for key, size in new.items() if not isinstance(key, bytes) and key[0] in states)
    remember_sizes((states[file], place, size) for (file, place), size in places)
    return [[size for size in sizes if size is not None] for sizes in found]


def _images(example: Example) -> tuple[ImageLocation, ...]:
    return example.images[: example.present]


def _read(example: Example) -> list[tuple[Key, Size]] | Problem:
    found: list[tuple[Key, Size]] = []
    for image in _images(example):
        try:
            found.append((_key(image), image_size(image)))
        except DataError as error:
            where = "" if isinstance(image, bytes) else f"{image}: "
            return Problem(example.origin, UNREADABLE, f"{where}{error}")
    return found


def _key(image: ImageLocation) -> Key:
    if isinstance(image, bytes):
        return image
    return (image, "") if isinstance(image, Path) else (image.file, image.place)


def _states(keys: list[list[Key]]) -> dict[Path, FileState]:
    """The state of each file that holds images, before it is read; of files that are there."""
    found: dict[Path, FileState] = {}
    for file in dict.fromkeys(key[0] for row in keys for key in row if not isinstance(key, bytes)):
        with suppress(OSError):  # reading the image says what is wrong
            found[file] = file_state(file)
    return found


def _recalled(states: dict[Path, FileState]) -> dict[Key, Size]:
    recalled = recall_sizes(states.values())
    return {
        (file, place): size for file, state in states.items() for place, size in recalled.get(state.path, {}).items()
    }
