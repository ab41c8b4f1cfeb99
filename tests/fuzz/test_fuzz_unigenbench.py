"""Prompt files and replies from FUZZ_SEED on, for FUZZ_SECONDS; a failure names its seed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fuzzing import TIMEOUT, fuzz
from odd_text import check_prompts, check_reply

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


def test_a_prompt_file_is_read_or_refused_in_sentences(tmp_path: Path):
    logging.disable(logging.WARNING)
    try:
        fuzz(lambda draw: check_prompts(tmp_path, draw))
    finally:
        logging.disable(logging.NOTSET)


def test_no_reply_breaks_the_parser_or_becomes_a_verdict_that_it_does_not_state():
    fuzz(check_reply)
