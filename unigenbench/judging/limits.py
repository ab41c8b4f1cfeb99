"""How fast a run may go, and how far: calls at once, calls and tokens a minute, money, and patience with faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from unigenbench.errors import ServerError
from unigenbench.judging.estimate import Price
from unigenbench.types import Usage

SUCCESSES_TO_RISE = 20
FATAL_IN_A_ROW = 20
TRANSIENT_IN_A_ROW = 50


class Gate:
    """At most so many calls at once: half as many after "too many requests", one more after each 20 answers."""

    def __init__(self, most: int):
        self.ceiling = self._most = most
        self.opens_at = 0.0
        """time.monotonic() before which no call should start, as the server asked for a pause"""
        self._running = 0
        self._answers = 0
        self._slowed_at = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the running calls, as soon as one is free."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < self.ceiling)
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._changed:
                self._changed.notify(max(1, self.ceiling - self._running))

    def slow_down(self, began: float, pause_seconds: float) -> None:
        """After "too many requests"; calls that began before the last halving say nothing new, do not halve again."""
        now = time.monotonic()
        self.opens_at = max(self.opens_at, now + pause_seconds)
        if began >= self._slowed_at:
            self.ceiling, self._answers, self._slowed_at = max(1, self.ceiling // 2), 0, now

    def answered(self) -> None:
        """After an answer."""
        self._answers += 1
        if self._answers >= SUCCESSES_TO_RISE:
            self.ceiling, self._answers = min(self._most, self.ceiling + 1), 0


class Pace:
    """An allowance that refills at a steady rate and may go into debt; who finds it in debt waits."""

    def __init__(self, per_minute: float | None):
        self._rate = per_minute / 60 if per_minute else None
        self._level, self._at = 1.0, time.monotonic()

    def wait_seconds(self) -> float:
        """Until the debt is paid; 0 where there is none, or no limit."""
        if self._rate is None:
            return 0.0
        now = time.monotonic()
        self._level, self._at = min(1.0, self._level + (now - self._at) * self._rate), now
        return max(0.0, (1.0 - self._level) / self._rate)

    def spend(self, amount: float) -> None:
        """Takes from the allowance, which may fall below zero."""
        self._level -= amount


class Breaker:
    """Ends a run whose judge is plainly gone: many calls in a row failed, each after all its tries."""

    def __init__(self) -> None:
        self._fatal = self._transient = 0

    def answered(self) -> None:
        """The judge is there."""
        self._fatal = self._transient = 0

    def failed(self, error: Exception, *, fatal: bool) -> None:
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


class BudgetSpent(ServerError):
    """The stated budget does not cover another call; what is done is saved."""


class Budget:
    """Requests and money of a run folder, earlier starts included; a call in flight is reserved at the mean cost."""

    def __init__(
        self,
        *,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price: Price | None = None,
        expected_cost: float = 0.0,
    ):
        """`expected_cost` is that of one request, used until the first answers tell."""
        self.usage = Usage()
        self.requests = 0
        self._max_requests, self._max_cost, self._price = max_requests, max_cost, price
        self._expected_cost = expected_cost
        self._in_flight = 0
        self._uncounted = 0

    @property
    def cost(self) -> float | None:
        """Spent so far; None without prices."""
        if self._price is None:
            return None
        return self._price.cost(self.usage) + self._uncounted * self._expected_cost

    def begin(self, usage: Usage, requests: int) -> None:
        """Counts what earlier starts have spent."""
        self.usage, self.requests = usage, requests

    def reserve(self, requests: int = 1) -> None:
        """Before a call that takes so many requests.

        Raises:
            BudgetSpent: it might go over the budget.
        """
        again = "What is done is saved; the same command with a higher limit goes on"
        ahead = self._in_flight + requests
        if self._max_requests is not None and self.requests + ahead > self._max_requests:
            raise BudgetSpent(f"--max-requests {self._max_requests}: reached. {again}")
        if self._max_cost is not None and (self.cost or 0.0) + ahead * self._mean_cost() > self._max_cost:
            raise BudgetSpent(f"--max-cost {self._max_cost:g}: another call might go over it. {again}")
        self._in_flight = ahead

    def settle(self, reserved: int, usage: Usage | None, requests: int) -> None:
        """After a call: what it used, Usage() if it came to nothing, None where the server does not count tokens."""
        self._in_flight -= reserved
        self.requests += requests
        if usage is None:
            self._uncounted += requests
        else:
            self.usage += usage

    def _mean_cost(self) -> float:
        """Of a request."""
        return self.cost / self.requests if self.cost and self.requests else self._expected_cost
