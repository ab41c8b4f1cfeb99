"""Where the numbers of a run go: metrics.jsonl, which is the record, and boards, which are views of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)
METRICS = "metrics.jsonl"


class Board(Protocol):
    """Shows numbers and images of a run."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, tag: str, image: Image.Image, step: int) -> None: ...

    def close(self) -> None: ...


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
        run_dir: folder of metrics.jsonl.
        step: the step training goes on from; rows after it belong to work that was lost and are dropped.
    """

    def __init__(self, run_dir: Path, step: int):
        path = run_dir / METRICS
        kept = [row for row in read_metrics(path) if row["step"] <= step] if step else []
        with atomic_write(path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.recorded = frozenset(name for row in kept if row["step"] == step for name in row)
        """Names of the metrics recorded at `step` by an earlier start."""
        self.boards: list[Board] = []
        """Where numbers and images are shown; one that fails is left out from then on."""
        self._file = path.open("a")

    def log(self, row: dict[str, Any]) -> None:
        """Records the numbers of one step; `row` holds `step`."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        numbers = {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}
        self._show(lambda board: board.log(numbers, row["step"]))

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Shows an image on the boards."""
        self._show(lambda board: board.image(tag, image, step))

    def close(self) -> None:
        self._file.close()
        self._show(lambda board: board.close())

    def _show(self, show: Callable[[Board], None]) -> None:
        """Calls each board; the run does not depend on what a tracker's service does."""
        for board in list(self.boards):
            try:
                show(board)
            except Exception as error:
                self.boards.remove(board)
                logger.warning(f"{board} failed ({type(error).__name__}: {error}) and is left out; training goes on")
