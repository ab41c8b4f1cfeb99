"""Prompt files in the schema of UniGenBench: read, mended, checked.

A file is a CSV with an index, a prompt, and a JSON object that sorts the prompt and lists its test points. Column names
may end in the category (_en, _zh, _en_long, _zh_long); the object's keys are English or Chinese.
"""

from __future__ import annotations

import csv
import io
import logging
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from unigenbench.errors import InputError, listed_of
from unigenbench.prompts.notes import Notes
from unigenbench.prompts.rows import Columns, Row, read_row
from unigenbench.prompts.schema import SHIPPED, SUFFIXES, is_file, locate, version_of
from unigenbench.types import Problem, PromptSet

logger = logging.getLogger(__name__)

HEADER_BYTES = 4096
"""Of a file's first line that are searched for the column of test points."""


class Examined(NamedTuple):
    """A prompt file, checked."""

    prompts: PromptSet | None
    """None where there is an error"""
    problems: list[Problem]
    """in the order of lines, file-wide ones last"""


def has_test_points(path: Path | str) -> bool:
    """Whether `read_prompts` reads a file: the name of a shipped set, or a CSV with a column of test points."""
    if not is_file(Path(path)):
        return str(path) in SHIPPED
    with Path(path).open("rb") as file:
        header = file.readline(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    try:
        return any(name.startswith("sub_dims") for name in next(csv.reader(io.StringIO(header, newline="")), []))
    except csv.Error:
        return False


def read_prompts(path: Path | str, *, strict: bool = False) -> PromptSet:
    """The prompts of a file, or of a shipped set by its name: suite_en, suite_zh, shapes.

    What was mended is recorded, and warned of like all else that is odd but can be used.

    Args:
        strict: mend nothing; a row of broken JSON is an error.

    Raises:
        InputError: there is no such file, or it cannot be used; the message names the first fault.
    """
    prompts, problems = examine_prompts(path, strict=strict)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or prompts is None:
        more = f" ({len(errors) - 1} more; see them all with `{_validate(path)}`)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
    for repair in prompts.repairs:
        logger.warning("%s:%d: %s", prompts.path, repair.line, repair.what)
    others = len(problems) - len(prompts.repairs)
    if others:
        logger.warning("%s: %d remarks; `%s` lists them", prompts.path, others, _validate(path))
    return prompts


def examine_prompts(path: Path | str, *, strict: bool = False) -> Examined:
    """A file as `read_prompts` reads it, with all that is wrong with it.

    Raises:
        InputError: there is no such file, or it cannot be opened.
    """
    file = locate(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    notes = Notes(file)
    rows = list(_rows(content, notes, strict))
    _check_rows(rows, notes)
    if notes.found("error"):
        return Examined(None, notes.problems)
    digest = sha256(content).hexdigest()
    name, version = version_of(file.stem, digest)
    prompts = tuple(row.prompt for row in rows)
    return Examined(
        PromptSet(name, rows[0].language, prompts, file, digest, version, tuple(notes.repairs)), notes.problems
    )


def _validate(path: Path | str) -> str:
    """The command that lists all that is wrong, to be pasted as it stands."""
    return f"unigenbench validate --data {shlex.quote(str(path))}"


def validate_prompts(path: Path | str, *, strict: bool = False) -> list[Problem]:
    """All that is wrong with a prompt file.

    Raises:
        InputError: there is no such file.
    """
    return examine_prompts(path, strict=strict).problems


def _rows(content: bytes, notes: Notes, strict: bool) -> Iterator[Row]:
    """The rows that can be read."""
    text = _decoded(content, notes)
    if text is None:
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            notes.error(None, "is empty; give a CSV with a header")
            return
        columns = _columns(header, notes)
        if columns is None:
            return
        language = columns.language
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                notes.error(line, f"{len(cells)} fields, not {len(header)}; check its quotes and commas")
            elif cells:
                named = dict(zip(header, cells, strict=True))
                row = read_row(named, line, columns, language, notes, strict=strict)
                if row is not None:
                    language = row.language
                    yield row
            line = reader.line_num + 1
    except csv.Error as error:
        if len(text) > csv.field_size_limit() and "field limit" in str(error):
            what = f"a field of more than {csv.field_size_limit():,} characters; is a quote left open?"
        else:
            what = f"not CSV ({error}); quote fields that hold quotes or commas"
        notes.error(line, what)


def _decoded(content: bytes, notes: Notes) -> str | None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        notes.error(line, f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8")
        return None
    if text.startswith("\ufeff"):
        notes.warning(1, "begins with a byte order mark; save the file as UTF-8 without it")
    return text.removeprefix("\ufeff")


def _columns(header: Sequence[str], notes: Notes) -> Columns | None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        notes.error(1, f"column '{twice[0]}' is there twice")
        return None
    for suffix, language in SUFFIXES.items():
        if {"index", f"prompt{suffix}", f"sub_dims{suffix}"} <= set(header):
            return Columns(f"prompt{suffix}", f"sub_dims{suffix}", language)
    endings = ", ".join(repr(suffix) for suffix in SUFFIXES if suffix)
    notes.error(
        1,
        f"its columns are {', '.join(header) or 'none'}; needs index, prompt and sub_dims, "
        f"the last two with the same ending: {endings} or none",
    )
    return None


def _check_rows(rows: Sequence[Row], notes: Notes) -> None:
    """What only shows over all rows: none, or the same index or text twice, or numbers left out."""
    if not rows and not notes.found("error"):
        notes.error(None, "holds no prompts")
    seen: dict[int, int] = {}
    texts: dict[str, int] = {}
    for line, prompt, _ in rows:
        if prompt.index in seen:
            notes.error(line, f"index {prompt.index} is that of line {seen[prompt.index]} too")
        if prompt.text in texts:
            notes.warning(line, f"the prompt is that of line {texts[prompt.text]} too")
        seen.setdefault(prompt.index, line)
        texts.setdefault(prompt.text, line)
    gaps = [range(before + 1, after) for before, after in pairwise((-1, *sorted(seen))) if after > before + 1]
    if gaps and not notes.found("error"):
        missing = (number for gap in gaps for number in gap)
        notes.warning(None, f"indices are not 0 to {max(seen)}: {listed_of(missing, sum(map(len, gaps)))} missing")
