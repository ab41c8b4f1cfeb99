"""The shipped recipes still compute what was written down; see tests/support/recorded_runs.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import differences, record

RECORDED = Path(__file__).parents[1] / "recorded"


@pytest.mark.slow
def test_recipes_and_models_compute_what_they_did(tmp_path: Path):
    # another processor adds up in another order: with and without AVX-512 4e-6 before the first update, 1.5e-5 after;
    # on the same machine the script finds every bit equal
    record(tmp_path / "now", tmp_path)
    assert list(differences(RECORDED, tmp_path / "now", tolerance=1e-5)) == []
