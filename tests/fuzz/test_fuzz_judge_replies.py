"""Replies of any shape for as long as FUZZ_SECONDS says; the seed of one that breaks the property is in the failure."""

from __future__ import annotations

import os
import random
import time

import pytest
from odd_json import check_reading, odd_completion

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 3 * SECONDS)]


def test_no_reply_breaks_the_reader_or_becomes_a_verdict_that_it_does_not_state():
    until, seed = time.monotonic() + SECONDS, time.time_ns()
    while time.monotonic() < until:
        seed += 1
        try:
            check_reading(odd_completion(random.Random(seed)))
        except Exception as error:
            raise AssertionError(f"check_reading(odd_completion(random.Random({seed})))") from error
