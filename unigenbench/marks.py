"""Verdicts of one image each, under the names that scores are counted by."""

from __future__ import annotations

from typing import NamedTuple

from unigenbench.errors import DataError
from unigenbench.types import Judgement, Prompt, RunLog

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
    prompts = {prompt.index: prompt for prompt in log.prompts.prompts}
    marks = {}
    for judgement in log.judgements:
        if judgement.status == "ok":
            prompt = _prompt(log, prompts, judgement)
            criteria = tuple(point.criterion for point in prompt.points)
            marks[cell_of(judgement)] = Mark(criteria, tuple(verdict == 1 for verdict in judgement.verdicts or ()))
    return marks


def _prompt(log: RunLog, prompts: dict[int, Prompt], judgement: Judgement) -> Prompt:
    prompt = prompts.get(judgement.prompt_index)
    if prompt is None:
        raise DataError(f"{log.path}: {judgement.key}: the run's prompts have no index {judgement.prompt_index}")
    if len(judgement.verdicts or ()) != len(prompt.points):
        raise DataError(
            f"{log.path}: {judgement.key}: {len(judgement.verdicts or ())} verdicts for {len(prompt.points)} test "
            "points; delete the line, and `unigenbench judge` asks again"
        )
    return prompt


def images_per_prompt(log: RunLog) -> int:
    """How many images each prompt of a complete run has: as the manifest says, else as many as were seen."""
    said = (log.manifest.get("images") or {}).get("per_prompt")
    if said:
        return int(said)
    return max((judgement.image_index + 1 for judgement in log.judgements), default=OFFICIAL_IMAGES)


def samples_per_image(log: RunLog) -> int:
    """How often each image of a complete run is judged."""
    return int((log.manifest.get("images") or {}).get("samples") or 1)
