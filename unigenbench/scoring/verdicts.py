"""Verdicts of one image each, under the names that scores are counted by."""

from __future__ import annotations

from typing import NamedTuple

from unigenbench.errors import DataError
from unigenbench.types import Judgement, RunLog


class ImageKey(NamedTuple):
    """Which image of a run a judgement is of, and which of its samples."""

    prompt_index: int
    image_index: int
    sample: int
    """counts the judgements of one image, where a run asks more than once"""


class ImageVerdicts(NamedTuple):
    """The verdicts on one image."""

    criteria: tuple[str, ...]
    """ids, one for each test point that counts"""
    met: tuple[bool, ...]


def image_key(judgement: Judgement) -> ImageKey:
    """What a judgement is of; its own key ends in the number of the sample."""
    sample = judgement.key.rpartition("/")[2]
    return ImageKey(judgement.prompt_index, judgement.image_index, int(sample) if sample.isdecimal() else 0)


def verdicts_by_image(log: RunLog) -> dict[ImageKey, ImageVerdicts]:
    """The verdicts of a run by our own rules: a test point's verdict is the one at its position.

    Raises:
        DataError: a judgement fits no prompt of the run.
    """
    check_log(log)
    criteria = {p.index: tuple(point.criterion for point in p.points) for p in log.prompts.prompts}
    return {
        image_key(judgement): ImageVerdicts(criteria[judgement.prompt_index], tuple(v == 1 for v in verdicts))
        for judgement in log.judgements
        if judgement.status == "ok" and (verdicts := judgement.verdicts) is not None
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
            raise DataError(f"{where}: {found}; delete the line, and repeat the command that judged it")
