"""Folders of images with their record, which the evaluation reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import DataError, InputError
from t2ialign.generation.images import REMEDY, NotFinite, image_seed, try_images
from t2ialign.generation.record import RECORD as RECORD
from t2ialign.generation.record import PlannedImage, image_texts, make_record, write_or_compare
from t2ialign.policy import Policy
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.lock import lock_folder
from t2ialign.types import Weights

logger = logging.getLogger(__name__)
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class GeneratedFolder(NamedTuple):
    """The images of a folder."""

    paths: list[Path]
    not_made: list[str]
    """Names of this process's images that are not finite, and so have no file."""


def generate_folder(
    policy: Policy,
    prompts: Sequence[str],
    out: Path,
    settings: GenerationConfig,
    *,
    weights: Weights = "policy",
    negative: Weights | None = None,
    description: Mapping[str, Any],
    indices: Sequence[int] | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    max_failed: float = 0.0,
) -> GeneratedFolder:
    """Writes `<index>_<k>.png` and `generation.json`, and returns the images of the whole folder.

    The same call on the same folder makes only what is missing or was cut, for example after a kill. Each image carries
    its own prompt, numbers, seed and settings. Prompts that exceed the text encoder are warned of first, and recorded.

    Args:
        weights: which weights answer.
        negative: which answer in the unconditional branch; default: `weights`.
        description: what the record says of the model: its name, its adapters.
        indices: numbers of the prompts, which name their images; default: 0, 1, …
        shard: (which, of how many) processes share the folder; each makes every n-th image of it.
        progress: show a bar with the remaining time.
        max_failed: share of this process's images that may be not finite; they are warned of and not written.

    Raises:
        InputError: no prompts, or one that is no text; the folder holds images made with other settings, or made by
            something else.
        DataError: more images are not finite; the others are there.
        ValueError: not one index for each prompt, or an index twice.
        TryAgainError: the disk is full.
    """
    images = _plan(prompts, indices, settings)
    negative = weights if negative is None else negative
    record = make_record(policy, settings, images, weights=weights, negative=negative, description=description)
    with lock_folder(out):
        write_or_compare(out, record)
    which, of = shard
    own = images[which::of]
    missing = [image for image in own if not _is_whole(out / image.file)]
    pictures = try_images(
        policy,
        [image.prompt for image in missing],
        [image.seed for image in missing],
        settings,
        weights=weights,
        negative=negative,
    )
    failed: dict[str, NotFinite] = {}
    allowed = max_failed * len(own)
    saved = 0
    with _bar(progress and bool(missing)) as bar:
        task = bar.add_task(f"images in {out}", total=len(own), completed=len(own) - len(missing))
        for image, picture in zip(missing, pictures, strict=True):
            if isinstance(picture, NotFinite):
                failed[image.file] = picture
            else:
                _save(picture, image_texts(image, record), out / image.file)
                saved += 1
                bar.advance(task)
            if not saved and len(failed) == settings.batch and len(failed) > allowed:
                break  # the whole first batch: so would be the others
    if failed:
        first, *others = failed.values()
        more = f", and {len(others)} more" if others else ""
        seen = f"{out}: {len(failed)} of {len(failed) + saved} images were not made: {first}{more}; {REMEDY}"
        if len(failed) > allowed:
            raise DataError(seen)
        logger.warning("%s", seen)
    return GeneratedFolder([out / image.file for image in images if image.file not in failed], list(failed))


def _plan(prompts: Sequence[str], indices: Sequence[int] | None, settings: GenerationConfig) -> list[PlannedImage]:
    if not prompts:
        raise InputError("no prompts to make images of; give at least one")
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InputError(f"prompt {prompt!a}: holds bytes that are not UTF-8, or half a character") from None
    numbers = range(len(prompts)) if indices is None else indices
    if len(set(numbers)) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(set(numbers))} different indices")
    return [
        PlannedImage(index, k, prompt, image_seed(settings.seed, index, k, settings.seed_policy))
        for index, prompt in zip(numbers, prompts, strict=True)
        for k in range(settings.images_per_prompt)
    ]


def _save(picture: Image.Image, texts: Mapping[str, str], path: Path) -> None:
    """Writes the PNG with what it says of itself."""
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    with atomic_write(path) as partial:
        picture.save(partial, format="PNG", pnginfo=info)


def _is_whole(path: Path) -> bool:
    """Whether a PNG is there with its last chunk."""
    if not path.is_file() or path.stat().st_size < len(PNG_END):
        return False
    with path.open("rb") as file:
        file.seek(-len(PNG_END), os.SEEK_END)
        return file.read() == PNG_END


def _bar(visible: bool) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("remaining"), TimeRemainingColumn(), disable=not visible)
