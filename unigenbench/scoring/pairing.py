"""The same test points, answered in two runs: what comparing models and comparing judges both start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from unigenbench.errors import InputError
from unigenbench.scoring.counts import CRITERION
from unigenbench.scoring.verdicts import ImageKey, image_key, verdicts_by_image
from unigenbench.types import Judgement, Prompt, RunLog

BOTH, ONLY_FIRST, ONLY_SECOND, NEITHER = range(4)


class Pairing(NamedTuple):
    """What two runs both judged."""

    prompts: tuple[Prompt, ...]
    """with anything shared, in the order of the first run"""
    counts: np.ndarray
    """test points that were met in both, only in the first, only in the second, in neither run. [P, 27, 4]"""
    shared: int
    """images judged in both runs"""
    only_first: int
    only_second: int
    """images judged in one run; the other failed on them or never came to them"""
    changed: int
    """images left out because their prompts, or the images where they must be the same, differ"""

    @property
    def first(self) -> np.ndarray:
        """Test points that the first run meets. [P, 27]"""
        return self.counts[..., BOTH] + self.counts[..., ONLY_FIRST]

    @property
    def second(self) -> np.ndarray:
        """Test points that the second run meets. [P, 27]"""
        return self.counts[..., BOTH] + self.counts[..., ONLY_SECOND]

    @property
    def total(self) -> np.ndarray:
        """Test points judged in both. [P, 27]"""
        return self.counts.sum(-1)


def judged(log: RunLog) -> dict[ImageKey, Judgement]:
    """The judgements with verdicts, by the images that they are of."""
    return {image_key(judgement): judgement for judgement in log.judgements if judgement.status == "ok"}


def same_question(first: Judgement, second: Judgement, *, same_images: bool) -> bool:
    """Whether two judgements are about the same prompt and, if that is asked, the same image.

    An imported judgement may not know its image; it is taken for the one of its name.
    """
    images = first.image_sha256, second.image_sha256
    return first.prompt_sha256 == second.prompt_sha256 and (not same_images or images[0] == images[1] or "" in images)


def only_shared(logs: Sequence[RunLog]) -> list[RunLog]:
    """The runs with only those judgements whose image has verdicts for the same prompt in all of them."""
    first, *others = (judged(log) for log in logs)
    shared = {
        key
        for key, one in first.items()
        if all(key in other and same_question(one, other[key], same_images=False) for other in others)
    }
    return [
        replace(log, judgements=tuple(one for one in log.judgements if one.status == "ok" and image_key(one) in shared))
        for log in logs
    ]


def pair(first: RunLog, second: RunLog, *, same_images: bool) -> Pairing:
    """Counts over the images that both runs have verdicts for.

    Args:
        same_images: only where the two runs judged the same file.

    Raises:
        InputError: they share nothing.
        DataError: a log does not fit its prompts.
    """
    verdicts, other_verdicts = verdicts_by_image(first), verdicts_by_image(second)
    judgements, other = judged(first), judged(second)
    matched = [key for key in judgements if key in other]
    shared = [key for key in matched if same_question(judgements[key], other[key], same_images=same_images)]
    if not shared:
        what = "images and prompts" if same_images else "prompts"
        raise InputError(
            f"{first.path} and {second.path} have no judged image in common: {len(judgements)} and {len(other)} are "
            f"judged, {len(matched)} have the same number, none is of the same {what}"
        )
    used = {key.prompt_index for key in shared}
    prompts = tuple(prompt for prompt in first.prompts.prompts if prompt.index in used)
    row = {prompt.index: place for place, prompt in enumerate(prompts)}
    counts = np.zeros((len(prompts), len(CRITERION), 4), np.int64)
    for key in shared:
        criteria, met = verdicts[key]
        for criterion, a, b in zip(criteria, met, other_verdicts[key].met, strict=True):
            counts[row[key.prompt_index], CRITERION[criterion], 2 * (not a) + (not b)] += 1
    alone = len(judgements) - len(matched), len(other) - len(matched)
    return Pairing(prompts, counts, len(shared), *alone, changed=len(matched) - len(shared))
