"""Replies of any shape from FUZZ_SEED on, for FUZZ_SECONDS; a failure names its seed."""

from __future__ import annotations

import pytest
from fuzzing import TIMEOUT, fuzz
from odd_json import check_reading, odd_completion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


def test_no_reply_breaks_the_reader_or_becomes_a_verdict_that_it_does_not_state():
    fuzz(lambda draw: check_reading(odd_completion(draw)))
