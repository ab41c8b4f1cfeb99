"""Prompts alone: of a run whose data has no images, and of whoever makes images of them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import ClassVar, NamedTuple

from t2ialign.data.account import EXCLUDED, Problem
from t2ialign.data.base import Example
from t2ialign.data.tables.cells import read_prompt
from t2ialign.data.tables.columns import PROMPT, find_column
from t2ialign.data.tables.parts import SUFFIXES
from t2ialign.data.tables.reading import read_table
from t2ialign.data.tables.source import Layout, TableData
from t2ialign.data.tables.table import Row, Table, is_file
from t2ialign.data.tables.text_tables import numbered_lines
from t2ialign.errors import DataError, InputError
from unigenbench.errors import BenchError
from unigenbench.prompts import has_test_points, select
from unigenbench.prompts import read_prompts as read_unigenbench


class PromptData(TableData):
    """Prompts without images, for a noiser that starts from noise."""

    name: str = "prompts"
    views: ClassVar[int] = 1
    has_images: ClassVar[bool] = False
    exclude: Path | None = None
    """Prompts that are left out, such as those of a benchmark: a text file with one a line, a table or a UniGenBench
    file. Whole prompts are compared; case and blanks do not count."""

    def layout(self, table: Table) -> Layout:
        column = find_column(table, PROMPT, self.columns)
        excluded = set() if self.exclude is None else {_folded(prompt) for prompt in read_prompts(self.exclude)}

        def read(row: Row) -> Example | Problem:
            prompt = read_prompt(row, column)
            if isinstance(prompt, Problem):
                return prompt
            if _folded(prompt) in excluded:
                return Problem(row.origin, EXCLUDED, prompt)
            return Example((prompt,), (), origin=row.origin)

        return Layout(f"{table.path.name}: prompt '{column}', no images", read)

    def read_file(self, path: Path) -> Table:
        return _read_prompt_table(path)

    def read_folder(self, folder: Path) -> Table | None:
        return None


def _folded(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


class PromptList(NamedTuple):
    """Prompts with the numbers that name their images."""

    prompts: list[str]
    indices: list[int]
    sha256: str
    """of the file"""


def read_prompts(path: Path | str) -> list[str]:
    """The prompts of a file, in order; see `read_prompt_list`."""
    return read_prompt_list(path).prompts


def read_prompt_list(path: Path | str, subset: str | None = None) -> PromptList:
    """The prompts of a text file (one a line; empty lines and lines that begin with # are left out), of the prompt
    column of a table, or of a UniGenBench file or shipped suite, whose numbers are its own.

    Args:
        subset: a named part of a UniGenBench file, as testmini60.

    Raises:
        InputError: no such file, not a kind of file that is read, a damaged UniGenBench file, or no such subset.
        DataError: not text, no prompt column, an empty prompt, or no prompts at all.
    """
    path = Path(path)
    if has_test_points(path):
        return _from_unigenbench(path, subset)
    if subset is not None:
        raise InputError(f"{path}: subset '{subset}' is of UniGenBench prompt files; give one, or leave it out")
    if not is_file(path):
        raise InputError(f"{path}: no such file of prompts")
    prompts = _prompts(_read_prompt_table(path))
    return PromptList(prompts, list(range(len(prompts))), sha256(path.read_bytes()).hexdigest())


def _read_prompt_table(path: Path) -> Table:
    """A table; a text file is one with a prompt a line, but for lines that begin with #."""
    if path.suffix.lower() in SUFFIXES:
        return read_table(path)
    if path.suffix.lower() != ".txt":
        raise InputError(f"{path}: prompts are read from .txt (one a line), {', '.join(SUFFIXES)}")
    lines = numbered_lines(path)
    rows = [Row({PROMPT.key: line}, f"{path}:{number}") for number, line in lines if not line.startswith("#")]
    if not rows:
        raise DataError(f"{path}: holds no prompts; write one a line")
    return Table(path, [PROMPT.key], rows, format="a text file with a prompt a line")


def _from_unigenbench(path: Path, subset: str | None) -> PromptList:
    try:
        chosen = select(read_unigenbench(path), subset=subset)
    except BenchError as error:
        raise InputError(str(error)) from error
    prompts = [prompt.text for prompt in chosen.prompts]
    return PromptList(prompts, [prompt.index for prompt in chosen.prompts], chosen.sha256)


def _prompts(table: Table) -> list[str]:
    column = find_column(table, PROMPT, None)
    prompts = []
    for row in table.rows:
        prompt = read_prompt(row, column)
        if isinstance(prompt, Problem):
            raise DataError(str(prompt))
        prompts.append(prompt)
    return prompts
