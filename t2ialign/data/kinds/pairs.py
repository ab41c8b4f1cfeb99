"""Pairs: a prompt, a chosen and a rejected image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from t2ialign.data.account import BOTH_LIKED, NEITHER_LIKED, NO_LABEL, TIE, UNLABELLED, Problem
from t2ialign.data.base import Example, Source
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import number_of, read_example, shown
from t2ialign.data.tables.columns import Columns, find_column, match_column
from t2ialign.data.tables.folders import pair_folders, read_pair_folders
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.unfolding import unfold_pairs
from t2ialign.errors import DataError, InputError


class PairData(TableData):
    """Pairs of images of one prompt, the first preferred."""

    name: str = "pairs"
    reverse: bool = False
    """Exchange chosen and rejected and negate their scores, for a negative model (Diffusion-NPO, arXiv:2505.11245)."""
    order: Literal["random", "easy_first"] = "random"
    """Order of the first pass: random, or by falling difference of the two scores (a curriculum); later passes are
    random."""
    views: ClassVar[int] = 2

    def curriculum_scores(self, source: Source) -> list[float] | None:
        """
        Raises:
            InputError: a curriculum without scores.
        """
        if self.order == "random":
            return None
        margins = []
        for example in (source[row] for row in range(len(source))):
            if example.scores is None:
                raise InputError(
                    f"{example.origin}: data.order is easy_first, which goes by the scores of both images, and there "
                    "are none; give columns score_chosen and score_rejected (`t2ialign data relabel` writes them)"
                )
            margins.append(example.scores[0] - example.scores[1])
        return margins

    def layout(self, table: Table) -> Layout:
        layout = pair_layout(table, self.columns)
        if not self.reverse:
            return layout
        return layout._replace(words=f"{layout.words}; chosen and rejected exchanged", arrange=_reversed)

    def unfolded(self, table: Table) -> Table:
        return unfold_pairs(table, self.columns)

    def read_folder(self, folder: Path) -> Table | None:
        names = pair_folders(folder)
        return None if names is None else read_pair_folders(folder, names)


def _reversed(pairs: list[Example]) -> tuple[list[Example], list[Problem]]:
    """Each pair with its views exchanged, and their scores negated: a negative model's reward is minus the reward."""
    return [replace(pair, images=pair.images[::-1], scores=_negated(pair.scores)) for pair in pairs], []


def _negated(scores: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if scores is None else tuple(-score for score in reversed(scores))


def pair_layout(table: Table, columns: Columns) -> Layout:
    """How a table of pairs is read: chosen and rejected columns, or two images and which is better.

    Raises:
        DataError: columns are missing, with the likely typo.
    """
    prompt = find_column(table, role.PROMPT, columns)
    by_label = match_column(table, role.IMAGE_0, columns) is not None
    if by_label and match_column(table, role.CHOSEN, columns) is None:
        return _labelled_layout(table, columns, prompt)
    views = (find_column(table, role.CHOSEN, columns), find_column(table, role.REJECTED, columns))
    scores = _score_columns(table, columns)
    words = f"{table.path.name}: chosen '{views[0]}', rejected '{views[1]}', prompt '{prompt}'"
    words += f", scores '{scores[0]}' and '{scores[1]}'" if scores else ""
    return Layout(words, lambda row: read_example(row, prompt, views, scores))


def _score_columns(table: Table, columns: Columns) -> tuple[str, str] | None:
    chosen = match_column(table, role.SCORE_CHOSEN, columns)
    rejected = match_column(table, role.SCORE_REJECTED, columns)
    if (chosen is None) != (rejected is None):
        raise DataError(
            f"{table.path}: has only '{chosen or rejected}' of two score columns; add the other or remove it"
        )
    return None if chosen is None or rejected is None else (chosen, rejected)


def _labelled_layout(table: Table, columns: Columns, prompt: str) -> Layout:
    views = (find_column(table, role.IMAGE_0, columns), find_column(table, role.IMAGE_1, columns))
    preferred = match_column(table, role.PREFERRED, columns)
    if preferred is not None:
        words = f"'{preferred}' is the number of the better image"
        better = _bynumber_of(preferred)
    else:
        label = find_column(table, role.LABEL, columns)
        words = f"'{label}' is 1 where '{views[0]}' is better, 0 where '{views[1]}' is (Pick-a-Pic's rule)"
        better = _checked(table, _by_label(label, match_column(table, role.LABEL_1, columns)))

    def read(row: Row) -> Example | Problem:
        first = better(row)
        if isinstance(first, Problem):
            return first
        ordered = views if first == 0 else views[::-1]
        return read_example(row, prompt, ordered, None)

    return Layout(f"{table.path.name}: images '{views[0]}' and '{views[1]}', prompt '{prompt}', {words}", read, better)


def _bynumber_of(column: str) -> Callable[[Row], int | Problem]:
    """Which image is better, from a column that holds its number."""

    def better(row: Row) -> int | Problem:
        value = number_of(row.cells.get(column))
        if value in (0.0, 1.0):
            return int(value)
        detail = f"{column} is {shown(row.cells.get(column))}; known are 0 and 1, the number of the better image"
        return Problem(row.origin, NO_LABEL, detail)

    return better


def _by_label(column: str, other: str | None) -> Callable[[Row], int | Problem]:
    """Which image is better, from Pick-a-Pic's label of the first image, checked against the second's."""

    def better(row: Row) -> int | Problem:
        first = number_of(row.cells.get(column))
        if first not in (0.0, 0.5, 1.0):
            detail = f"{column} is {shown(row.cells.get(column))}; known are 1, 0 and 0.5"
            return Problem(row.origin, NO_LABEL, detail)
        second = 1 - first if other is None else number_of(row.cells.get(other))
        if first == second:
            reason = {0.0: NEITHER_LIKED, 1.0: BOTH_LIKED}.get(first, TIE)
            return Problem(row.origin, reason, f"{column} is {first:g}" + ("" if other is None else f", {other} too"))
        if second != 1 - first:
            detail = f"{column} is {first:g}, but {other} is {shown(row.cells.get(other or ''))}"
            return Problem(row.origin, NO_LABEL, detail)
        return 0 if first == 1.0 else 1

    return better


def _checked(table: Table, better: Callable[[Row], int | Problem]) -> Callable[[Row], int | Problem]:
    """Which image is better, unless Pick-a-Pic's has_label denies that there is a label, or best_image_uid names the
    other image."""
    has_label = match_column(table, role.HAS_LABEL, None)
    best, *uids = (match_column(table, one, None) for one in (role.BEST_UID, role.UID_0, role.UID_1))

    def checked(row: Row) -> int | Problem:
        if has_label is not None and str(row.cells.get(has_label)).strip().lower() in ("false", "0"):
            return Problem(row.origin, UNLABELLED, f"{has_label} is {shown(row.cells.get(has_label))}")
        found = better(row)
        if isinstance(found, Problem) or best is None or None in uids:
            return found
        named = row.cells.get(best)
        chosen, rejected = (row.cells.get(str(uids[view])) for view in (found, 1 - found))
        if named is not None and named == rejected != chosen:
            return Problem(row.origin, NO_LABEL, f"{best} is {shown(named)}, the worse image by its label")
        return found

    return checked
