"""Tables of examples: every row becomes an example, or is left out for a reason."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from t2ialign.data.account import (
    DUPLICATE,
    EXCLUDED,
    IDENTICAL,
    NSFW,
    DataAccount,
    Problem,
    by_reason,
    unusable_rows_error,
)
from t2ialign.data.base import DataConfig, Example
from t2ialign.data.images import ImageDigests
from t2ialign.data.tables.columns import Columns, check_named_columns
from t2ialign.data.tables.examples import chosen, usable_rows
from t2ialign.data.tables.folders import images_without_row
from t2ialign.data.tables.hub import find_data
from t2ialign.data.tables.parts import SUFFIXES
from t2ialign.data.tables.reading import read_table, read_tables
from t2ialign.data.tables.screening import examine, row_screen, screen_examples
from t2ialign.data.tables.table import Row, Table
from t2ialign.errors import DataError, InputError


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
    sizes: Mapping[tuple[int, int], int]
    """(width, height) -> images of usable rows, if they were decoded."""


class TableData(DataConfig):
    """Examples from a table with a row each (docs/data-formats.md lists the kinds), or from folders of images."""

    columns: Columns = Columns()
    """Names of columns that are not found by themselves."""
    split: str | None = None
    """Which part of the data set, as train, where a folder or a hub data set holds several."""
    shards: int | None = Field(None, ge=1)
    """Files that are read of a table of several, in order; default: all. Of a hub data set only they are downloaded."""
    mirrors: tuple[str, ...] = ()
    """Copies of the data set, asked in order where data.path is not there: folders, file:///folder, or hub ids."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set, default: main; hf://owner/name@REVISION says it for one id."""
    ties: Literal["drop", "error"] = "drop"
    """What is done with rows where neither image is preferred."""
    on_bad: Literal["error", "drop"] = "error"
    """What is done with rows without prompt, image or label; drop decodes every image once to find the damaged ones."""
    identical: Literal["keep", "drop"] = "keep"
    """Pairs of one image twice; kept ones are counted. drop decodes every image, so that contents are compared."""
    duplicates: Literal["keep", "drop"] = "keep"
    """The same for rows that repeat an earlier one: prompt, images and their order."""
    nsfw: Literal["keep", "drop"] = "keep"
    """Rows whose column nsfw flags them, as true or a probability of 0.5 or more; kept ones are counted."""
    min_side: int | None = Field(None, ge=1)
    """Rows with an image whose shorter side has fewer px are left out; decodes every image once."""

    @abstractmethod
    def layout(self, table: Table) -> Layout:
        """How this table's rows are to be read."""

    @abstractmethod
    def read_folder(self, folder: Path) -> Table | None:
        """The examples of a folder of images, or None if it is not laid out as one."""

    def read_file(self, path: Path) -> Table:
        """The table in a file."""
        return read_table(path)

    def unfolded(self, table: Table) -> Table:
        """The table with rows as `layout` reads them, where a row may hold lists; default: as it is."""
        return table

    def open(self) -> TableSource:
        """Reads and checks the table.

        Raises:
            InputError: the path does not exist or is no kind of table.
            DataError: rows cannot be used and `on_bad` or `ties` says so, or none can.
        """
        source = self.read(decode=self._decodes).source
        account = source.account
        if account.problems and self.on_bad == "error":
            raise unusable_rows_error(self.path, account.rows, account.problems)
        if account.ties and self.ties == "error":
            raise DataError(
                f"{self.path}: {len(account.ties):,} of {account.rows:,} rows are ties, first: {account.ties[0]}; "
                "set data.ties=drop to leave them out"
            )
        if not len(source):
            raise nothing_usable(account)
        return source

    def read(self, *, decode: bool) -> Reading:
        """All rows, usable or not, whatever `on_bad` and `ties` say; with `decode` damaged images are found too."""
        table = self.unfolded(self._table())
        check_named_columns(table, self.columns)
        layout = self.layout(table)
        rows = usable_rows(table.rows, layout.read, row_screen(table, self.columns), self._drops)
        examples, left_out, remarks = rows
        digests = ImageDigests()
        facts = None
        if decode:
            found = examine(examples, digests)
            left_out += [fact for fact in found if isinstance(fact, Problem)]
            examples = chosen(examples, [place for place, fact in enumerate(found) if not isinstance(fact, Problem)])
            facts = [fact for fact in found if not isinstance(fact, Problem)]
        doubts = screen_examples(examples, facts, self.min_side)
        dropped = [doubt is not None and self._drops(doubt.reason) for doubt in doubts]
        left_out += [doubt for doubt, drop in zip(doubts, dropped, strict=True) if doubt is not None and drop]
        remarks += [doubt for doubt, drop in zip(doubts, dropped, strict=True) if doubt is not None and not drop]
        if any(dropped):
            kept = [place for place, drop in enumerate(dropped) if not drop]
            examples = chosen(examples, kept)
            facts = facts and [facts[place] for place in kept]
        if layout.arrange is not None:
            examples, others = layout.arrange(list(examples))
            left_out += others
        account = DataAccount(
            self.path,
            layout.words,
            len(table.rows),
            len(examples),
            tuple(left_out),
            table.unused,
            table.format,
            tuple(remarks),
        )
        sizes = Counter(image.size for example in facts or () for image in example)
        return Reading(table, layout, TableSource(examples, self.views, account, digests), sizes)

    @property
    def _decodes(self) -> bool:
        """Whether what is to be left out is only known once images are decoded."""
        return "drop" in (self.on_bad, self.identical, self.duplicates) or self.min_side is not None

    def _drops(self, reason: str) -> bool:
        """Whether rows with a remark are left out."""
        by_key = {IDENTICAL: self.identical, DUPLICATE: self.duplicates, NSFW: self.nsfw}
        return by_key.get(reason, "drop") == "drop"

    def _table(self) -> Table:
        place = find_data(self.path, self.mirrors, self.revision, self.split, self.shards)
        if not place.path.is_dir():
            return self.read_file(place.path)
        try:
            table = self.read_folder(place.path) or self._table_of_folder(place.path)
        except OSError as error:
            raise InputError(f"{place.path}: cannot be read ({error.strerror or error})") from None
        return table._replace(format=f"{place.words}: {table.format}") if place.words else table

    def _table_of_folder(self, folder: Path) -> Table:
        table = read_tables(folder, self.split, self.shards)
        if table is None:
            seen = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise DataError(
                f"{folder}: holds no table ({', '.join(SUFFIXES)}) and no folders w/ and l/; it holds {seen}"
            )
        return table._replace(unused=(*table.unused, *images_without_row(table, folder)))


def nothing_usable(account: DataAccount) -> DataError:
    if account.ties and len(account.ties) == account.rows:
        return DataError(
            f"{account.path}: all {account.rows:,} rows are ties, so there is nothing to learn from; first: "
            f"{account.ties[0]}. Is the label in another column? Set data.columns.label"
        )
    excluded = by_reason(account.left_out).get(EXCLUDED, [])
    if excluded and len(excluded) == account.rows:
        return DataError(
            f"{account.path}: all {account.rows:,} prompts are in data.exclude, so there is nothing to learn from; "
            f"first: {excluded[0]}. Give other prompts, or another list"
        )
    first = f"; first problem: {account.problems[0]}" if account.problems else ""
    return DataError(f"{account.path}: none of {account.rows:,} rows can be used ({len(account.ties):,} ties){first}")
