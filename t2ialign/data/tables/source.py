"""Tables of examples: every row becomes an example, or is left out for a reason."""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from t2ialign.data.account import (
    NO_IMAGE,
    NO_PROMPT,
    NO_SCORE,
    NO_TEXT,
    UNREADABLE,
    DataAccount,
    Problem,
    unusable_rows_error,
)
from t2ialign.data.base import DataConfig, Example, StoredImage
from t2ialign.data.images import ImageDigests, in_threads, open_image
from t2ialign.data.tables.columns import Columns, check_named_columns
from t2ialign.data.tables.folders import images_without_row
from t2ialign.data.tables.table import Row, Table, find_table, is_file, read_table
from t2ialign.errors import DataError, InputError
from t2ialign.progress import track

SHOWN_CHARACTERS = 40
"""Characters of a cell that a message repeats."""


class Layout(NamedTuple):
    """How the rows of a table are read."""

    words: str
    """What was understood."""
    read: Callable[[Row], Example | Problem]
    better: Callable[[Row], int | Problem] | None = None
    """Which of two images is better, where a label says it."""
    arrange: Callable[[list[Example]], tuple[list[Example], list[Problem]]] | None = None
    """Makes examples of usable rows where an example is not one row; and the rows it leaves out."""


class TableSource:
    """Examples of a table, images still on disk."""

    def __init__(self, examples: Sequence[Example], views: int, account: DataAccount, digests: ImageDigests):
        self.views = views
        self.account = account
        self.digests = digests
        self._examples = examples
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    @property
    def fingerprint(self) -> str:
        """Of prompts, scores and the bytes of all images, in order; where the files lie does not matter."""
        if self._fingerprint is None:
            self._fingerprint = self._find_fingerprint()
        return self._fingerprint

    def _find_fingerprint(self) -> str:
        self.digests.add_files(image for example in self._examples for image in example.images)
        whole = hashlib.sha256(f"{self.views}".encode())
        for example in self._examples:
            images = [self.digests[image] for image in example.images]
            whole.update(repr((example.prompts, example.scores, images)).encode())
        return whole.hexdigest()[:16]


class Reading(NamedTuple):
    """A table, how it is understood, and the examples made of it."""

    table: Table
    layout: Layout
    source: TableSource


