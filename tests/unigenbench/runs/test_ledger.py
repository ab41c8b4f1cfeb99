"""What calls took, over all starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unigenbench.errors import DataError
from unigenbench.runs.ledger import LEDGER, Ledger, Spending
from unigenbench.types import Usage

COUNTS = st.integers(0, 5000)
USAGES = st.builds(Usage, COUNTS, COUNTS)


def reopened(path: Path) -> Spending:
    """What a later start reads."""
    ledger = Ledger(path, Spending())
    ledger.close()
    return ledger.spent


def test_a_call_in_flight_at_a_kill_counts_as_expected(tmp_path: Path):
    ledger = Ledger(tmp_path / LEDGER, Spending())
    ledger.end(ledger.begin(1, Usage(900, 90)), 1, Usage(1000, 100))
    ledger.begin(3, Usage(500, 50))
    assert ledger.spent.requests == 1
    spent = reopened(tmp_path / LEDGER)  # the first is not closed: a kill
    assert (spent.requests, spent.usage) == (4, Usage(1000, 100))
    assert (spent.uncounted, spent.estimated) == (3, Usage(500, 50))


def test_a_folder_without_a_ledger_begins_with_what_its_judgements_took(tmp_path: Path):
    path = tmp_path / LEDGER
    Ledger(path, Spending(requests=5, usage=Usage(10, 1))).close()
    spent = reopened(path)
    assert (spent.requests, spent.usage) == (5, Usage(10, 1))
    Ledger(path, Spending(requests=9, usage=Usage(99, 9))).close()  # the file knows better
    assert reopened(path) == spent


def test_a_damaged_line_is_named(tmp_path: Path):
    (tmp_path / LEDGER).write_text('{"call": 7, "requests": 1, "usage": null}\n')
    with pytest.raises(DataError, match=r"calls\.jsonl:1: damaged .*; delete the file"):
        Ledger(tmp_path / LEDGER, Spending())


@given(st.lists(st.tuples(st.integers(1, 3), USAGES, st.one_of(st.none(), USAGES), st.booleans())))
def test_a_later_start_reads_what_this_one_knows(tmp_path_factory: pytest.TempPathFactory, calls: list):
    path = tmp_path_factory.mktemp("run") / LEDGER
    ledger = Ledger(path, Spending())
    for requests, expected, usage, lands in calls:
        number = ledger.begin(requests, expected)
        if lands:
            ledger.end(number, requests, usage)
    known = ledger.spent
    for call in ledger.open_calls.values():
        known = known.add(call, call.requests, None)
    ledger.close()
    assert reopened(path) == known
