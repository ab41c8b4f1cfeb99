"""Progress of what takes long, with the remaining time; silent about what does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int, *, delay_seconds: float = 2.0) -> Iterator[Item]:
    """The items, with a bar on stderr once they have taken longer than the delay."""
    started = time.monotonic()
    bar: Progress | None = None
    try:
        for done, item in enumerate(items):
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            elif time.monotonic() - started > delay_seconds:
                bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    console=Console(stderr=True),
                )
                bar.add_task(what, total=total, completed=done)
                bar.start()
            yield item
        if bar is not None:
            bar.update(bar.task_ids[0], completed=total)
    finally:
        if bar is not None:
            bar.stop()
