"""One image with a prompt that fits it and one that does not (TPO, arXiv:2509.25771)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from t2ialign.data.account import SAME_PROMPT, Problem
from t2ialign.data.base import Example
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import read_example, read_prompt, shown
from t2ialign.data.tables.columns import Columns, find_column
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table


def text_pair_layout(table: Table, columns: Columns) -> Layout:
    """How a table of images with a matched and a mismatched prompt is read: one image, two prompts.

    Raises:
        DataError: columns are missing, with the likely typo.
    """
    image = find_column(table, role.IMAGE, columns)
    matched = find_column(table, role.PROMPT, columns)
    mismatched = find_column(table, role.MISMATCHED, columns)

    def read(row: Row) -> Example | Problem:
        found = read_example(row, matched, (image,), None)
        if isinstance(found, Problem):
            return found
        other = read_prompt(row, mismatched)
        if isinstance(other, Problem):
            return other
        if other == found.prompts[0]:
            return Problem(row.origin, SAME_PROMPT, f"{matched} and {mismatched} are both {shown(other)}")
        return replace(found, prompts=(found.prompts[0], other))

    return Layout(f"{table.path.name}: image '{image}', prompt '{matched}', mismatched prompt '{mismatched}'", read)


class TextPairData(TableData):
    """Pairs of prompts of one image, the first fitting it: both views share the image, its noise and its timestep."""

    name: str = "text_pairs"
    prompt_dropout: float = Field(0.0, ge=0, le=0)
    """Always 0: two dropped prompts are equal, and equal views teach nothing."""

    views: ClassVar[int] = 2

    def layout(self, table: Table) -> Layout:
        return text_pair_layout(table, self.columns)

    def read_folder(self, folder: Path) -> Table | None:
        return None
