"""Where the numbers of a run go: metrics.jsonl, which is the record, and TensorBoard, which is a view of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2ialign.storage.atomic import atomic_write

METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


class Tracker:
    """Appends one row per optimizer step; goes on after a restart as if nothing had happened.

    Args:
        run_dir: folder of metrics.jsonl and tensorboard/.
        step: the step training goes on from; rows after it belong to work that was lost and are dropped.
    """

    def __init__(self, run_dir: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        path = run_dir / METRICS
        kept = [row for row in read_metrics(path) if row["step"] <= step] if step else []
        with atomic_write(path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.recorded = frozenset(name for row in kept if row["step"] == step for name in row)
        """Names of the metrics recorded at `step` by an earlier start."""
        self._file = path.open("a")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def log(self, row: dict[str, Any]) -> None:
        """Records the numbers of one step; `row` holds `step`."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self._board.add_scalar(key, value, row["step"])  # pyright: ignore[reportUnknownMemberType]

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Shows an image on the board."""
        self._board.add_image(tag, np.asarray(image), step, dataformats="HWC")  # pyright: ignore[reportUnknownMemberType]

    def close(self) -> None:
        self._file.close()
        self._board.close()
