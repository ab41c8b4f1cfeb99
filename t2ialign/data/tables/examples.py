"""Examples of the rows of a table, and why other rows are none."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from t2ialign.data.account import Problem
from t2ialign.data.base import Example
from t2ialign.data.tables.table import LazySequence, Row


class RowExamples(LazySequence[Example]):
    """Examples of rows that are themselves read when asked for, so that memory holds none of them."""

    def __init__(self, rows: Sequence[Row], read: Callable[[Row], Example | Problem], usable: Sequence[int]):
        self._rows = rows
        self._read = read
        self._usable = array("q", usable)

    def __len__(self) -> int:
        return len(self._usable)

    def item(self, place: int) -> Example:
        found = self._read(self._rows[self._usable[place]])
        assert isinstance(found, Example)  # it was when the table was read
        return found

    def chosen(self, places: Sequence[int]) -> RowExamples:
        """Some of the examples."""
        return RowExamples(self._rows, self._read, [self._usable[place] for place in places])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # what reads a row may be a function that cannot be sent


class UsableRows(NamedTuple):
    """What became of the rows of a table."""

    examples: Sequence[Example]
    left_out: list[Problem]
    remarks: list[Problem]
    """On rows that are used."""


def usable_rows(
    rows: Sequence[Row],
    read: Callable[[Row], Example | Problem],
    screen: Callable[[Row], Problem | None] | None = None,
    drops: Callable[[str], bool] = lambda reason: True,
) -> UsableRows:
    """The examples of rows; those of rows that lie on disk stay there.

    Args:
        screen: what a row says against itself.
        drops: whether rows are left out for a reason of `screen`; else it is a remark.
    """
    examples: list[Example] = []
    numbers = array("q")
    left_out: list[Problem] = []
    remarks: list[Problem] = []
    in_memory = isinstance(rows, list)
    for number, row in enumerate(rows):
        found = read(row)
        doubt = None if screen is None or isinstance(found, Problem) else screen(row)
        if isinstance(found, Problem):
            left_out.append(found)
        elif doubt is not None and drops(doubt.reason):
            left_out.append(doubt)
        else:
            remarks += [doubt] if doubt is not None else []
            examples += [found] if in_memory else []
            numbers.append(number)
    return UsableRows(examples if in_memory else RowExamples(rows, read, numbers), left_out, remarks)


def chosen(examples: Sequence[Example], places: Sequence[int]) -> Sequence[Example]:
    """Some examples of a sequence."""
    return examples.chosen(places) if isinstance(examples, RowExamples) else [examples[place] for place in places]
