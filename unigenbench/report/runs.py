"""The runs of a page, and the images that its scores and differences are over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unigenbench.errors import InputError
from unigenbench.scoring.compare import TooManyFailures, compare
from unigenbench.scoring.pairing import judged, only_shared
from unigenbench.scoring.scores import summarise
from unigenbench.types import RunLog

LETTERS = "ABCD"


class Run(NamedTuple):
    """A run as the page names it."""

    letter: str
    name: str
    log: RunLog
    summary: Mapping[str, Any]
    """over all images that the run has verdicts for"""
    scores: Mapping[str, Any]
    """the summary whose scores are shown: in a comparison, over the images that all compared runs have verdicts for"""
    images: int
    """images behind `scores`"""

    @property
    def left_out(self) -> int:
        """Images with verdicts that `scores` leaves out."""
        return count_images(self.log) - self.images


class Comparison(NamedTuple):
    """A later run compared with the first."""

    table: Mapping[str, Any] | None
    """what `compare` returns; None where it refuses"""
    refusal: str = ""


def gather(logs: Sequence[RunLog], *, bootstrap: int = 2000) -> tuple[list[Run], list[Comparison]]:
    """The runs, and the comparison of each later one with the first, over the images that all compared runs share.

    A run that cannot be compared is scored over its own images and takes nothing away from those of the others.

    Args:
        bootstrap: samples of prompts behind each interval.
    """
    comparisons = [compare_with(logs[0], log, bootstrap) for log in logs[1:]]
    compared = [place for place, comparison in enumerate(comparisons, 1) if comparison.table]
    scored = list(logs)
    if compared:
        shared = only_shared([logs[place] for place in (0, *compared)])
        if not shared[0].judgements:
            refusal = f"no image has verdicts in all {len(shared)} runs; report them two at a time"
            comparisons = [Comparison(None, one.refusal or refusal) for one in comparisons]
        else:
            for place, log in zip((0, *compared), shared, strict=True):
                scored[place] = log
            if len(compared) > 1:  # of two runs, `compare` has used these images already
                comparisons = [
                    one._replace(
                        table={**compare(scored[0], log, bootstrap=bootstrap), "warnings": one.table["warnings"]}
                    )
                    if one.table
                    else one
                    for one, log in zip(comparisons, scored[1:], strict=True)
                ]
    runs = []
    for letter, name, log, used in zip(LETTERS, run_names(logs), logs, scored, strict=False):
        summary = summarise(log, bootstrap=bootstrap)
        scores = summary if len(judged(used)) == len(judged(log)) else summarise(used, bootstrap=bootstrap)
        runs.append(Run(letter, name, log, summary, scores, count_images(used)))
    return runs, comparisons


def compare_with(first: RunLog, second: RunLog, bootstrap: int = 2000) -> Comparison:
    """The second run compared with the first, or why that would say nothing."""
    try:
        return Comparison(compare(first, second, bootstrap=bootstrap))
    except (InputError, TooManyFailures) as refusal:
        return Comparison(None, str(refusal))


def count_images(log: RunLog) -> int:
    """Images that have verdicts."""
    return len({(key.prompt_index, key.image_index) for key in judged(log)})


def run_names(logs: Sequence[RunLog]) -> list[str]:
    """The runs' folder names, with as many parent folders as it takes to tell them apart."""
    parts = [log.path.resolve().parts for log in logs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{log.path.name} ({letter})" for log, letter in zip(logs, LETTERS, strict=False)]
