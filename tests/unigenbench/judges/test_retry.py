"""Which faults are tried again, and when."""

from __future__ import annotations

import random
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unigenbench.judges.retry import LONGEST_SECONDS, RetryPolicy, classify, retry_after_seconds


def test_only_faults_that_may_pass_are_tried_again():
    assert {status: classify(status) for status in (429, 408, 409, 425, 500, 502, 503, 504, 529)} == {
        429: "rate",
        **dict.fromkeys((408, 409, 425, 500, 502, 503, 504, 529), "transient"),
    }
    assert {classify(status) for status in (400, 401, 403, 404, 413, 422, 302)} == {"fatal"}


@given(failures=st.integers(1, 40), retry_after=st.none() | st.floats(0, 500), seed=st.integers(0, 99))
def test_a_wait_is_jittered_capped_and_never_shorter_than_asked(failures: int, retry_after: float | None, seed: int):
    policy = RetryPolicy(base_seconds=1.0, cap_seconds=60.0)
    wait = policy.wait_seconds(failures, retry_after, random.Random(seed))
    longest = min(60.0, 2.0 ** (failures - 1))  # base * 2^n, n counted from 0
    assert (retry_after or 0) <= wait <= max(longest, retry_after or 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 08:00:00 GMT"}, 0.0),  # in the past
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "9" * 400}, LONGEST_SECONDS),
        ({"retry-after": "1e999"}, LONGEST_SECONDS),
        ({"retry-after": "Sat, 21 Nov 99999999999 09:00:30 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_a_number_or_a_date(headers: dict[str, str], seconds: float | None):
    assert retry_after_seconds(headers, datetime(2026, 11, 21, 9, 0, 0, tzinfo=timezone.utc)) == seconds


@given(st.text(), st.text())
def test_headers_of_any_text_are_a_wait_or_none(seconds: str, milliseconds: str):
    for headers in ({"retry-after": seconds}, {"retry-after-ms": milliseconds, "retry-after": seconds}):
        found = retry_after_seconds(headers)
        assert found is None or found >= 0
