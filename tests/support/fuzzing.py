"""A check with one seed after another, for as long as the environment variable FUZZ_SECONDS says."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
TIMEOUT = 120 + 3 * SECONDS
"""Of a test that fuzzes."""


def fuzz(check: Callable[[random.Random], None]) -> None:
    """Runs the check until the time is up; the failure names the seed."""
    until, seed = time.monotonic() + SECONDS, time.time_ns()
    while time.monotonic() < until:
        seed += 1
        try:
            check(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"random.Random({seed})") from error
