"""Single images that are liked or not, from labels, from pairs, or from prompts that fit and do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from t2ialign.data.account import NO_LABEL, Problem
from t2ialign.data.base import Example, Source
from t2ialign.data.images import image_key
from t2ialign.data.kinds.pairs import pair_layout
from t2ialign.data.kinds.text_pairs import text_pair_layout
from t2ialign.data.tables import columns as role
from t2ialign.data.tables.cells import read_example, shown
from t2ialign.data.tables.columns import find_column, match_column
from t2ialign.data.tables.folders import pair_folders, read_pair_folders
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.unfolding import unfold_pairs
from t2ialign.errors import InputError
from t2ialign.progress import track

LIKED, DISLIKED = (1.0,), (0.0,)
_LABELS = {"1": LIKED, "1.0": LIKED, "true": LIKED, "0": DISLIKED, "0.0": DISLIKED, "false": DISLIKED}


class LabelledData(TableData):
    """Single images with a label, 1 for liked and 0 for disliked.

    Of a table of pairs every image once, liked if it was preferred at least once, as Diffusion-KTO reads Pick-a-Pic; of
    a table of text pairs every image twice, liked under the prompt that fits it (TKTO).
    """

    name: str = "labelled"
    desirable_share: float | None = Field(None, gt=0, lt=1)
    """Share of liked images in an epoch, made by repeating rows of the rarer kind; default: as they come."""

    views: ClassVar[int] = 1

    def layout(self, table: Table) -> Layout:
        image = match_column(table, role.IMAGE, self.columns)
        if image is None:
            pairs = pair_layout(table, self.columns)
            return Layout(f"{pairs.words}; every image once", pairs.read, pairs.better, _images_of_pairs)
        if match_column(table, role.MISMATCHED, self.columns) is not None:
            if self.prompt_dropout:
                raise InputError(
                    f"data.prompt_dropout is {self.prompt_dropout:g}, but {table.path} holds text pairs: without its "
                    "prompts an image is both liked and disliked; set data.prompt_dropout=0"
                )
            texts = text_pair_layout(table, self.columns)
            return Layout(f"{texts.words}; a row each", texts.read, arrange=_prompts_of_pairs)
        prompt = find_column(table, role.PROMPT, self.columns)
        liked = find_column(table, role.LIKED, self.columns)

        def read(row: Row) -> Example | Problem:
            found = read_example(row, prompt, (image,), None)
            label = _label(row.cells.get(liked))
            if label is None and isinstance(found, Example):
                return Problem(row.origin, NO_LABEL, f"{liked} is {shown(row.cells.get(liked))}; known are 1 and 0")
            return replace(found, scores=label) if isinstance(found, Example) else found

        return Layout(f"{table.path.name}: image '{image}', prompt '{prompt}', liked '{liked}'", read)

    def unfolded(self, table: Table) -> Table:
        return unfold_pairs(table, self.columns)

    def read_folder(self, folder: Path) -> Table | None:
        names = pair_folders(folder)
        return None if names is None else read_pair_folders(folder, names)

    def epoch_indices(self, source: Source) -> Sequence[int]:
        if self.desirable_share is None:
            return range(len(source))
        liked = [row for row in range(len(source)) if source[row].scores == LIKED]
        others = [row for row in range(len(source)) if source[row].scores != LIKED]
        return balanced(liked, others, self.desirable_share)


def balanced(first: Sequence[int], second: Sequence[int], share: float) -> list[int]:
    """All rows of both kinds, those of one kind repeated so that the first kind makes up `share` of the whole.

    Whole copies first; what is left is spread evenly. Kinds without rows are left as they are.
    """
    if not first or not second:
        return [*first, *second]
    wanted = round(len(second) * share / (1 - share))
    if wanted >= len(first):
        return [*_repeated(first, wanted), *second]
    return [*first, *_repeated(second, round(len(first) * (1 - share) / share))]


def _repeated(rows: Sequence[int], wanted: int) -> list[int]:
    whole, left = divmod(wanted, len(rows))
    return [*rows] * whole + [rows[place * len(rows) // left] for place in range(left)]


def _label(value: Any) -> tuple[float] | None:
    """(1.0,), (0.0,), or None for what is no label."""
    return _LABELS.get(str(value).strip().lower())


def _images_of_pairs(pairs: list[Example]) -> tuple[list[Example], list[Problem]]:
    """Every image of a prompt once, in the order of their first row."""
    found: dict[Any, Example] = {}
    for pair in track(pairs, "identifying the images of pairs", len(pairs)):
        for image, label in zip(pair.images, (LIKED, DISLIKED), strict=True):
            key = (pair.prompts[0], image_key(image, pair.origin))
            known = found.setdefault(key, Example(pair.prompts, (image,), label, pair.origin))
            if label == LIKED:
                found[key] = replace(known, scores=LIKED)
    return list(found.values()), []


def _prompts_of_pairs(pairs: list[Example]) -> tuple[list[Example], list[Problem]]:
    """Every image with the prompt that fits it, liked, and with the one that does not."""
    rows = [
        replace(pair, prompts=(prompt,), scores=label)
        for pair in pairs
        for prompt, label in zip(pair.prompts, (LIKED, DISLIKED), strict=True)
    ]
    return rows, []
