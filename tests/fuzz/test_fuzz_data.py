"""Images, tables, folders and prompt files from FUZZ_SEED on, for FUZZ_SECONDS; a failure names its seed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import TIMEOUT, fuzz
from odd_data import check_folder, check_image, check_prompt_file, check_table
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that damaged headers state must not fill the memory of the machine that fuzzes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    warnings.simplefilter("ignore")


def test_damaged_images_are_pixels_or_one_sentence():
    fuzz(check_image)


@pytest.mark.parametrize("check", [check_table, check_folder, check_prompt_file])
def test_any_content_is_used_or_refused_in_one_sentence(tmp_path: Path, check: Callable[[Path, random.Random], None]):
    fuzz(lambda draw: check(tmp_path, draw))
