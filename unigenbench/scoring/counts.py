"""Verdicts counted: integer tables with a row for each prompt, and the groups of test points that scores are of.

Prompts are the rows because they are what was sampled: the images and test points of one prompt move together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from unigenbench.errors import DataError, InputError
from unigenbench.scoring.manifest import images_per_prompt, samples_per_image
from unigenbench.scoring.official import official_verdicts
from unigenbench.scoring.verdicts import ImageKey, ImageVerdicts, verdicts_by_image
from unigenbench.taxonomy import CRITERIA, DIMENSIONS, THEMES
from unigenbench.types import Prompt, RunLog

Missing = Literal["exclude", "zero", "error"]
Compat = Literal["native", "official"]

LENGTH_BINS = 4
LEAST_PROMPTS = 5
"""With fewer prompts the ends of a bootstrap interval say next to nothing."""
CRITERION = {criterion.id: place for place, criterion in enumerate(CRITERIA)}
DIMENSION_COLUMNS = {
    dimension.id: [CRITERION[criterion.id] for criterion in dimension.criteria] for dimension in DIMENSIONS
}


class Group(NamedTuple):
    """The counts of one group of test points, for each prompt."""

    section: str
    """a key of summary.json, for example "themes\""""
    id: str
    correct: np.ndarray
    """[P]"""
    total: np.ndarray
    """test points counted. [P]"""
    expected: np.ndarray
    """test points that a complete run would count. [P]"""


@dataclass(frozen=True)
class Counts:
    """Counts of P prompts and 27 criteria, in the order of CRITERIA."""

    prompts: tuple[Prompt, ...]
    correct: np.ndarray
    """[P, 27]"""
    total: np.ndarray
    """[P, 27]"""
    expected: np.ndarray
    """[P, 27]"""
    passed: np.ndarray
    """for each image whether all its test points were met: 1, 0, or -1 where it was not judged. [P, images]"""
    language: str

    @cached_property
    def dimensions(self) -> list[Group]:
        """The ten dimensions."""
        return [self._group("dimensions", id, columns) for id, columns in DIMENSION_COLUMNS.items()]

    @cached_property
    def criteria(self) -> list[Group]:
        """The 27 criteria."""
        return [self._group("criteria", id, [place]) for id, place in CRITERION.items()]

    @cached_property
    def whole(self) -> Group:
        """All test points together."""
        return self._group("overall", "micro", slice(None))

    def prompt_groups(self) -> list[Group]:
        """Prompts taken together by theme, sub-theme, subject, structure, number of test points and length."""
        named = {
            "themes": [prompt.theme for prompt in self.prompts],
            "subthemes": [f"{prompt.theme}/{prompt.subtheme}" if prompt.subtheme else "" for prompt in self.prompts],
            "subjects": [prompt.subject for prompt in self.prompts],
            "structures": [prompt.structure for prompt in self.prompts],
            "testpoint_counts": [str(len(prompt.points)) for prompt in self.prompts],
            "lengths": length_bins([prompt.text for prompt in self.prompts], self.language),
        }
        return [
            self._group(section, id, slice(None), [name == id for name in names])
            for section, names in named.items()
            for id in sorted(set(names) - {""}, key=_order)
        ]

    def theme_dimensions(self) -> list[Group]:
        """Each theme with each dimension; the id is "theme/dimension"."""
        return [
            self._group(
                "theme_dimensions", f"{theme.name}/{id}", columns, [p.theme == theme.name for p in self.prompts]
            )
            for theme in THEMES
            if any(prompt.theme == theme.name for prompt in self.prompts)
            for id, columns in DIMENSION_COLUMNS.items()
        ]

    def _group(self, section: str, id: str, columns: Any, rows: Sequence[bool] | None = None) -> Group:
        kept = 1 if rows is None else np.asarray(rows)
        counts = (table[:, columns].sum(1) * kept for table in (self.correct, self.total, self.expected))
        return Group(section, id, *counts)


def _order(name: str) -> tuple[int, str]:
    """Sorts numbers, and ranges by their start, by size, and words by the alphabet."""
    digits = name.split("-")[0]
    return (int(digits), "") if digits.isdigit() else (0, name)


