"""A check with one seed after another, from FUZZ_SEED on and for FUZZ_SECONDS, two environment variables.

The suite begins at the same seed every time, so that what it finds does not depend on the day; a search for new faults
names another seed and a longer time.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
TIMEOUT = 120 + 3 * SECONDS
"""Of a test that fuzzes."""


def fuzz(check: Callable[[random.Random], None]) -> None:
    """Runs the check until the time is up; the failure names the seed."""
    until, seed = time.monotonic() + SECONDS, SEED
    while time.monotonic() < until:
        try:
            check(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"random.Random({seed})") from error
        seed += 1
