"""Tables with all images of a prompt in one row, as in HPD: unfolded to a row an image, or to a pair with labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ialign.data.tables import columns as role
from t2ialign.data.tables.columns import Columns, Role, match_column
from t2ialign.data.tables.table import Row, Table, is_file

PAIR = (role.IMAGE_0.key, role.IMAGE_1.key, "label_0", "label_1")


def unfold_lists(table: Table, columns: Columns) -> Table:
    """A row an image, where rows hold lists of images; other tables as they are.

    Its score is the one at its place of the list of scores or preferences, or minus its rank: rank 1 is the best.
    """
    image = _list_column(table, columns)
    if image is None:
        return table
    rank, score = _values(table, columns)
    cells = "rank" if rank else "score"
    rows = [
        Row({**_others(row, (image, rank, score)), "image": file, cells: value}, f"{row.origin}[{place}]", folder)
        for row in table.rows
        for folder in [_folder(table, row, image)]
        for place, (file, value) in enumerate(_paired(row, image, rank or score), start=1)
    ]
    names = dict.fromkeys(["image", cells, *(name for name in table.columns if name not in (image, rank, score))])
    return table._replace(columns=list(names), rows=rows, format=f"{table.format} of lists")


def unfold_pairs(table: Table, columns: Columns) -> Table:
    """Two images and their labels a row, where rows hold lists of two; other tables as they are.

    A row with more images keeps its list, which no pair can be read from.
    """
    image = _list_column(table, columns)
    if image is None:
        return table
    rank, score = _values(table, columns)
    rows = []
    for row in table.rows:
        found = list(_paired(row, image, rank or score))
        cells = _others(row, (image, rank, score))
        if len(found) == 2:
            (first, one), (second, two) = found
            cells |= dict(zip(PAIR, (first, second, *_labels(one, two, lower_is_better=rank is not None)), strict=True))
        else:
            cells |= {PAIR[0]: [file for file, _ in found], "label_0": 1, "label_1": 0}
        rows.append(Row(cells, row.origin, _folder(table, row, image)))
    names = dict.fromkeys([*PAIR, *(name for name in table.columns if name not in (image, rank, score))])
    return table._replace(columns=list(names), rows=rows, format=f"{table.format} of lists of two")


def _list_column(table: Table, columns: Columns) -> str | None:
    """The column of images, if its cells are lists."""
    image = match_column(table, role.IMAGE, columns)
    if image is None or not table.rows:
        return None
    return image if isinstance(table.rows[0].cells.get(image), list) else None


def _values(table: Table, columns: Columns) -> tuple[str | None, str | None]:
    """The columns of ranks, and of scores or preferences."""

    def find(*roles: Role) -> str | None:
        return next((name for one in roles if (name := match_column(table, one, columns)) is not None), None)

    score = find(role.SCORE, role.PREFERENCE)
    return (find(role.RANK) if score is None else None), score


def _paired(row: Row, image: str, values: str | None) -> Iterator[tuple[Any, Any]]:
    """Each image of a row and what stands at its place of another list; None where that list is shorter."""
    images, given = row.cells.get(image), row.cells.get(values or "")
    given = given if isinstance(given, list) else []
    for place, file in enumerate(images if isinstance(images, list) else [images]):
        yield file, given[place] if place < len(given) else None


def _labels(one: Any, two: Any, *, lower_is_better: bool) -> tuple[Any, Any]:
    """Pick-a-Pic's labels of two numbers; what is none stays as it is, to be told."""
    if not all(isinstance(value, int | float) for value in (one, two)):
        return one, two
    if one == two:
        return 0.5, 0.5
    return (1, 0) if (one > two) != lower_is_better else (0, 1)


def _others(row: Row, known: tuple[str | None, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.cells.items() if name not in known}


def _folder(table: Table, row: Row, image: str) -> Path:
    """Where the images of a row lie: beside the table, or in a folder named as the table, or in images/."""
    files = row.cells.get(image)
    first = files[0] if isinstance(files, list) and files and isinstance(files[0], str) else ""
    places = (row.folder, row.folder / table.path.stem, row.folder / "images")
    return next((place for place in places if first and is_file(place / first)), row.folder)
