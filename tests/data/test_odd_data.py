"""Tables, folders and prompt files of any content are used, or refused in one sentence; tests/fuzz goes on longer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_data import check_folder, check_prompt_file, check_table
from PIL import Image


@pytest.mark.parametrize("check", [check_table, check_folder, check_prompt_file])
@pytest.mark.filterwarnings("ignore")
def test_any_content_is_used_or_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path, random.Random], None]
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # memory of the tests
    for seed in range(100):
        check(tmp_path, random.Random(seed))
