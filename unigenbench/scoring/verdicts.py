"""Verdicts of one image each, under the names that scores are counted by."""

from __future__ import annotations

from typing import NamedTuple

from unigenbench.errors import DataError
from unigenbench.types import Judgement, RunLog

OFFICIAL_IMAGES = 4
"""Images per prompt of the official benchmark."""


class Cell(NamedTuple):
    """One judgement's place in a run."""

    prompt_index: int
    image_index: int
    sample: int = 0
    """counts the judgements of one image, where a run asks more than once"""


class Mark(NamedTuple):
    """The verdicts on one image."""

    criteria: tuple[str, ...]
    """ids, one for each test point that counts"""
    met: tuple[bool, ...]


def cell_of(judgement: Judgement) -> Cell:
    """Where a judgement belongs; its key ends in the number of the sample."""
    sample = judgement.key.rpartition("/")[2]
    return Cell(judgement.prompt_index, judgement.image_index, int(sample) if sample.isdigit() else 0)


def native_marks(log: RunLog) -> dict[Cell, Mark]:
    """What was judged; a test point's verdict is the one at its position.

    Raises:
        DataError: a judgement fits no prompt of the run.
    """
    check_log(log)
    criteria = {p.index: tuple(point.criterion for point in p.points) for p in log.prompts.prompts}
    return {
        cell_of(judgement): Mark(criteria[judgement.prompt_index], tuple(v == 1 for v in judgement.verdicts or ()))
        for judgement in log.judgements
        if judgement.status == "ok"
    }


def check_log(log: RunLog) -> None:
    """Raises DataError unless every judgement is of a prompt of the run, with a verdict for each of its test points."""
    points = {prompt.index: len(prompt.points) for prompt in log.prompts.prompts}
    for judgement in log.judgements:
        where, needed = f"{log.path}: {judgement.key}", points.get(judgement.prompt_index)
        if needed is None:
            raise DataError(f"{where}: the run's prompts have no index {judgement.prompt_index}")
        given = len(judgement.verdicts or ())
        if judgement.status == "ok" and given != needed:
            found = f"{given} verdicts for {needed} test points"
            raise DataError(f"{where}: {found}; delete the line, and `unigenbench judge` asks again")


def images_per_prompt(log: RunLog) -> int:
    """How many images each prompt of a complete run has: as the manifest says, else as many as were seen."""
    said = (log.manifest.get("images") or {}).get("per_prompt")
    if said:
        return int(said)
    return max((judgement.image_index + 1 for judgement in log.judgements), default=OFFICIAL_IMAGES)


def samples_per_image(log: RunLog) -> int:
    """How often each image of a complete run is judged."""
    return int((log.manifest.get("images") or {}).get("samples") or 1)
