"""Single images and their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from t2ialign.data.account import Problem
from t2ialign.data.base import Example
from t2ialign.data.kinds.pairs import pair_layout
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import first_view, read_example
from t2ialign.data.tables.columns import find_column, match_column
from t2ialign.data.tables.folders import has_images, pair_folders, read_captioned, read_pair_folders
from t2ialign.data.tables.parts import find_parts
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.unfolding import unfold_pairs


class SingleData(TableData):
    """Single images with their prompt; of a table of pairs the preferred ones."""

    name: str = "singles"
    views: ClassVar[int] = 1

    def layout(self, table: Table) -> Layout:
        image = match_column(table, role.IMAGE, self.columns)
        if image is None:
            return self._chosen(table)
        prompt = find_column(table, role.PROMPT, self.columns)

        def read(row: Row) -> Example | Problem:
            return read_example(row, prompt, (image,), None)

        return Layout(f"{table.path.name}: image '{image}', prompt '{prompt}'", read)

    def _chosen(self, table: Table) -> Layout:
        if match_column(table, role.CHOSEN, self.columns) is not None:
            chosen = find_column(table, role.CHOSEN, self.columns)
            prompt = find_column(table, role.PROMPT, self.columns)
            words = f"{table.path.name}: image '{chosen}', the chosen one of each pair, prompt '{prompt}'"
            return Layout(words, lambda row: read_example(row, prompt, (chosen,), None))
        if match_column(table, role.IMAGE_0, self.columns) is None:
            find_column(table, role.IMAGE, self.columns)  # raises: there is no column of images
        pairs = pair_layout(table, self.columns)
        words = f"{pairs.words}; only the better image"
        return Layout(words, lambda row: first_view(pairs.read(row)), pairs.better)

    def unfolded(self, table: Table) -> Table:
        return unfold_pairs(table, self.columns)

    def read_folder(self, folder: Path) -> Table | None:
        names = pair_folders(folder)
        if names is not None:
            return read_pair_folders(folder, names)
        if has_images(folder) and find_parts(folder, self.split) is None:
            return read_captioned(folder)
        return None
