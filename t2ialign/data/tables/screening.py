"""Rows that could be used and perhaps should not: the same image twice, repeated rows, small images, unsafe ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from t2ialign.data.account import DUPLICATE, IDENTICAL, NSFW, TOO_SMALL, UNREADABLE, Problem
from t2ialign.data.base import Example
from t2ialign.data.images import ImageDigests, ImageLocation, in_threads, open_image
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import number_of, shown
from t2ialign.data.tables.columns import Columns, match_column
from t2ialign.data.tables.table import Row, Table
from t2ialign.errors import DataError
from t2ialign.progress import track

SAFE = ("", "false", "no", "sfw", "safe", "unlikely", "none", "nan")
UNSAFE_SHARE = 0.5
"""A probability of being unsafe from which on a row is."""


class ImageFacts(NamedTuple):
    """What is known of an image that was decoded."""

    digest: bytes
    """Of its file's content."""
    size: tuple[int, int]
    """(width, height) in px"""


Facts = tuple[ImageFacts, ...]
"""Of the images of an example."""


def examine(examples: Sequence[Example], digests: ImageDigests) -> list[Facts | Problem]:
    """The facts of each example's images, or why they cannot be used; decodes them whole."""

    def facts(example: Example) -> Facts | Problem:
        found = []
        for image in example.images:
            try:
                opened = open_image(image, digests)
                found.append(ImageFacts(_content_digest(image, digests), opened.size))
            except DataError as error:
                where = f"{image}: " if not isinstance(image, bytes) else ""
                return Problem(example.origin, UNREADABLE, f"{where}{error}")
        return tuple(found)

    return list(track(in_threads(facts, examples), "checking images", len(examples)))


def _content_digest(image: ImageLocation, digests: ImageDigests) -> bytes:
    if isinstance(image, Path):
        return bytes.fromhex(digests[image])
    return hashlib.sha256(image if isinstance(image, bytes) else image.read()).digest()


def row_screen(table: Table, columns: Columns) -> Callable[[Row], Problem | None] | None:
    """What tells rows that say of themselves that they are unsafe, or that their two images are one; None if no column
    says so."""
    nsfw = match_column(table, role.NSFW, columns)
    different = match_column(table, role.ARE_DIFFERENT, columns)
    if nsfw is None and different is None:
        return None

    def screen(row: Row) -> Problem | None:
        if nsfw is not None and _is_unsafe(row.cells.get(nsfw)):
            return Problem(row.origin, NSFW, f"{nsfw} is {shown(row.cells.get(nsfw))}")
        if different is not None and str(row.cells.get(different)).strip().lower() in ("false", "0"):
            return Problem(row.origin, IDENTICAL, f"{different} is {shown(row.cells.get(different))}")
        return None

    return screen


def _is_unsafe(value: object) -> bool:
    """Whether a cell flags its row; what is not understood does, as nobody would read it otherwise."""
    if value is None:
        return False
    number = number_of(value)
    if number is not None:
        return number >= UNSAFE_SHARE
    return str(value).strip().lower() not in SAFE


def screen_examples(
    examples: Sequence[Example], facts: Sequence[Facts] | None, min_side: int | None
) -> list[Problem | None]:
    """For each example why it perhaps should not be used, or None.

    Args:
        facts: of each example, if its images were decoded; else images are told apart by their paths.
        min_side: the shorter side of an image in px, from which on it is large enough.
    """
    images = examples[0].images if len(examples) else ()
    if not images or (facts is None and not all(isinstance(image, Path) for image in images)):
        return [None] * len(examples)
    seen: dict[Hashable, str] = {}
    return [_doubt(example, facts[place] if facts else None, min_side, seen) for place, example in enumerate(examples)]


def _doubt(example: Example, facts: Facts | None, min_side: int | None, seen: dict[Hashable, str]) -> Problem | None:
    for image, fact in zip(example.images, facts or (), strict=False):
        if min_side is not None and min(fact.size) < min_side:
            width, height = fact.size
            return Problem(example.origin, TOO_SMALL, f"{image} is {width} x {height} px, data.min_side {min_side}")
    keys = example.images if facts is None else tuple(fact.digest for fact in facts)
    if len(keys) == 2 and keys[0] == keys[1]:
        return Problem(example.origin, IDENTICAL, f"both are {example.images[0]}")
    before = seen.setdefault((example.prompts, keys), example.origin)
    return None if before is example.origin else Problem(example.origin, DUPLICATE, f"repeats {before}")
