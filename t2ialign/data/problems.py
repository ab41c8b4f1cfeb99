"""Rows that cannot be used: found, counted, and told in one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from t2ialign.data.base import Example
from t2ialign.data.images import open_image
from t2ialign.errors import DataError
from t2ialign.progress import track

NO_PROMPT = "prompt missing"
NO_IMAGE = "image missing"
UNREADABLE = "image unreadable"
NO_LABEL = "label not understood"
NO_SCORE = "score not a number"
SAME_PROMPT = "both prompts are equal"
TIE = "tie"


class Problem(NamedTuple):
    """Why a row is not used."""

    origin: str
    """file:line"""
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.detail}"


def threads() -> int:
    """Threads for reading images, which wait for the disk and decode outside the interpreter's lock."""
    return min(8, os.cpu_count() or 1)


def image_problem(example: Example) -> Problem | None:
    """Why an example's images cannot be used; decodes them whole."""
    for image in example.images:
        try:
            open_image(image)
        except DataError as error:
            where = f"{image}: " if not isinstance(image, bytes) else ""
            return Problem(example.origin, UNREADABLE, f"{where}{error}")
    return None


def unreadable(examples: Sequence[Example]) -> list[Problem | None]:
    """For each example, why its images cannot be used, or None."""
    with ThreadPoolExecutor(threads()) as pool:
        return list(track(pool.map(image_problem, examples), "checking images", len(examples)))


def refusal(what: Path | str, rows: int, problems: Sequence[Problem]) -> DataError:
    """The error that names the first row of each kind of problem, and what to do."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.reason, []).append(problem)
    told = "".join(f"\n  {len(some)} x {reason}, first: {some[0]}" for reason, some in kinds.items())
    usable = rows - len(problems)
    remedy = f"correct them, or set data.on_bad=drop to go on with {usable:,}" if usable else "correct them"
    return DataError(f"{what}: {len(problems):,} of {rows:,} rows cannot be used; {remedy}:{told}")
