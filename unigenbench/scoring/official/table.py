"""The CSV of the official script: a row for each image, with Python and JSON texts in its cells."""

from __future__ import annotations

import ast
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unigenbench.errors import DataError, InputError

COLUMNS = ("index", "prompt", "testpoint", "output", "result_json", "img_path")
FOLDER = "official"
"""In a run folder: the files of an import or an export."""
NOT_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises on a text that is no literal."""
_IMAGE = re.compile(r"([0-9]{1,18})[_.]([0-9]{1,4})\.\w+$")
"""Prompt and image of a file's name; tables have a column for each image, so that larger numbers are not believed."""
_INDEX = re.compile(r"\s*([0-9]{1,18})(\.0)?\s*")


@dataclass(frozen=True)
class ResultRow:
    """One row of the CSV: one image, judged or given up."""

    line: int
    """1-based, where the row begins; 0 for a row not read from a file"""
    index: int
    image: int
    """from the file name of `img_path`, else by order"""
    prompt: str
    testpoint: str
    """a Python list of labels"""
    output: str
    """the judge's last reply"""
    result_json: str
    """JSON with the key "score", or "null" for a judgement that failed"""
    img_path: str


def read_rows(path: Path) -> list[ResultRow]:
    """The rows of an official CSV.

    Raises:
        InputError: the file cannot be read.
        DataError: it is no such CSV, or an image is there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    reader = csv.reader(io.StringIO(text))
    try:
        rows = list(_rows(path, reader))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    seen: dict[tuple[int, int], int] = {}
    for row in rows:
        place = row.index, row.image
        if place in seen:
            raise DataError(
                f"{path}:{row.line}: image {row.image} of prompt {row.index} is that of line {seen[place]} too; "
                "keep one of the two rows"
            )
        seen[place] = row.line
    return rows


def _rows(path: Path, reader: Any) -> Iterator[ResultRow]:
    header = next(reader, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path}:1: no column '{missing[0]}'; columns are {', '.join(header) or 'none'}")
    seen: Counter[int] = Counter()
    begins = reader.line_num + 1
    for cells in reader:
        if len(cells) != len(header):
            raise DataError(f"{path}:{begins}: {len(cells)} cells, the header has {len(header)}")
        named = dict(zip(header, cells, strict=True))
        written = _INDEX.fullmatch(named["index"])
        if written is None:
            raise DataError(f"{path}:{begins}: index: '{named['index'][:80]}' is no number of a prompt")
        index = int(written[1])
        found = _IMAGE.search(named["img_path"])
        image = int(found[2]) if found and int(found[1]) == index else seen[index]
        seen[index] += 1
        yield ResultRow(begins, index, image, *(named[column] for column in COLUMNS[1:]))
        begins = reader.line_num + 1


def labels_of(row: ResultRow) -> list[str]:
    """The labels of a row's test points.

    Raises:
        DataError: they are no list of strings.
    """
    try:
        labels = ast.literal_eval(row.testpoint)
    except NOT_LITERAL:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"row {row.line}, prompt {row.index}: testpoint: {row.testpoint[:80]!r} is no list of labels")
    return labels
