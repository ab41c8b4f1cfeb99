"""The account of a data set: which rows and files are used, which are not, and why."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.errors import DataError
from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)

NO_PROMPT = "prompt missing"
NO_TEXT = "prompt not text"
NO_IMAGE = "image missing"
UNREADABLE = "image unreadable"
NO_LABEL = "label not understood"
NO_SCORE = "score not a number"
SAME_PROMPT = "both prompts are equal"
TIE = "tie"
BOTH_LIKED = "both images liked"
NEITHER_LIKED = "neither image liked"
UNLABELLED = "row without a label"
TOO_SMALL = "image too small"
IDENTICAL = "both images are the same"
DUPLICATE = "row twice"
NSFW = "not safe for work"
OTHER_REWARD = "score of another reward"
MIDDLE_RANK = "middle rank of a longer list"
EXCLUDED = "prompt of data.exclude"
TIES = frozenset({TIE, BOTH_LIKED, NEITHER_LIKED})
"""Reasons why neither image is preferred."""
LEAVES_OUT = {IDENTICAL: "data.identical=drop", DUPLICATE: "data.duplicates=drop", NSFW: "data.nsfw=drop"}
"""Remarks on rows, and the key by which such rows are left out."""
BY_DESIGN = TIES | {OTHER_REWARD, MIDDLE_RANK, EXCLUDED, UNLABELLED, TOO_SMALL, *LEAVES_OUT}
"""Reasons why a row is left out although nothing is wrong with it."""

UNKNOWN_SUFFIX = "file of a kind that is not read"
SUBFOLDER = "folder that is not read"
NO_ROW = "image that no row names"
PROMPT_WITHOUT_IMAGE = "prompt without an image"
SECOND_PROMPT = "another prompt for the same image"
OTHER_PROMPTS = "prompts that are not read"
OTHER_SPLIT = "file of another split"
SHOWN = 3
"""Origins of each reason that the JSON of an account names."""


class Problem(NamedTuple):
    """A row or a file that is not used, and why."""

    origin: str
    """file:line, or the file"""
    reason: str
    """One of the constants above."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.detail}" if self.detail else self.origin


@dataclass(frozen=True)
class DataAccount:
    """What became of everything a data set holds: `rows` = `used` + the rows left out, always."""

    path: Path
    layout: str
    """How the table is understood, in words."""
    rows: int
    """Rows of the table."""
    examples: int
    """What became of the rows that are used."""
    left_out: tuple[Problem, ...] = ()
    """Rows that are not used."""
    unused: tuple[Problem, ...] = ()
    """Files, and rows of prompt files, that belong to no row."""
    format: str = ""
    """What kind of table it is, in words."""
    remarks: tuple[Problem, ...] = ()
    """Rows that are used although something may be said against them."""

    @property
    def used(self) -> int:
        return self.rows - len(self.left_out)

    @property
    def ties(self) -> list[Problem]:
        return [problem for problem in self.left_out if problem.reason in TIES]

    @property
    def problems(self) -> list[Problem]:
        """Rows with which something is wrong."""
        return [problem for problem in self.left_out if problem.reason not in BY_DESIGN]

    @property
    def is_complete(self) -> bool:
        """Whether everything there is used."""
        return not self.left_out and not self.unused

    @property
    def is_unremarkable(self) -> bool:
        """Whether there is nothing to tell: everything is used, and nothing is said against it."""
        return self.is_complete and not self.remarks

    def lines(self) -> list[str]:
        """The account in words: how many rows are used, and a line for each reason why others are not."""
        made = "" if self.examples == self.used else f", as {self.examples:,} examples"
        head = f"{self.path}: {self.used:,} of {self.rows:,} rows used{made}"
        left_out = [f"  left out: {line}" for line in reason_lines(self.left_out)]
        unread = [f"  not read: {line}" for line in reason_lines(self.unused)]
        return [head, *left_out, *(f"  used all the same: {line}" for line in self.remark_lines()), *unread]

    def remark_lines(self) -> list[str]:
        """A line for each kind of remark: its count, its first row, and the key that leaves such rows out."""
        lines = zip(by_reason(self.remarks), reason_lines(self.remarks), strict=True)
        return [f"{line}; {LEAVES_OUT[reason]} leaves them out" for reason, line in lines]

    def warn(self) -> None:
        """Logs the account in words where there is something to tell."""
        if not self.is_unremarkable:
            logger.warning("%s", "\n".join(self.lines()))

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON holds it; of each reason the count and the first origins."""
        return {
            "path": str(self.path),
            "format": self.format,
            "layout": self.layout,
            "rows": self.rows,
            "used": self.used,
            "examples": self.examples,
            "left_out": _counted(self.left_out),
            "remarks": _counted(self.remarks),
            "not_read": _counted(self.unused),
        }


def by_reason(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """The problems of each reason, in the order in which reasons are first met."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.reason, []).append(problem)
    return found


def reason_lines(problems: Iterable[Problem]) -> list[str]:
    """A line a reason: its count and its first problem."""
    return [f"{len(some):,} x {reason}, first: {some[0]}" for reason, some in by_reason(problems).items()]


def _counted(problems: Iterable[Problem]) -> dict[str, dict[str, Any]]:
    return {
        reason: {"count": len(some), "first": [str(problem) for problem in some[:SHOWN]]}
        for reason, some in by_reason(problems).items()
    }


def write_accounts(path: Path, accounts: dict[str, DataAccount]) -> None:
    """Writes the accounts of a run's data sets, by what they are for, as JSON."""
    with atomic_write(path) as partial:
        content = {name: account.as_dict() for name, account in accounts.items()}
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def unusable_rows_error(path: Path | str, rows: int, problems: Sequence[Problem]) -> DataError:
    """The error that names the first row of each kind of problem, and what to do."""
    usable = rows - len(problems)
    remedy = f"correct them, or set data.on_bad=drop to go on with {usable:,}" if usable else "correct them"
    reasons = "".join(f"\n  {line}" for line in reason_lines(problems))
    return DataError(f"{path}: {len(problems):,} of {rows:,} rows cannot be used; {remedy}:{reasons}")
