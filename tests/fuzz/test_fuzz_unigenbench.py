"""Prompt files and replies for as long as FUZZ_SECONDS says; a failure names its seed."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_text import check_prompts, check_reply

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 3 * SECONDS)]


def run(check: Callable[[random.Random], None]) -> None:
    until, seed = time.monotonic() + SECONDS, time.time_ns()
    while time.monotonic() < until:
        seed += 1
        try:
            check(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def test_a_prompt_file_is_read_or_refused_in_sentences(tmp_path: Path):
    logging.disable(logging.WARNING)
    try:
        run(lambda draw: check_prompts(tmp_path, draw))
    finally:
        logging.disable(logging.NOTSET)


def test_no_reply_breaks_the_parser_or_becomes_a_verdict_that_it_does_not_state():
    run(check_reply)
