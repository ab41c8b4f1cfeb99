"""Which faults are worth another try, and how long to wait before it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Literal

LONGEST_SECONDS = 1e9
"""A server that asks for a longer wait is taken to ask for this one."""

Fault = Literal["rate", "transient", "fatal"]


def classify(status: int) -> Fault:
    """What an HTTP status that is no success means: slow down, try again, or do not."""
    if status == 429:
        return "rate"
    if status in (408, 409, 425) or status >= 500:
        return "transient"
    return "fatal"


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter: the n-th wait is uniform in [0, min(cap, base * 2^n)]."""

    tries: int = 6
    """of one call, the first included"""
    rate_tries: int = 30
    """the same for "too many requests", which says that the server is there"""
    base_seconds: float = 1.0
    cap_seconds: float = 60.0
    patience_seconds: float = 600.0
    """a server that asks for a longer wait than this ends the run, which then can be started again later"""

    def wait_seconds(self, failures: int, retry_after: float | None, rng: random.Random) -> float:
        """Before the next try, after so many failures (at least 1); never less than the server asked for."""
        jitter = rng.uniform(0, min(self.cap_seconds, self.base_seconds * 2 ** (failures - 1)))
        return max(jitter, retry_after or 0.0)


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply's headers ask to wait: `retry-after-ms`, or `Retry-After` as a number or a date (RFC 9110,
    10.2.3); None where they do not say, or not readably. `headers` is case-insensitive or in lower case."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - (now or datetime.now(timezone.utc))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    """A number in digits, at most LONGEST_SECONDS; None for anything else."""
    digits = (text or "").strip()
    if not digits[:1].isdecimal():
        return None
    try:
        return min(float(digits), LONGEST_SECONDS)
    except ValueError:
        return None
