"""One model behind one address or several: questions are shared out, an address that fails is left out for a while."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Protocol

from unigenbench.judges.base import JudgeError, Probe, TransientFailure
from unigenbench.judges.chat_completion import Completion
from unigenbench.judges.concurrency import ConcurrencyLimiter
from unigenbench.judges.questions import Question
from unigenbench.judges.retry import RetryPolicy


class Answerer(Protocol):
    """What stands behind an address."""

    async def probe(self) -> Probe: ...

    async def ask(self, question: Question) -> Completion: ...

    async def aclose(self) -> None: ...


class JudgePool:
    """Asks the least busy address, in turn where they are equally busy.

    Args:
        judges: one for each address, all with the same model.
        retry: how often a question is asked, and how long an address that failed is left out.
        concurrency: calls at once to each address.
    """

    def __init__(self, judges: Sequence[Answerer], retry: RetryPolicy, concurrency: int):
        self._addresses = [_Address(judge, retry, concurrency) for judge in judges]
        self._retry = retry
        self._rng = random.Random()

    async def probe(self) -> None:
        """Makes sure that an address answers.

        Raises:
            FatalFailure: an address that cannot judge as asked.
            TransientFailure: none answers.
        """
        failures = [failure for failure in await asyncio.gather(*(one.probe() for one in self._addresses)) if failure]
        for failure in failures:
            if not isinstance(failure, TransientFailure):
                raise failure
        if len(failures) == len(self._addresses):
            raise failures[0]

    async def ask(self, question: Question) -> Completion:
        """The answer of the first address that gives one.

        Raises:
            JudgeRefused, JudgeTruncated, FatalFailure: the first address's word.
            TransientFailure: none gave an answer within all tries, or they ask for more patience than there is.
        """
        failures = rate_limits = 0
        while True:
            try:
                return await self._next().ask(question)
            except TransientFailure as error:
                failures += not error.rate_limited
                rate_limits += error.rate_limited
                spent = failures >= self._retry.tries or rate_limits >= self._retry.rate_tries
                if spent or (error.retry_after or 0.0) > self._retry.patience_seconds:
                    raise
                if all(one.rests for one in self._addresses):
                    count = rate_limits if error.rate_limited else failures
                    await asyncio.sleep(self._retry.wait_seconds(count, error.retry_after, self._rng))

    async def aclose(self) -> None:
        """Closes the connections."""
        for address in self._addresses:
            await address.judge.aclose()

    def _next(self) -> _Address:
        answering = [one for one in self._addresses if not one.rests] or self._addresses
        return min(answering, key=lambda one: (one.running, one.asked_at))


class _Address:
    """A judge, how busy it is, and until when it is left out."""

    def __init__(self, judge: Answerer, retry: RetryPolicy, concurrency: int):
        self.judge = judge
        self.running = 0
        """questions that wait for it or for its answer"""
        self.asked_at = 0.0
        self._retry = retry
        self._limiter = ConcurrencyLimiter(concurrency)
        self._failures = 0
        """in a row"""
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    async def probe(self) -> JudgeError | None:
        """What is wrong with it."""
        try:
            await self.judge.probe()
        except JudgeError as error:
            if isinstance(error, TransientFailure):
                self._left_out(error)
            return error
        self._failures, self._rests_until = 0, 0.0
        return None

    async def ask(self, question: Question) -> Completion:
        self.running += 1
        self.asked_at = time.monotonic()
        try:
            await asyncio.sleep(self._limiter.paused_until - time.monotonic())
            async with self._limiter.slot():
                began = time.monotonic()
                try:
                    completion = await self.judge.ask(question)
                except TransientFailure as error:
                    if error.rate_limited:
                        self._limiter.record_rate_limit(began, error.retry_after or 0.0)
                    self._left_out(error)
                    raise
            self._limiter.record_success()
            self._failures = 0
            return completion
        finally:
            self.running -= 1

    def _left_out(self, error: TransientFailure) -> None:
        """Others are asked before it, for longer with each failure in a row."""
        self._failures += 1
        longest = min(self._retry.cap_seconds, self._retry.base_seconds * 2 ** (self._failures - 1))
        self._rests_until = time.monotonic() + max(longest, error.retry_after or 0.0)