def length_bins(texts: Sequence[str], language: str) -> list[str]:
    """The quarter of the prompt set that each prompt's length falls in, for example "21-27 words".

    English is measured in words, Chinese in characters.
    """
    if not texts:
        return []
    unit = "characters" if language == "zh" else "words"
    lengths = np.array([len(text) if language == "zh" else len(text.split()) for text in texts])
    inner = np.quantile(lengths, np.arange(1, LENGTH_BINS) / LENGTH_BINS)
    place = np.searchsorted(np.unique(inner), lengths)
    ends = {bin: (lengths[place == bin].min(), lengths[place == bin].max()) for bin in np.unique(place)}
    return [f"{ends[bin][0]}-{ends[bin][1]} {unit}" for bin in place]


def tabulate(
    prompts: Sequence[Prompt],
    verdicts: Mapping[ImageKey, ImageVerdicts],
    images: int,
    samples: int,
    language: str,
) -> Counts:
    """Counts of the verdicts on images.

    Args:
        prompts: rows of the tables, in their order.
        verdicts: what was judged; of these prompts.
        images: of each prompt, in a complete run.
        samples: judgements of each image, in a complete run.
    """
    row = {prompt.index: place for place, prompt in enumerate(prompts)}
    correct, total, expected = (np.zeros((len(prompts), len(CRITERIA)), np.int64) for _ in range(3))
    passed = np.full((len(prompts), images), -1)
    for place, prompt in enumerate(prompts):
        for point in prompt.points:
            expected[place, CRITERION[point.criterion]] += images * samples
    for key, image in verdicts.items():
        place = row[key.prompt_index]
        for criterion, met in zip(image.criteria, image.met, strict=True):
            total[place, CRITERION[criterion]] += 1
            correct[place, CRITERION[criterion]] += met
        if key.image_index < images:
            before = passed[place, key.image_index]
            passed[place, key.image_index] = min(int(all(image.met)), before if before >= 0 else 1)
    return Counts(tuple(prompts), correct, total, expected, passed, language)


def count_run(log: RunLog, *, missing: Missing = "exclude", compat: Compat = "native") -> Counts:
    """The counts of a run.

    Args:
        missing: what an image without a verdict is: left out of both counts, all wrong, or an error.
        compat: whose rules; the official script knows no other than leaving out.

    Raises:
        InputError: the two do not go together.
        DataError: `missing` is "error" and something is; or the log does not fit its prompts.
    """
    verdicts = _verdicts(log, compat, missing)
    images, samples = images_per_prompt(log), samples_per_image(log)
    made = tabulate(log.prompts.prompts, verdicts, images, samples, log.prompts.language)
    if missing == "exclude":
        return made
    without = len(log.prompts.prompts) * images * samples - len(verdicts)
    if missing == "error" and without:
        raise DataError(
            f"{log.path}: {without} of {len(verdicts) + without} images have no verdict ({_failures(log)}); "
            "judge them, or say --missing exclude or zero"
        )
    return replace(made, total=made.expected, passed=np.maximum(made.passed, 0))


def _verdicts(log: RunLog, compat: Compat, missing: Missing) -> dict[ImageKey, ImageVerdicts]:
    if compat == "native":
        return verdicts_by_image(log)
    if missing != "exclude":
        raise InputError(f"--compat official leaves out what was not judged; it does not go with --missing {missing}")
    return official_verdicts(log)


def _failures(log: RunLog) -> str:
    counts = failed_by_status(log)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "some never came to their turn"


def failed_by_status(log: RunLog) -> dict[str, int]:
    """{status: judgements} of what gave no verdict."""
    return dict(Counter(judgement.status for judgement in log.judgements if judgement.status != "ok"))


def reliable_interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval `ci` of a score or a difference; None where it rests on fewer than LEAST_PROMPTS prompts, or where
    all prompts are alike: the bootstrap then has no width, which is not certainty.
    """
    interval = entry.get("ci")
    if interval is None or entry["prompts"] < LEAST_PROMPTS or interval[0] == interval[1]:
        return None
    low, high = interval
    return low, high
