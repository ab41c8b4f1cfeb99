"""Lists of prompts."""

from __future__ import annotations

from pathlib import Path

from t2ialign.data.columns import PROMPT, find_column
from t2ialign.data.tables import SUFFIXES, read_table
from t2ialign.errors import DataError, InputError


def read_prompts(path: Path | str) -> list[str]:
    """The prompts of a text file (one a line; empty lines and lines that begin with # are left out), or of the prompt
    column of a table, in order.

    Raises:
        InputError: no such file, or not a kind of file that is read.
        DataError: not text, no prompt column, an empty prompt, or no prompts at all.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of prompts")
    if path.suffix.lower() in SUFFIXES:
        return _from_table(path)
    if path.suffix.lower() != ".txt":
        raise InputError(f"{path}: prompts are read from .txt (one a line), {', '.join(SUFFIXES)}")
    prompts = [line for line in read_lines(path) if not line.startswith("#")]
    if not prompts:
        raise DataError(f"{path}: holds no prompts; write one a line")
    return prompts


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
