"""What run.json says that scores depend on or are named by."""

from __future__ import annotations

from pathlib import Path

from unigenbench.errors import DataError
from unigenbench.types import RunLog

MOST_IMAGES = 10_000
"""Images per prompt that are scored."""


def images_per_prompt(log: RunLog) -> int:
    """How many images each prompt of a complete run has.

    Raises:
        DataError: none, or more than any run has; tables have a column for each.
    """
    number = log.manifest["images"]["per_prompt"]
    if not 1 <= number <= MOST_IMAGES:
        raise DataError(f"{log.path}: {number} images per prompt; 1 to {MOST_IMAGES} can be scored, mend run.json")
    return number


def samples_per_image(log: RunLog) -> int:
    """How often each image of a complete run is judged."""
    return int(log.manifest["images"].get("samples") or 1)


def judge_model(log: RunLog) -> str | None:
    """The model that judged; the judge's own name where it names no model."""
    judge = log.manifest["judge"]
    return judge["spec"].get("model") or judge.get("name")


def image_folder(log: RunLog) -> str:
    """The name of the folder of images, by which a model is known; the run folder's where that has no name."""
    return Path(log.manifest["images"].get("root") or "").name or log.path.name
