"""How many calls a server gets at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SUCCESSES_TO_RISE = 20


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
