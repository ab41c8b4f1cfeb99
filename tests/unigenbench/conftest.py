"""What several tests of unigenbench share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder of the official prompt files, which are not part of this project."""
    folder = os.environ.get("UNIGENBENCH_DATA")
    if not folder:
        pytest.skip(
            "the official UniGenBench prompt files were not looked at; "
            "set UNIGENBENCH_DATA to the folder with test_prompts_en.csv and test_prompts_zh.csv"
        )
    return Path(folder)
