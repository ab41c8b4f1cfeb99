"""Calls of the judge: within all limits, tried again while a fault may pass, after one probe."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from unigenbench.errors import BenchError, ServerError, TryAgainError
from unigenbench.judges.base import (
    FatalFailure,
    JudgeError,
    JudgeRefused,
    JudgeTruncated,
    Probe,
    TransientFailure,
)
from unigenbench.judges.concurrency import ConcurrencyLimiter
from unigenbench.judging.budget import Budget
from unigenbench.judging.limits import CircuitBreaker, TokenBucket
from unigenbench.judging.plan import Plan
from unigenbench.judging.progress import Wait
from unigenbench.judging.records import CallTotals, counted_usage
from unigenbench.types import JudgeReply, JudgeRequest, Usage

Answer = TypeVar("Answer")
MENTIONED_SECONDS = 2.0
"""A shorter wait is not reported."""
LONGEST_WAIT_SECONDS = 7 * 86400.0


class RunStopped(Exception):
    """The run is ending; what was being done is left for the next start."""


class Caller:
    """Asks a plan's judge. Make it inside the running event loop."""

    def __init__(
        self,
        plan: Plan,
        budget: Budget,
        stop: asyncio.Event,
        halt: Callable[[BenchError], None],
        report_wait: Callable[[Wait], None],
    ):
        """
        Args:
            stop: set when nothing new is to be begun.
            halt: ends the run without losing what is in flight, which then sets `stop`.
            report_wait: is told of waits that are worth a mention.
        """
        settings = plan.settings
        self.limiter = ConcurrencyLimiter(settings.concurrency)
        self._plan, self._budget = plan, budget
        self._stop, self._halt, self._report_wait = stop, halt, report_wait
        self._request_bucket = TokenBucket(settings.requests_per_minute)
        self._token_bucket = TokenBucket(settings.tokens_per_minute)
        self._breaker = CircuitBreaker()
        self._rng = random.Random()

    async def probe(self) -> Probe:
        """Makes sure that the judge answers.

        Raises:
            ServerError: it does not, or cannot be used.
            TryAgainError: it asks for a longer wait than the run's patience.
            RunStopped: the run ended before.
        """
        try:
            return await self._with_retries(self._plan.judge.probe)
        except TransientFailure as error:
            raise ServerError(f"the judge does not answer: {error}; is the server up?") from error
        except JudgeError as error:
            raise ServerError(f"the judge cannot be used: {error}") from error

    async def reply(self, request: JudgeRequest, totals: CallTotals) -> JudgeReply:
        """A whole reply; where one was cut, it is asked for once more with room for twice as much.

        Raises:
            JudgeError: there is none.
            TryAgainError, BudgetSpent: there is no use in going on.
            RunStopped: the run ended before.
        """
        try:
            return await self._call(request, totals)
        except JudgeTruncated as cut:
            try:
                return await self._call(replace(request, max_tokens=2 * request.max_tokens), totals)
            except FatalFailure:
                raise cut from None  # so much is not allowed

    async def _call(self, request: JudgeRequest, totals: CallTotals) -> JudgeReply:
        try:
            return await self._with_retries(lambda: self._attempt(request, totals))
        except (TransientFailure, FatalFailure) as error:
            self._halt_on_error(self._breaker.record_failure, error, fatal=isinstance(error, FatalFailure))
            raise

    async def _with_retries(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Tries again while the fault may pass."""
        policy = self._plan.settings.retry
        failures = rate_limits = 0
        while True:
            try:
                return await attempt()
            except TransientFailure as error:
                if (error.retry_after or 0.0) > policy.patience_seconds:
                    raise TryAgainError(f"{error}; it asks to come back in {error.retry_after:.0f} s") from error
                failures += not error.rate_limited
                rate_limits += error.rate_limited
                if failures >= policy.tries or rate_limits >= policy.rate_tries:
                    raise
                count = rate_limits if error.rate_limited else failures
                await self._wait(policy.wait_seconds(count, error.retry_after, self._rng), str(error))

    async def _attempt(self, request: JudgeRequest, totals: CallTotals) -> JudgeReply:
        """One call, within all limits."""
        expected = self._plan.expected_usage(request.prompt, request.image)
        await self._wait_for_turn()
        async with self.limiter.slot():
            if self._stop.is_set():
                raise RunStopped
            number = self._budget.reserve(self._plan.requests(request.prompt), expected)
            began = time.monotonic()
            usage: Usage | None = None  # not counted, if the call is cancelled
            requests = 1
            try:
                reply = await self._plan.judge.judge(request)
                usage, requests = self._answered(reply, expected, totals), reply.requests
                return reply
            except (JudgeRefused, JudgeTruncated) as error:
                usage, requests = self._answered(error.reply, expected, totals), error.requests
                raise
            except JudgeError as error:
                usage, requests = counted_usage(error.usage) or Usage(), error.requests
                if isinstance(error, TransientFailure) and error.rate_limited:
                    self.limiter.record_rate_limit(began, error.retry_after or 0.0)
                raise
            finally:
                totals.requests += requests
                self._request_bucket.spend(requests)
                self._halt_on_error(self._budget.settle, number, requests, usage)

    def _answered(self, reply: JudgeReply, expected: Usage, totals: CallTotals) -> Usage | None:
        """After an answer of any kind: its usage, None if the server does not count."""
        totals.add(reply)
        self.limiter.record_success()
        self._breaker.record_success()
        usage = counted_usage(reply.usage)
        spent = usage or expected
        self._token_bucket.spend(spent.input + spent.output)
        return usage

    def _halt_on_error(self, record: Callable[..., None], *arguments: object, **options: object) -> None:
        """Records something; an error ends the run, but not before this call's answer is saved."""
        try:
            record(*arguments, **options)
        except BenchError as error:
            self._halt(error)

    async def _wait_for_turn(self) -> None:
        while True:
            paused = self.limiter.paused_until - time.monotonic()
            seconds = max(paused, self._request_bucket.wait_seconds(), self._token_bucket.wait_seconds())
            if seconds <= 0:
                return
            await self._wait(seconds)

    async def _wait(self, seconds: float, reason: str = "") -> None:
        """Waits, unless the run ends before."""
        seconds = min(seconds, LONGEST_WAIT_SECONDS)
        if reason and seconds >= MENTIONED_SECONDS:
            self._report_wait(Wait(datetime.now().astimezone() + timedelta(seconds=seconds), reason))
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise RunStopped
