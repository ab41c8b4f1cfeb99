"""What the page's figures show: scores with intervals, as summaries hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unigenbench.scoring.counts import reliable_interval
from unigenbench.taxonomy import DIMENSIONS, THEMES

SIGNIFICANT = 0.05


class Score(NamedTuple):
    """A share of test points that were met."""

    value: float | None
    """in [0, 1]; None where nothing was asked"""
    low: float | None = None
    high: float | None = None
    """95 % interval in [0, 1]; None where too little stands behind one"""
    total: int = 0
    """test points counted"""
    prompts: int = 0
    """prompts that they are of"""
    is_thin: bool = False
    """whether an interval is withheld"""

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None) -> Score:
        """An entry of summary.json, such as dimensions["style"]."""
        if not entry or not entry.get("total"):
            return cls(None)
        interval = reliable_interval(entry)
        is_thin = interval is None and entry.get("ci") is not None
        return cls(entry["score"], *(interval or (None, None)), entry["total"], entry["prompts"], is_thin)

    @classmethod
    def overall(cls, summary: Mapping[str, Any]) -> Score:
        """The mean of the dimensions."""
        overall = summary["overall"]
        return cls.read({**overall, "score": overall["macro"]})


class Difference(NamedTuple):
    """A later run less the first, over the images that all compared runs have verdicts for."""

    value: float
    """in [-1, 1]"""
    low: float | None
    high: float | None
    """95 % interval; None where too little stands behind one"""
    p: float | None
    """two-sided, adjusted over all dimensions or all criteria where it is one of those"""
    is_thin: bool = False
    """whether an interval is withheld"""

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None) -> Difference | None:
        """An entry of what `compare` returns; None where there is nothing to compare."""
        if not entry or entry["difference"] is None:
            return None
        interval = reliable_interval(entry)
        is_thin = interval is None and entry["ci"] is not None
        return cls(entry["difference"], *(interval or (None, None)), entry.get("p_holm", entry["p"]), is_thin)

    @property
    def direction(self) -> str:
        """ "up" or "down" where the test says so at 5 %, else "level"."""
        if self.p is None or self.p >= SIGNIFICANT:
            return "level"
        return "up" if self.value > 0 else "down"

    @property
    def word(self) -> str:
        """The direction in a word."""
        return {"up": "better", "down": "worse", "level": "unclear"}[self.direction]


class Row(NamedTuple):
    """One line of the bar list."""

    id: str
    """of a dimension or a criterion"""
    name: str
    scores: list[Score]
    """one per run"""
    differences: list[Difference | None]
    """one per run; None for the first, and where there is none"""
    children: list[Row]
    """the criteria of a dimension that has several"""

    @property
    def is_asked(self) -> bool:
        """Whether any run has verdicts on it."""
        return any(score.value is not None for score in self.scores)


class Cell(NamedTuple):
    """One cell of the table of themes by dimensions."""

    dimension: str
    value: float | None
    """a share in [0, 1], or a difference in [-1, 1]"""
    total: int
    """test points counted"""
    prompts: int
    """prompts that they are of"""


class Heat(NamedTuple):
    """The table of themes by dimensions of one run, or of the difference of two."""

    title: str
    is_difference: bool
    rows: list[tuple[str, list[Cell]]]
    """theme, then its cells in the order of the leaderboard's columns"""


def bar_rows(summaries: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any] | None] = ()) -> list[Row]:
    """The ten dimensions, each with its criteria below it.

    Args:
        summaries: of each run.
        comparisons: of each run after the first with the first, as `compare` returns them.
    """
    against = [None, *comparisons] if comparisons else [None] * len(summaries)

    def row(section: str, id: str, name: str, children: list[Row]) -> Row:
        scores = [Score.read(summary.get(section, {}).get(id)) for summary in summaries]
        differences = [Difference.read(table[section].get(id)) if table else None for table in against]
        return Row(id, name, scores, differences, children)

    rows = []
    for dimension in DIMENSIONS:
        several = dimension.criteria if len(dimension.criteria) > 1 else ()
        children = [row("criteria", criterion.id, _short(criterion.name), []) for criterion in several]
        rows.append(row("dimensions", dimension.id, dimension.name, children))
    return rows


def _short(name: str) -> str:
    """A criterion's name without its dimension and what stands in brackets."""
    return name.split(" - ", 1)[1].split(" (")[0]


def heat_tables(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> list[Heat]:
    """A table of themes by dimensions for each run, after the difference where there are two; none without themes."""
    entries = [summary.get("theme_dimensions") or {} for summary in summaries]
    themes = [theme.name for theme in THEMES if any(f"{theme.name}/{DIMENSIONS[0].id}" in entry for entry in entries)]
    if not themes:
        return []
    tables = [
        Heat(name, False, [(theme, [_cell(entry, theme, d.id) for d in DIMENSIONS]) for theme in themes])
        for name, entry in zip(names, entries, strict=True)
    ]
    if len(tables) == 2:
        tables.insert(0, _difference(*tables))
    return tables


def _cell(entries: Mapping[str, Any], theme: str, dimension: str) -> Cell:
    score = Score.read(entries.get(f"{theme}/{dimension}"))
    return Cell(dimension, score.value, score.total, score.prompts)


def _difference(first: Heat, second: Heat) -> Heat:
    """The second table minus the first; empty where either is."""
    rows = [
        (theme, [_minus(a, b) for a, b in zip(before, after, strict=True)])
        for (theme, before), (_, after) in zip(first.rows, second.rows, strict=True)
    ]
    return Heat(f"{second.title} − {first.title}", True, rows)


def _minus(before: Cell, after: Cell) -> Cell:
    if before.value is None or after.value is None:
        return Cell(before.dimension, None, 0, 0)
    total, prompts = min(before.total, after.total), min(before.prompts, after.prompts)
    return Cell(before.dimension, after.value - before.value, total, prompts)
