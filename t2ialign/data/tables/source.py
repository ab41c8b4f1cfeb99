"""Tables of examples: every row becomes an example or a counted problem."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from t2ialign.data.base import DataConfig, Example, StoredImage
from t2ialign.data.problems import NO_IMAGE, NO_PROMPT, NO_SCORE, TIE, Problem, refusal, threads, unreadable
from t2ialign.data.tables.columns import Columns
from t2ialign.data.tables.table import EmbeddedImage, Row, Table, find_table, read_table
from t2ialign.errors import DataError, InputError
from t2ialign.progress import track
from t2ialign.storage.digest import file_digest


class Scan(NamedTuple):
    """All rows of a table, each either usable, a tie or a problem."""

    layout: str
    """What was understood, in words."""
    rows: int
    usable: list[Example]
    ties: list[Problem]
    problems: list[Problem]
    first_better: tuple[int, int] | None
    """Of the rows with a label, how many prefer the first image, and how many there are."""
    table: Table
    better: Callable[[Row], int | Problem] | None
    """Which of two images is better, where a label says it."""


class Arranged(NamedTuple):
    """Examples made of usable rows."""

    examples: list[Example]
    ties: list[Problem]
    """Rows left out because nothing is preferred in them."""


class Layout(NamedTuple):
    """How the rows of a table are read."""

    words: str
    read: Callable[[Row], Example | Problem]
    better: Callable[[Row], int | Problem] | None = None
    """Which of two images is better, where a label says it."""
    arrange: Callable[[list[Example]], Arranged] | None = None
    """How usable rows become examples, where an example is not one row."""
    takes: Callable[[Row], bool] | None = None
    """Which rows are meant at all; every one if not said."""


class TableSource:
    """Examples of a table, images still on disk."""

    def __init__(self, examples: list[Example], views: int):
        self.views = views
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    @cached_property
    def fingerprint(self) -> str:
        """Of prompts, scores and the bytes of all images, in order; where the files lie does not matter."""
        files = _files_of(self._examples)
        with ThreadPoolExecutor(threads()) as pool:
            hashes = track(pool.map(file_digest, files), "reading images for the data's fingerprint", len(files))
            digests = dict(zip(files, hashes, strict=True))
        whole = hashlib.sha256(f"{self.views}".encode())
        for example in self._examples:
            images = [_image_identity(image, digests) for image in example.images]
            whole.update(repr((example.prompts, example.scores, images)).encode())
        return whole.hexdigest()[:16]


def _file_of(image: Path | bytes | StoredImage) -> Path | None:
    if isinstance(image, EmbeddedImage):
        return image.images.path
    return image if isinstance(image, Path) else None


def _files_of(examples: list[Example]) -> list[Path]:
    files = (_file_of(image) for example in examples for image in example.images)
    return list(dict.fromkeys(file for file in files if file is not None))


def _image_identity(image: Path | bytes | StoredImage, digests: dict[Path, str]) -> str:
    if isinstance(image, EmbeddedImage):
        return f"{digests[image.images.path]}/{image.images.column}/{image.row}"
    if isinstance(image, Path):
        return digests[image]
    return hashlib.sha256(image if isinstance(image, bytes) else image.read()).hexdigest()


class TableData(DataConfig):
    """Examples from a CSV, TSV, JSONL or Parquet table with a row each, or from folders."""

    columns: Columns = Columns()
    """Names of columns that are not found by themselves."""
    ties: Literal["drop", "error"] = "drop"
    """What is done with rows where neither image is preferred."""
    on_bad: Literal["error", "drop"] = "error"
    """What is done with rows without prompt, image or label; drop decodes every image once to find the damaged ones."""

    @abstractmethod
    def layout(self, table: Table) -> Layout:
        """How this table's rows are to be read."""

    @abstractmethod
    def read_folder(self, folder: Path) -> Table | None:
        """The examples of a folder of images, or None if it is not laid out as one."""

    def open(self) -> TableSource:
        """Reads and checks the table.

        Raises:
            InputError: the path does not exist or is no kind of table.
            DataError: rows cannot be used and `on_bad` or `ties` says so, or none can.
        """
        scan = self.scan(decode=self.on_bad == "drop")
        if scan.problems and self.on_bad == "error":
            raise refusal(self.path, scan.rows, scan.problems)
        if scan.ties and self.ties == "error":
            raise DataError(
                f"{self.path}: {len(scan.ties):,} of {scan.rows:,} rows are ties, first: {scan.ties[0]}; "
                "set data.ties=drop to leave them out"
            )
        if not scan.usable:
            raise _nothing_usable(self.path, scan)
        return TableSource(scan.usable, self.views)

    def scan(self, *, decode: bool) -> Scan:
        """Sorts all rows into usable ones, ties and problems; with `decode` damaged images are found too."""
        table = self._table()
        layout = self.layout(table)
        read = [layout.read(row) for row in table.rows if layout.takes is None or layout.takes(row)]
        usable = [outcome for outcome in read if isinstance(outcome, Example)]
        problems = [outcome for outcome in read if isinstance(outcome, Problem) and outcome.reason != TIE]
        ties = [outcome for outcome in read if isinstance(outcome, Problem) and outcome.reason == TIE]
        if decode:
            damage = unreadable(usable)
            problems += [found for found in damage if found is not None]
            usable = [example for example, found in zip(usable, damage, strict=True) if found is None]
        if layout.arrange is not None:
            usable, left_out = layout.arrange(usable)
            ties += left_out
        return Scan(
            layout.words, len(table.rows), usable, ties, problems, _first_better(table, layout), table, layout.better
        )

    def _table(self) -> Table:
        if not self.path.exists():
            raise InputError(f"{self.path}: no such file or folder (data.path)")
        if not self.path.is_dir():
            return read_table(self.path)
        table = self.read_folder(self.path)
        if table is not None:
            return table
        found = find_table(self.path)
        if found is None:
            seen = ", ".join(sorted(path.name for path in self.path.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{self.path}: holds no table (.csv, .tsv, .jsonl, .parquet) and no folders w/ and l/; it holds {seen}"
            )
        return read_table(found)


def _first_better(table: Table, layout: Layout) -> tuple[int, int] | None:
    if layout.better is None:
        return None
    labels = [label for label in map(layout.better, table.rows) if isinstance(label, int)]
    return labels.count(0), len(labels)


def _nothing_usable(path: Path, scan: Scan) -> DataError:
    if scan.ties and not scan.problems:
        return DataError(
            f"{path}: all {scan.rows:,} rows are ties, so there is nothing to learn from; first: {scan.ties[0]}. "
            "Is the label in another column? Set data.columns.label"
        )
    told = f"; first problem: {scan.problems[0]}" if scan.problems else ""
    return DataError(f"{path}: none of {scan.rows:,} rows can be used ({len(scan.ties):,} ties){told}")


def _first_view(outcome: Example | Problem) -> Example | Problem:
    if isinstance(outcome, Problem):
        return outcome
    scores = None if outcome.scores is None else outcome.scores[:1]
    return Example(outcome.prompts[:1], outcome.images[:1], scores, outcome.origin)


def _number(value: Any) -> float | None:
    """The finite number a cell holds, or None."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_example(
    row: Row, table: Table, prompt: str, views: tuple[str, ...], scores: tuple[str, ...] | None
) -> Example | Problem:
    """The example of a row, or what it lacks."""
    text = row.cells.get(prompt)
    if not isinstance(text, str) or not text.strip():
        return Problem(row.origin, NO_PROMPT, f"{prompt} is empty")
    images = tuple(_image(row, table, column) for column in views)
    for image in images:
        if isinstance(image, Problem):
            return image
    values = None if scores is None else tuple(_number(row.cells.get(column)) for column in scores)
    if values is not None and None in values:
        column = (scores or ())[values.index(None)]
        return Problem(row.origin, NO_SCORE, f"{column} is {row.cells.get(column)!r}")
    return Example((text.strip(),), images, values, row.origin)  # type: ignore[arg-type]


def _image(row: Row, table: Table, column: str) -> Path | EmbeddedImage | Problem:
    """Where a view's image lies."""
    value = row.cells.get(column)
    if isinstance(value, EmbeddedImage):
        return value
    if isinstance(value, dict):  # as data-set libraries write an image that lies beside the table
        value = value.get("path")
    if not isinstance(value, str) or not value.strip():
        return Problem(row.origin, NO_IMAGE, f"{column} is empty")
    path = table.folder / value.strip()
    if not path.is_file():
        return Problem(row.origin, NO_IMAGE, f"{column}: no such image {path}")
    return path
