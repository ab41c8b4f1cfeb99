"""Two folders of images compared by rewards: the rows of their table, and a page with the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from t2ialign.errors import DataError
from t2ialign.feedback.comparing import FolderComparison, RewardComparison
from t2ialign.feedback.pictures import Picture
from t2ialign.report.charts import number
from t2ialign.report.images import data_uri
from t2ialign.report.template import render, write_page
from t2ialign.rewards.base import Score
from t2ialign.statistics import Difference
from unigenbench.formatting import with_minus

FIRST_TWINS = 24
"""Pairs of images shown from the top of the list."""
EXTREME_TWINS = 4
"""Pairs of images shown of each reward's greatest gains, and of its greatest losses."""


class Side(NamedTuple):
    """One of two images."""

    image: str
    """A data URI."""
    scores: list[tuple[str, str]]
    """Reward and score, as text."""


class Shown(NamedTuple):
    """Two images of a prompt and seed."""

    prompt: str
    seed: int | None
    sides: list[Side]


class Gallery(NamedTuple):
    """Pairs of images under a heading."""

    title: str
    twins: list[Shown]


def table_heads(found: FolderComparison) -> list[str]:
    """The heads of the table's columns; p-values adjusted for several rewards only where there are several."""
    p = ["p", "p (Holm)"] if len(found.rewards) > 1 else ["p"]
    return ["reward", "A", "B", "B − A", "interval", *p, "B wins %", "interval", *p, "won / tied / lost"]


def table_rows(found: FolderComparison) -> list[list[str]]:
    """The cells of each reward's row; empty where a reward has no such number."""
    return [_row(one, several=len(found.rewards) > 1) for one in found.rewards]


def _row(one: RewardComparison, *, several: bool) -> list[str]:
    name = f"{one.reward} (low is better)" if one.prefers == "low" else one.reward
    means = ["", ""] if one.means is None else [with_minus(f"{mean:.5g}") for mean in one.means]
    gain = ["", ""] if one.difference is None else _written(one.difference, f"+.{_decimals(one.difference)}f")
    p_gain = [_chance(one.difference_p), *([_chance(one.difference_p_holm)] if several else [])]
    p_rate = [_chance(one.win_rate_p), *([_chance(one.win_rate_p_holm)] if several else [])]
    rate = _written(one.win_rate, ".1f", 100)
    return [name, *means, *gain, *p_gain, *rate, *p_rate, f"{one.wins} / {one.ties} / {one.losses}"]


def _written(estimate: Difference, digits: str, scale: int = 1) -> list[str]:
    """The estimate and its interval, as text."""
    mean, low, high = (with_minus(f"{scale * part:{digits}}") for part in estimate[:3])
    return [mean, f"{low} to {high}"]


def _decimals(estimate: Difference) -> int:
    """Places after the point with which the farther end of the interval has three digits."""
    largest = max(abs(part) for part in estimate[:3])
    return 0 if largest == 0 else min(12, max(0, 2 - math.floor(math.log10(largest))))


def _chance(p: float | None) -> str:
    return "" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def write_comparison(found: FolderComparison, out: Path) -> Path:
    """Writes the page of a comparison and returns its path.

    Raises:
        DataError: an image cannot be shown.
        TryAgainError: the disk is full.
    """
    content = found.as_mapping()
    names = [folder.resolve().name for folder in (found.first, found.second)]
    page = render(
        "folders",
        title=f"{names[1]} against {names[0]}",
        content=content,
        heads=table_heads(found),
        rows=table_rows(found),
        galleries=_galleries(found),
    )
    return write_page(out, page)


def _galleries(found: FolderComparison) -> list[Gallery]:
    """The first pairs as they come, then those that each reward moved most."""
    places = range(len(found.matched.twins))
    chosen: list[tuple[str, Sequence[int]]] = [("The first pairs, in their order", places[:FIRST_TWINS])]
    for one in found.rewards:
        sign = -1 if one.prefers == "low" else 1
        gains = {
            place: sign * (b - a)
            for place, (a, b) in enumerate(found.scores[one.reward])
            if a is not None and b is not None
        }
        ranked = sorted(gains, key=lambda place: -gains[place])
        better = [place for place in ranked[:EXTREME_TWINS] if gains[place] > 0]
        worse = [place for place in ranked[::-1][:EXTREME_TWINS] if gains[place] < 0]
        chosen += [(f"{one.reward}: where B gains most", better), (f"{one.reward}: where B loses most", worse)]
    return [Gallery(title, [_shown(found, place) for place in some]) for title, some in chosen if some]


def _shown(found: FolderComparison, place: int) -> Shown:
    twin = found.matched.twins[place]
    scores = ([(name, _score(pairs[place][side])) for name, pairs in found.scores.items()] for side in (0, 1))
    sides = [Side(_image(picture), said) for picture, said in zip(twin, scores, strict=True)]
    return Shown(twin.prompt, twin.first.seed, sides)


def _image(picture: Picture) -> str:
    if not isinstance(picture.image, Path):
        raise DataError(f"{picture}: is inside a table, and cannot be shown; give a folder of files")
    return data_uri(picture.image)


def _score(score: Score) -> str:
    return "none" if score is None else number(score, 4)