class TableData(DataConfig):
    """Examples from a CSV, TSV, JSONL or Parquet table with a row each, or from folders."""

    columns: Columns = Columns()
    """Names of columns that are not found by themselves."""
    split: str | None = None
    """Which part of the data set, as train, where a folder holds the Parquet shards of several."""
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

    def read_file(self, path: Path) -> Table:
        """The table in a file. default: CSV, TSV, JSON lines or Parquet"""
        return read_table(path)

    def open(self) -> TableSource:
        """Reads and checks the table.

        Raises:
            InputError: the path does not exist or is no kind of table.
            DataError: rows cannot be used and `on_bad` or `ties` says so, or none can.
        """
        source = self.read(decode=self.on_bad == "drop").source
        account = source.account
        if account.problems and self.on_bad == "error":
            raise unusable_rows_error(self.path, account.rows, account.problems)
        if account.ties and self.ties == "error":
            raise DataError(
                f"{self.path}: {len(account.ties):,} of {account.rows:,} rows are ties, first: {account.ties[0]}; "
                "set data.ties=drop to leave them out"
            )
        if not len(source):
            raise _nothing_usable(account)
        return source

    def read(self, *, decode: bool) -> Reading:
        """All rows, usable or not, whatever `on_bad` and `ties` say; with `decode` damaged images are found too."""
        table = self._table()
        check_named_columns(table, self.columns)
        layout = self.layout(table)
        outcomes = [layout.read(row) for row in table.rows]
        examples = [outcome for outcome in outcomes if isinstance(outcome, Example)]
        left_out = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
        digests = ImageDigests()
        if decode:
            damage = unreadable_images(examples, digests)
            left_out += [problem for problem in damage if problem is not None]
            examples = [example for example, problem in zip(examples, damage, strict=True) if problem is None]
        if layout.arrange is not None:
            examples, others = layout.arrange(examples)
            left_out += others
        account = DataAccount(self.path, layout.words, len(table.rows), len(examples), tuple(left_out), table.unused)
        return Reading(table, layout, TableSource(examples, self.views, account, digests))

    def _table(self) -> Table:
        if not is_file(self.path) and not self.path.is_dir():
            raise InputError(f"{self.path}: no such file or folder (data.path)")
        if not self.path.is_dir():
            return self.read_file(self.path)
        try:
            return self.read_folder(self.path) or self._table_of_folder()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None

    def _table_of_folder(self) -> Table:
        found = find_table(self.path)
        if found is None:
            seen = ", ".join(sorted(path.name for path in self.path.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{self.path}: holds no table (.csv, .tsv, .jsonl, .parquet) and no folders w/ and l/; it holds {seen}"
            )
        table = read_table(found, self.split)
        return table._replace(unused=(*table.unused, *images_without_row(table, self.path)))


def _nothing_usable(account: DataAccount) -> DataError:
    if account.ties and len(account.ties) == account.rows:
        return DataError(
            f"{account.path}: all {account.rows:,} rows are ties, so there is nothing to learn from; first: "
            f"{account.ties[0]}. Is the label in another column? Set data.columns.label"
        )
    first = f"; first problem: {account.problems[0]}" if account.problems else ""
    return DataError(f"{account.path}: none of {account.rows:,} rows can be used ({len(account.ties):,} ties){first}")


def unreadable_images(examples: Sequence[Example], digests: ImageDigests) -> list[Problem | None]:
    """For each example, why its images cannot be used, or None; decodes them whole."""

    def problem(example: Example) -> Problem | None:
        for image in example.images:
            try:
                open_image(image, digests)
            except DataError as error:
                where = f"{image}: " if not isinstance(image, bytes) else ""
                return Problem(example.origin, UNREADABLE, f"{where}{error}")
        return None

    return list(track(in_threads(problem, examples), "checking images", len(examples)))


def first_view(outcome: Example | Problem) -> Example | Problem:
    """An example of the first view alone; a problem stays one."""
    if isinstance(outcome, Problem):
        return outcome
    scores = None if outcome.scores is None else outcome.scores[:1]
    return Example(outcome.prompts[:1], outcome.images[:1], scores, outcome.origin)


def number_of(value: Any) -> float | None:
    """The finite number a cell holds, or None."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """A cell as a message repeats it: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def read_prompt(row: Row, column: str) -> str | Problem:
    """The prompt in a column, without surrounding blanks, or why there is none."""
    text = row.cells.get(column)
    if not isinstance(text, str) or not text.strip():
        return Problem(row.origin, NO_PROMPT, f"{column} is empty")
    if re.search("[\ud800-\udfff]", text):
        return Problem(row.origin, NO_TEXT, f"{column} holds half of a surrogate pair: {shown(ascii(text))}")
    return text.strip()


def read_example(
    row: Row, table: Table, prompt: str, views: tuple[str, ...], scores: tuple[str, ...] | None
) -> Example | Problem:
    """The example of a row, or what it lacks.

    Args:
        prompt: the column of the prompt.
        views: the columns of the images.
        scores: the columns of the scores, one a view.
    """
    text = read_prompt(row, prompt)
    if isinstance(text, Problem):
        return text
    images: list[Path | StoredImage] = []
    for column in views:
        image = _image(row, table, column)
        if isinstance(image, Problem):
            return image
        images.append(image)
    if scores is None:
        return Example((text,), tuple(images), None, row.origin)
    values: list[float] = []
    for column in scores:
        value = number_of(row.cells.get(column))
        if value is None:
            return Problem(row.origin, NO_SCORE, f"{column} is {shown(row.cells.get(column))}")
        values.append(value)
    return Example((text,), tuple(images), tuple(values), row.origin)


def _image(row: Row, table: Table, column: str) -> Path | StoredImage | Problem:
    """Where a view's image lies."""
    value = row.cells.get(column)
    if isinstance(value, dict):  # as data-set libraries write an image that lies beside the table
        value = value.get("path")
    if isinstance(value, StoredImage):
        return value
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return Problem(row.origin, NO_IMAGE, f"{column} is empty")
    if not isinstance(value, str):
        return Problem(row.origin, NO_IMAGE, f"{column} is {shown(value)}, which names no file")
    path = table.folder / value.strip()
    if is_file(path):
        return path
    if len(value) > 1000:
        detail = f"{column} is no path but {len(value):,} characters, {value[:20]!r}…; write the image into a file"
        return Problem(row.origin, NO_IMAGE, detail)
    return Problem(row.origin, NO_IMAGE, f"{column}: no such image {path}")
