"""Where a run stands, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from unigenbench.errors import BenchError
from unigenbench.types import Usage


class Wait(NamedTuple):
    """A pause before a call is tried again."""

    until: datetime
    """local time"""
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after each judgement and before each wait."""

    done: int
    total: int
    """judgements of this start"""
    statuses: dict[str, int]
    usage: Usage
    cost: float | None
    expected_cost: float | None
    """at the end, by the mean of the judgements so far; None before there are enough of them"""
    concurrency: int
    """calls that may run at once now"""
    ending: bool = False
    """nothing new is begun; the calls in flight are waited for"""
    wait: Wait | None = None
    """the latest wait, if it is not over"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: Literal["done", "stopped", "interrupted"]
    statuses: dict[str, int]
    """of everything expected, this start and earlier ones; "unjudged" is what is left"""
    asked: int
    """images that this start asked about, to their end"""
    judged: int
    """of these, how many have verdicts"""
    requests: int
    """sent to the judge by this start"""
    usage: Usage
    cost: float | None
    """of the run folder, all starts; estimated for the uncounted requests"""
    uncounted: int
    """requests of all starts whose tokens the server did not count"""
    seconds: float
    error: BenchError | None = None
    """why it stopped, if not done"""
    commonest_failure: tuple[str, int] | None = None
    """(error, how often) among everything expected"""

    @property
    def failed_share(self) -> float:
        """Of everything expected, how much has no verdict. In [0, 1]."""
        expected = sum(self.statuses.values())
        return 1 - self.statuses.get("ok", 0) / expected if expected else 0.0
