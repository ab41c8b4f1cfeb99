"""Lists of prompts."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from t2ialign.data.tables.columns import PROMPT, find_column
from t2ialign.data.tables.table import SUFFIXES, read_table
from t2ialign.errors import DataError, InputError
from unigenbench.errors import BenchError
from unigenbench.prompts import SHIPPED, select
from unigenbench.prompts import read_prompts as read_unigenbench


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
    if _is_unigenbench(path):
        return _from_unigenbench(path, subset)
    if subset is not None:
        raise InputError(f"{path}: subset '{subset}' is of UniGenBench prompt files; give one, or leave it out")
    if not path.is_file():
        raise InputError(f"{path}: no such file of prompts")
    if path.suffix.lower() in SUFFIXES:
        prompts = _from_table(path)
    elif path.suffix.lower() == ".txt":
        prompts = [line for line in read_lines(path) if not line.startswith("#")]
    else:
        raise InputError(f"{path}: prompts are read from .txt (one a line), {', '.join(SUFFIXES)}")
    if not prompts:
        raise DataError(f"{path}: holds no prompts; write one a line")
    return PromptList(prompts, list(range(len(prompts))), sha256(path.read_bytes()).hexdigest())


def _is_unigenbench(path: Path) -> bool:
    """Whether it is the name of a shipped suite, or a CSV with a column of test points."""
    if not path.is_file():
        return str(path) in SHIPPED
    if path.suffix.lower() != ".csv":
        return False
    with path.open("rb") as file:
        return any(name.startswith(b"sub_dims") for name in file.readline().split(b","))


def _from_unigenbench(path: Path, subset: str | None) -> PromptList:
    try:
        chosen = select(read_unigenbench(path), subset=subset)
    except BenchError as error:
        raise InputError(str(error)) from error
    prompts = [prompt.text for prompt in chosen.prompts]
    return PromptList(prompts, [prompt.index for prompt in chosen.prompts], chosen.sha256)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, without surrounding blanks."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def _from_table(path: Path) -> list[str]:
    table = read_table(path)
    column = find_column(table, PROMPT, None)
    prompts = []
    for row in table.rows:
        prompt = row.cells.get(column)
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{row.origin}: {column}: the prompt is missing")
        prompts.append(prompt.strip())
    return prompts
