"""How fast a run may go, calls and tokens a minute, and how many faults in a row it bears."""

from __future__ import annotations

import time

from unigenbench.errors import ServerError

FATAL_IN_A_ROW = 20
TRANSIENT_IN_A_ROW = 50


class TokenBucket:
    """A bucket of one token that refills at a steady rate and may go into debt; while in debt, callers wait."""

    def __init__(self, per_minute: float | None):
        """None is no limit."""
        self._per_second = per_minute / 60 if per_minute else None
        self._level, self._at = 1.0, time.monotonic()

    def wait_seconds(self) -> float:
        """Until the bucket is full again; 0 where there is no limit."""
        if self._per_second is None:
            return 0.0
        now = time.monotonic()
        self._level, self._at = min(1.0, self._level + (now - self._at) * self._per_second), now
        return max(0.0, (1.0 - self._level) / self._per_second)

    def spend(self, amount: float) -> None:
        """Takes from the bucket, whose level may fall below zero."""
        self._level -= amount


class CircuitBreaker:
    """Ends a run whose judge is plainly gone: many calls in a row failed, each after all its tries."""

    def __init__(self) -> None:
        self._fatal = self._transient = 0

    def record_success(self) -> None:
        """The judge answers."""
        self._fatal = self._transient = 0

    def record_failure(self, error: Exception, *, fatal: bool) -> None:
        """A call failed for good.

        Raises:
            ServerError: too many of them in a row.
        """
        if fatal:
            self._fatal += 1
        else:
            self._transient += 1
        in_a_row, limit = (self._fatal, FATAL_IN_A_ROW) if fatal else (self._transient, TRANSIENT_IN_A_ROW)
        if in_a_row >= limit:
            raise ServerError(
                f"{in_a_row} judgements in a row failed, the last with: {error}. What is done is saved; look after the "
                "server, then run the same command again"
            )
