"""Requests and money: of this start, of earlier ones, and of calls in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigenbench.judging.budget import Budget, BudgetSpent
from unigenbench.judging.estimate import Price
from unigenbench.runs.ledger import LEDGER, Ledger, Spending
from unigenbench.types import Usage

PRICE = Price(input=1.0, output=0.0)
"""A thousand input tokens cost 0.001."""


def ledger(folder: Path, requests_before: int = 0) -> Ledger:
    return Ledger(folder / LEDGER, Spending(requests=requests_before))


def test_a_budget_of_requests_counts_those_in_flight_and_those_of_earlier_starts(tmp_path: Path):
    budget = Budget(ledger(tmp_path, requests_before=7), max_requests=10)
    budget.reserve(1, Usage())
    two = budget.reserve(2, Usage())
    with pytest.raises(BudgetSpent, match="--max-requests 10"):
        budget.reserve(1, Usage())
    budget.settle(two, 1, Usage())  # two were reserved, one was needed
    budget.reserve(1, Usage())


def test_a_budget_of_money_scales_what_is_expected_by_what_calls_cost_so_far(tmp_path: Path):
    budget = Budget(ledger(tmp_path), max_cost=0.005, price=PRICE)
    numbers = [budget.reserve(1, Usage(input=2000)) for _ in range(2)]
    with pytest.raises(BudgetSpent):  # 3 * 0.002 > 0.005
        budget.reserve(1, Usage(input=2000))
    for number in numbers:
        budget.settle(number, 1, Usage(input=1000))
    assert budget.cost == pytest.approx(0.002)
    for _ in range(3):  # half of what was expected: 0.002 + 3 * 0.001 = 0.005
        budget.reserve(1, Usage(input=2000))
    with pytest.raises(BudgetSpent, match=r"--max-cost 0\.005: another call might go over it"):
        budget.reserve(1, Usage(input=2000))


def test_failed_calls_do_not_make_others_look_cheap(tmp_path: Path):
    budget = Budget(ledger(tmp_path), max_cost=0.005, price=PRICE)
    for usage in (Usage(), Usage(), Usage(), Usage(input=2000)):
        budget.settle(budget.reserve(1, Usage(input=1000)), 1, usage)
    budget.reserve(1, Usage(input=1000))  # twice the expected 0.001: 0.002 + 0.002
    with pytest.raises(BudgetSpent):
        budget.reserve(1, Usage(input=1000))


def test_tokens_that_a_server_does_not_count_are_charged_as_expected_by_later_starts_too(tmp_path: Path):
    for start in (1, 2):
        calls = ledger(tmp_path)
        budget = Budget(calls, max_cost=0.009, price=PRICE)
        for _ in range(2):
            budget.settle(budget.reserve(1, Usage(input=2000)), 1, None)
        assert budget.cost == pytest.approx(0.004 * start)
        assert calls.spent.uncounted == 2 * start
        calls.close()
    with pytest.raises(BudgetSpent):
        Budget(ledger(tmp_path), max_cost=0.009, price=PRICE).reserve(1, Usage(input=2000))
