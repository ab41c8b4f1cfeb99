"""How often each row group of Parquet files is read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int, str]]:
    """Counts, from now on, how often each column of each row group is read: (file, group, column) -> times."""
    found: Counter[tuple[str, int, str]] = Counter()
    real = pq.ParquetFile

    class Counted(real):  # type: ignore[misc,valid-type]
        def __init__(self, path: Any, *arguments: Any, **settings: Any):
            super().__init__(path, *arguments, **settings)
            self.name = Path(path).name

        def read_row_group(self, i: int, columns: Any = None, **settings: Any) -> Any:
            found[(self.name, i, columns[0])] += 1
            return super().read_row_group(i, columns=columns, **settings)

    monkeypatch.setattr(pq, "ParquetFile", Counted)
    return found
