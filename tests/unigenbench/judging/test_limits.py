"""Calls at once, a minute, for money, and in vain."""

from __future__ import annotations

import asyncio
import time

import pytest

from unigenbench.errors import ServerError
from unigenbench.judging.estimate import Price
from unigenbench.judging.limits import Breaker, Budget, BudgetSpent, Gate, Pace
from unigenbench.types import Usage


def test_a_gate_never_lets_more_through_than_its_ceiling():
    async def main() -> int:
        gate, running, most = Gate(3), 0, 0

        async def call() -> None:
            nonlocal running, most
            async with gate.place():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.001)
                running -= 1

        await asyncio.gather(*(call() for _ in range(40)))
        return most

    assert asyncio.run(main()) == 3


def test_too_many_requests_halve_the_ceiling_once_a_wave_and_answers_raise_it():
    async def main() -> None:
        gate = Gate(16)
        began = time.monotonic()
        for _ in range(16):  # a wave of 16 calls, all refused
            gate.slow_down(began, pause_seconds=2.0)
        assert gate.ceiling == 8
        assert gate.opens_at == pytest.approx(time.monotonic() + 2.0, abs=0.1)
        for _ in range(39):
            gate.answered()
        assert gate.ceiling == 9  # one more after 20 answers, the next after 40
        for _ in range(1000):
            gate.answered()
        assert gate.ceiling == 16

    asyncio.run(main())


def test_a_pace_makes_who_is_in_debt_wait_for_the_refill():
    pace = Pace(per_minute=60)
    assert pace.wait_seconds() == 0
    pace.spend(5)
    assert pace.wait_seconds() == pytest.approx(5.0, abs=0.1)  # one a second
    unlimited = Pace(None)
    unlimited.spend(1e9)
    assert unlimited.wait_seconds() == 0


@pytest.mark.parametrize(("fatal", "limit"), [(True, 20), (False, 50)])
def test_a_breaker_opens_after_faults_in_a_row_only(fatal: bool, limit: int):
    breaker = Breaker()
    for _ in range(limit - 1):
        breaker.failed(RuntimeError("down"), fatal=fatal)
    breaker.answered()
    for _ in range(limit - 1):
        breaker.failed(RuntimeError("down"), fatal=fatal)
    with pytest.raises(ServerError, match="in a row failed, the last with: down"):
        breaker.failed(RuntimeError("down"), fatal=fatal)


def test_a_budget_of_requests_counts_those_in_flight_and_those_of_earlier_starts():
    budget = Budget(max_requests=10)
    budget.begin(Usage(), 7)
    budget.reserve()
    budget.reserve(2)
    with pytest.raises(BudgetSpent, match="--max-requests 10"):
        budget.reserve()
    budget.settle(2, Usage(), requests=1)  # two were reserved, one was needed
    budget.reserve()


def test_a_budget_of_money_reserves_the_mean_cost():
    # 1 a million input tokens: a reply of 1000 tokens costs 0.001
    budget = Budget(max_cost=0.005, price=Price(input=1.0, output=0.0), expected_cost=0.002)
    budget.reserve()
    budget.reserve()
    with pytest.raises(BudgetSpent):  # 3 * 0.002 > 0.005
        budget.reserve()
    for _ in range(2):
        budget.settle(1, Usage(input=1000), requests=1)
    assert budget.cost == pytest.approx(0.002)
    for _ in range(3):  # the mean is now 0.001: 0.002 + 3 * 0.001 = 0.005
        budget.reserve()
    with pytest.raises(BudgetSpent, match=r"--max-cost 0\.005: another call might go over it"):
        budget.reserve()


def test_a_server_that_does_not_count_tokens_is_charged_as_estimated():
    budget = Budget(max_cost=0.005, price=Price(input=1.0, output=0.0), expected_cost=0.002)
    for _ in range(2):
        budget.reserve()
        budget.settle(1, None, requests=1)
    assert budget.cost == pytest.approx(0.004)
    with pytest.raises(BudgetSpent):
        budget.reserve()
