"""Fixtures of the tests of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from own_data import PlainBackbone, write_csv, write_image


@pytest.fixture
def pair_table(tmp_path: Path) -> Callable[..., Path]:
    """Writes n pairs as PNG files and a CSV beside them, and returns the CSV's path."""

    def write(n: int = 6, prompts: int = 3) -> Path:
        rows = []
        for index in range(n):
            write_image(tmp_path / f"img/{index}_w.png", 2 * index, (20 + index % 3, 16))
            write_image(tmp_path / f"img/{index}_l.png", 2 * index + 1)
            rows.append([f"prompt {index % prompts}", f"img/{index}_w.png", f"img/{index}_l.png"])
        return write_csv(tmp_path / "pairs.csv", ["prompt", "chosen", "rejected"], rows)

    return write


@pytest.fixture
def backbone() -> PlainBackbone:
    return PlainBackbone()
