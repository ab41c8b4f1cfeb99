"""Counting by the rules of the official script; its JSON has pooled counts and no overall score."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import NamedTuple

from unigenbench.scoring.official.table import NOT_LITERAL, ResultRow, labels_of


class Count(NamedTuple):
    """Test points met, of how many."""

    correct: int
    total: int


class OfficialScores(NamedTuple):
    """What the official script works out from its CSV."""

    primary: dict[str, Count]
    """in order of appearance; composite names of English files end in a space, as the script does not strip them"""
    sub: dict[str, Count]
    """by the alphabet; criteria that stand alone are in both"""
    rows: int
    skipped: int
    """rows that count for nothing"""

    def as_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """The content of the script's JSON file."""
        return {
            "primary_dimensions": {name: _as_entry(count) for name, count in self.primary.items()},
            "sub_dimensions": {name: _as_entry(count) for name, count in self.sub.items()},
        }


def _as_entry(count: Count) -> dict[str, float]:
    return {"correct": count.correct, "total": count.total, "accuracy": round(count.correct / count.total, 4)}


def counted(row: ResultRow) -> list[tuple[str, bool]] | None:
    """(label, met) of each test point that the official script counts in a row; None where it skips the row.

    It reads the JSON as Python, so that a row with true, false or null anywhere is skipped; it pairs labels with scores
    until the shorter ends, and a score is met if it equals 1: 1.0 does; "1", 0.5 and 2 do not.

    Raises:
        DataError: the labels are no list.
    """
    labels = labels_of(row)
    try:
        scores = ast.literal_eval(row.result_json)["score"]
        return [(label, bool(score == 1)) for label, score in zip(labels, scores, strict=False)]
    except (*NOT_LITERAL, KeyError):
        return None


def count_rows(rows: Iterable[ResultRow]) -> OfficialScores:
    """Pools rows by the official rules.

    Raises:
        DataError: as `counted`.
    """
    primary: dict[str, list[int]] = {}
    sub: dict[str, list[int]] = {}
    seen = skipped = 0
    for row in rows:
        seen += 1
        pairs = counted(row)
        skipped += pairs is None
        for label, met in pairs or ():
            for counts, name in ((primary, label.split("-")[0]), (sub, label)):
                entry = counts.setdefault(name, [0, 0])
                entry[0] += met
                entry[1] += 1
    return OfficialScores(
        {name: Count(*entry) for name, entry in primary.items()},
        {name: Count(*sub[name]) for name in sorted(sub)},
        seen,
        skipped,
    )
