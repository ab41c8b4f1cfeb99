"""How fast a run may go: calls at once, calls and tokens a minute, and how many faults in a row it bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from unigenbench.errors import ServerError

SUCCESSES_TO_RISE = 20
FATAL_IN_A_ROW = 20
TRANSIENT_IN_A_ROW = 50


class ConcurrencyLimiter:
    """At most so many calls at once: half as many after "too many requests", one more after each 20 successes."""

    def __init__(self, maximum: int):
        self.limit = self._maximum = maximum
        """calls that may run at once now"""
        self.paused_until = 0.0
        """time.monotonic() before which no call should start, as the server asked for a pause"""
        self._running = 0
        self._successes = 0
        self._halved_at = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A slot among the running calls, as soon as one is free."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < self.limit)
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._changed:
                self._changed.notify(max(1, self.limit - self._running))

    def record_rate_limit(self, began: float, pause_seconds: float) -> None:
        """Halves the limit after "too many requests", once for all calls that began before the last halving.

        Args:
            began: time.monotonic() at the start of the call.
            pause_seconds: as the server asked.
        """
        now = time.monotonic()
        self.paused_until = max(self.paused_until, now + pause_seconds)
        if began >= self._halved_at:
            self.limit, self._successes, self._halved_at = max(1, self.limit // 2), 0, now

    def record_success(self) -> None:
        """Raises the limit by one after each 20 successes, up to the maximum."""
        self._successes += 1
        if self._successes >= SUCCESSES_TO_RISE:
            self.limit, self._successes = min(self._maximum, self.limit + 1), 0


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
