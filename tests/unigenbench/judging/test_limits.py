"""Calls at once, a minute, and in vain."""

from __future__ import annotations

import asyncio
import time

import pytest

from unigenbench.errors import ServerError
from unigenbench.judges.concurrency import ConcurrencyLimiter
from unigenbench.judging.limits import CircuitBreaker, TokenBucket


def test_a_limiter_never_lets_more_through_than_its_limit():
    async def main() -> int:
        limiter, running, most = ConcurrencyLimiter(3), 0, 0

        async def call() -> None:
            nonlocal running, most
            async with limiter.slot():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.001)
                running -= 1

        await asyncio.gather(*(call() for _ in range(40)))
        return most

    assert asyncio.run(main()) == 3


def test_too_many_requests_halve_the_limit_once_a_wave_and_answers_raise_it():
    async def main() -> None:
        limiter = ConcurrencyLimiter(16)
        began = time.monotonic()
        for _ in range(16):  # a wave of 16 calls, all refused
            limiter.record_rate_limit(began, pause_seconds=2.0)
        assert limiter.limit == 8
        assert limiter.paused_until == pytest.approx(time.monotonic() + 2.0, abs=0.1)
        for _ in range(39):
            limiter.record_success()
        assert limiter.limit == 9  # one more after 20 answers, the next after 40
        for _ in range(1000):
            limiter.record_success()
        assert limiter.limit == 16

    asyncio.run(main())


def test_a_bucket_in_debt_makes_callers_wait_for_the_refill():
    bucket = TokenBucket(per_minute=60)
    assert bucket.wait_seconds() == 0
    bucket.spend(5)
    assert bucket.wait_seconds() == pytest.approx(5.0, abs=0.1)  # one a second
    unlimited = TokenBucket(None)
    unlimited.spend(1e9)
    assert unlimited.wait_seconds() == 0


@pytest.mark.parametrize(("fatal", "limit"), [(True, 20), (False, 50)])
def test_a_breaker_opens_after_faults_in_a_row_only(fatal: bool, limit: int):
    breaker = CircuitBreaker()
    for _ in range(limit - 1):
        breaker.record_failure(RuntimeError("down"), fatal=fatal)
    breaker.record_success()
    for _ in range(limit - 1):
        breaker.record_failure(RuntimeError("down"), fatal=fatal)
    with pytest.raises(ServerError, match="in a row failed, the last with: down"):
        breaker.record_failure(RuntimeError("down"), fatal=fatal)
