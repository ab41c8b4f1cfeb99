"""What the cells of a row hold: prompts, numbers, and where images lie."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from t2ialign.data.account import NO_IMAGE, NO_PROMPT, NO_SCORE, NO_TEXT, Problem
from t2ialign.data.base import Example, StoredImage
from t2ialign.data.tables.table import Row, is_file

SHOWN_CHARACTERS = 40
"""Characters of a cell that a message repeats."""
NOT_A_NUMBER = ("nan", "<na>")
"""What pandas writes for an empty cell, in lower case."""


def first_view(outcome: Example | Problem) -> Example | Problem:
    """An example of the first view alone; a problem stays one."""
    if isinstance(outcome, Problem):
        return outcome
    scores = None if outcome.scores is None else outcome.scores[:1]
    return Example(outcome.prompts[:1], outcome.images[:1], scores, outcome.origin)


def number_of(value: Any) -> float | None:
    """The finite number a cell holds, or None."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """A cell as a message repeats it: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def read_prompt(row: Row, column: str) -> str | Problem:
    """The prompt in a column, without surrounding blanks, or why there is none."""
    text = row.cells.get(column)
    if not isinstance(text, str) or not text.strip():
        return Problem(row.origin, NO_PROMPT, f"{column} is empty")
    if text.strip().lower() in NOT_A_NUMBER:
        return Problem(row.origin, NO_PROMPT, f"{column} is {shown(text)}, which pandas writes for an empty cell")
    if re.search("[\ud800-\udfff]", text):
        return Problem(row.origin, NO_TEXT, f"{column} holds half of a surrogate pair: {shown(ascii(text))}")
    return text.strip()


def read_example(row: Row, prompt: str, views: tuple[str, ...], scores: tuple[str, ...] | None) -> Example | Problem:
    """The example of a row, or what it lacks.

    Args:
        prompt: the column of the prompt.
        views: the columns of the images.
        scores: the columns of the scores, one a view.
    """
    text = read_prompt(row, prompt)
    if isinstance(text, Problem):
        return text
    images: list[Path | StoredImage] = []
    for column in views:
        image = _image(row, column)
        if isinstance(image, Problem):
            return image
        images.append(image)
    if scores is None:
        return Example((text,), tuple(images), None, row.origin)
    values: list[float] = []
    for column in scores:
        value = number_of(row.cells.get(column))
        if value is None:
            return Problem(row.origin, NO_SCORE, f"{column} is {shown(row.cells.get(column))}")
        values.append(value)
    return Example((text,), tuple(images), tuple(values), row.origin)


def _image(row: Row, column: str) -> Path | StoredImage | Problem:
    """Where a view's image lies."""
    value = row.cells.get(column)
    if isinstance(value, dict):  # as data-set libraries write an image that lies beside the table
        value = value.get("path")
    if isinstance(value, StoredImage):
        return value
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return Problem(row.origin, NO_IMAGE, f"{column} is empty")
    if not isinstance(value, str):
        return Problem(row.origin, NO_IMAGE, f"{column} is {shown(value)}, which names no file")
    path = row.folder / value.strip()
    if is_file(path):
        return path
    if len(value) > 1000:
        detail = f"{column} is no path but {len(value):,} characters, {value[:20]!r}…; write the image into a file"
        return Problem(row.origin, NO_IMAGE, detail)
    return Problem(row.origin, NO_IMAGE, f"{column}: no such image {path}")
