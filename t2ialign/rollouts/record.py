"""What is kept of rollouts: a line for every image with its rewards, some of the images, and how they drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2ialign.rollouts.estimation import Judged
from t2ialign.rollouts.rollout import Prompts, RolledOut
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.journal import Journal, read_entries

ROLLOUTS = "rollouts.jsonl"
FOLDER = "rollouts"
"""Of the images that are kept, one folder an iteration."""
SMALL = 128
"""Up to this side an image is kept as PNG, above as WebP."""


class Made(NamedTuple):
    """An image that the policy made of itself."""

    iteration: int
    group: int
    """Counted over the iterations and processes of the run."""
    image: int
    """Which of the group."""
    prompt: str
    rewards: dict[str, float | None]
    """Of each reward its score, of a pairwise one the win rate; None where there is none."""
    advantage: float | None
    file: str | None
    """Relative to the run's folder; None where the image is not kept."""


class Record:
    """Writes down every image of a process with what its rewards said.

    Args:
        run_dir: of the run.
        rank: of the process.
        groups: how many groups of an iteration keep their images.
    """

    def __init__(self, run_dir: Path, rank: int, groups: int):
        name = ROLLOUTS if rank == 0 else ROLLOUTS.replace(".", f"-{rank}.")
        self._folder, self._groups = run_dir, groups
        self._journal = Journal(run_dir / name, Made, lambda made: (made.group, made.image))

    def keep(self, iteration: int, prompts: Prompts, rolled: RolledOut, judged: Judged) -> None:
        """Keeps an iteration; one that is made again after a stop replaces itself.

        Raises:
            TryAgainError: the disk is full.
        """
        made: list[Made] = []
        for place, (number, prompt) in enumerate(zip(prompts.groups.tolist(), prompts.texts, strict=True)):
            for image, picture in enumerate(rolled.images[place]):
                kept = place < self._groups and picture is not None
                file = self._save(iteration, number, image, picture) if kept else None
                rewards = {name: _number(values[place, image]) for name, values in judged.values.items()}
                advantage = _number(judged.advantages[place, image])
                made.append(Made(iteration, number, image, prompt, rewards, advantage, file))
        self._journal.append(made)

    def _save(self, iteration: int, group: int, image: int, picture: Image.Image | None) -> str | None:
        if picture is None:
            return None
        kind = "png" if max(picture.size) <= SMALL else "webp"
        name = f"{FOLDER}/{iteration:06d}/{group}-{image}.{kind}"
        with atomic_write(self._folder / name) as partial:
            picture.save(partial, format=kind, quality=90)
        return name


def _number(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None


def drift(rolled: RolledOut, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """How much the images of a prompt differ, and how colourful images are, over all processes.

    Args:
        add_up: the sum of a tensor over all processes.

    Returns:
        rollout/diversity, the mean over groups of the root mean square distance of latents from their group's mean;
        rollout/saturation, the mean saturation of the images, in [0, 1]. Without what could not be made.
    """
    spread = rolled.latents.var(1, correction=0).mean((1, 2, 3)).sqrt()
    spread = spread[spread.isfinite()].double()
    colours = [_saturation(image) for group in rolled.images for image in group if image is not None]
    sums = torch.tensor([len(spread), float(spread.sum()), len(colours), sum(colours)], dtype=torch.float64)
    groups, distance, images, saturation = add_up(sums).tolist()
    found = {"rollout/diversity": (distance, groups), "rollout/saturation": (saturation, images)}
    return {name: total / count for name, (total, count) in found.items() if count}


def _saturation(image: Image.Image) -> float:
    small = image.reduce(max(1, max(image.size) // SMALL))
    return float(np.asarray(small.convert("HSV"))[..., 1].mean()) / 255


def read_record(run_dir: Path) -> list[Made]:
    """The images of the first process, in order; of one that was made again the last. None of a run without a record.

    Raises:
        DataError: a line is damaged. One that is being written, or that a kill cut short, is left out.
    """
    made = read_entries(run_dir / ROLLOUTS, Made, whole_lines=True)
    return list({(one.group, one.image): one for one in made}.values())
