"""Requests and money of a run folder, earlier starts and calls in flight included."""

from __future__ import annotations

from unigenbench.errors import ServerError
from unigenbench.judging.estimate import Price
from unigenbench.runs.ledger import Ledger
from unigenbench.types import Usage


class BudgetSpent(ServerError):
    """The stated budget does not cover another call; what is done is saved."""


class Budget:
    """Lets a call begin only while it, with those in flight, stays within the limits.

    The expected cost of a call is scaled by what the counted calls so far cost, against what was expected of them.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price: Price | None = None,
    ):
        self._ledger = ledger
        self._max_requests, self._max_cost, self._price = max_requests, max_cost, price

    @property
    def requests(self) -> int:
        """Made so far, by all starts."""
        return self._ledger.spent.requests

    @property
    def usage(self) -> Usage:
        """Counted so far, by all starts."""
        return self._ledger.spent.usage

    @property
    def cost(self) -> float | None:
        """Spent so far, estimated where tokens were not counted; None without prices."""
        spent = self._ledger.spent
        return None if self._price is None else self._price.cost(spent.usage) + self._price.cost(spent.estimated)

    def reserve(self, requests: int, expected: Usage) -> int:
        """Before a call that takes so many requests and tokens; the call's number.

        Raises:
            BudgetSpent: it might go over the budget.
            TryAgainError: the disk is full.
        """
        again = "What is done is saved; the same command with a higher limit goes on"
        in_flight = self._ledger.open_calls.values()
        all_requests = self.requests + sum(call.requests for call in in_flight) + requests
        if self._max_requests is not None and all_requests > self._max_requests:
            raise BudgetSpent(f"--max-requests {self._max_requests}: reached. {again}")
        ahead = sum((call.expected for call in in_flight), expected)
        if self._max_cost is not None and (self.cost or 0.0) + self._scaled_cost(ahead) > self._max_cost:
            raise BudgetSpent(f"--max-cost {self._max_cost:g}: another call might go over it. {again}")
        return self._ledger.begin(requests, expected)

    def settle(self, number: int, requests: int, usage: Usage | None) -> None:
        """After a call: what it used, Usage() if it came to nothing, None where its tokens were not counted.

        Raises:
            TryAgainError: the disk is full.
        """
        self._ledger.end(number, requests, usage)

    def _scaled_cost(self, expected: Usage) -> float:
        if self._price is None:
            return 0.0
        counted, foreseen = self._price.cost(self._ledger.spent.usage), self._price.cost(self._ledger.spent.expected)
        return self._price.cost(expected) * (counted / foreseen if counted and foreseen else 1.0)
