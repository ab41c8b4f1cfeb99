"""Several images of a prompt, ranked by a score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from t2ialign.data.account import MIDDLE_RANK, OTHER_REWARD, TIE, Problem
from t2ialign.data.base import Example
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import read_example, shown
from t2ialign.data.tables.columns import find_column, match_column
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.unfolding import unfold_lists
from t2ialign.errors import DataError


class ListData(TableData):
    """Ranked images of a prompt: of a table with a row an image, as the scores.jsonl of `t2ialign score`, or with a row
    a prompt, as HPD's lists of images and ranks."""

    name: str = "lists"
    views: int = Field(4, ge=2)  # pyright: ignore[reportIncompatibleVariableOverride]  # a constant elsewhere, a key here
    """Images of a list at most; of a longer one the best, the worst, and evenly spaced ranks between them."""
    reward: str | None = None
    """Which reward's scores rank, where the table holds several."""
    margin: float = Field(0.0, ge=0)
    """An image whose score is within this of the better one before it is a tie and left out; units of the score."""

    def layout(self, table: Table) -> Layout:
        prompt = find_column(table, role.PROMPT, self.columns)
        image = find_column(table, role.IMAGE, self.columns)
        rank = match_column(table, role.RANK, self.columns)
        score = match_column(table, role.SCORE, self.columns)
        score = find_column(table, role.SCORE, self.columns) if rank is None and score is None else score
        reward = self._reward_column(table)

        def read(row: Row) -> Example | Problem:
            if reward is not None and row.cells.get(reward) != self.reward:
                return Problem(row.origin, OTHER_REWARD, f"{reward} is {shown(row.cells.get(reward))}")
            if score is not None:
                return read_example(row, prompt, (image,), (score,))
            found = read_example(row, prompt, (image,), (rank,) if rank is not None else None)
            return found if isinstance(found, Problem) else replace(found, scores=(-_score(found),))

        by = f"score '{score}'" if score is not None else f"rank '{rank}' (1 is the best)"
        words = f"{table.path.name}: image '{image}', prompt '{prompt}', {by}, up to {self.views} a prompt"
        return Layout(words, read, arrange=self._ranked)

    def unfolded(self, table: Table) -> Table:
        return unfold_lists(table, self.columns)

    def _reward_column(self, table: Table) -> str | None:
        """The column that must name the wanted reward; None where one reward gave all scores."""
        column = match_column(table, role.REWARD, self.columns)
        known = [] if column is None else sorted({str(row.cells.get(column)) for row in table.rows})
        if self.reward is None and len(known) > 1:
            raise DataError(f"{table.path}: holds scores of {', '.join(known)}; set data.reward to one of them")
        if self.reward is not None and self.reward not in known:
            raise DataError(
                f"{table.path}: data.reward is '{self.reward}'; it holds scores of {', '.join(known) or 'one, unnamed'}"
            )
        return column if len(known) > 1 else None

    def _ranked(self, rows: list[Example]) -> tuple[list[Example], list[Problem]]:
        prompts: dict[str, list[Example]] = {}
        for row in rows:
            prompts.setdefault(row.prompts[0], []).append(row)
        lists, left_out = [], []
        for images in prompts.values():
            ranked, ties = _distinct(images, self.margin)
            left_out += ties
            if len(ranked) < 2:
                left_out.append(Problem(ranked[0].origin, TIE, f"the only image left of {shown(ranked[0].prompts[0])}"))
                continue
            ranks = _spread_ranks(len(ranked), self.views)
            lists.append(_list_of([ranked[rank] for rank in ranks], self.views))
            others = (image for rank, image in enumerate(ranked) if rank not in ranks)
            left_out += (Problem(image.origin, MIDDLE_RANK, f"score {_score(image):g}") for image in others)
        return lists, left_out

    def read_folder(self, folder: Path) -> Table | None:
        return None


def _score(row: Example) -> float:
    assert row.scores is not None
    return row.scores[0]


def _distinct(images: list[Example], margin: float) -> tuple[list[Example], list[Problem]]:
    """Images by falling score, each more than the margin below the one before, and those that are not."""
    kept: list[Example] = []
    ties = []
    for image in sorted(images, key=_score, reverse=True):
        if kept and _score(kept[-1]) - _score(image) <= margin:
            ties.append(Problem(image.origin, TIE, f"score {_score(image):g} after {_score(kept[-1]):g}"))
        else:
            kept.append(image)
    return kept, ties


def _spread_ranks(images: int, count: int) -> list[int]:
    """At most `count` ranks of so many images, the first and the last among them."""
    if images <= count:
        return list(range(images))
    return [round(place * (images - 1) / (count - 1)) for place in range(count)]


def _list_of(ranked: list[Example], views: int) -> Example:
    """One example of `views` views, padded with its last image."""
    padded = [*ranked, *[ranked[-1]] * (views - len(ranked))]
    return Example(
        ranked[0].prompts,
        tuple(image.images[0] for image in padded),
        tuple(_score(image) for image in padded),
        ranked[0].origin,
        present=len(ranked),
    )
