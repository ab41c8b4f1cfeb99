"""What a terminal shows: text as it stands, and the progress of what takes long."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it stands: no markup, no emoji codes, no highlighting, lines never wrapped.

    Paths, names and prompts may hold `[brackets]` and `:colons:`. Tables want `soft_wrap=False`.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def track(items: Iterable[Item], description: str, total: int, *, delay_seconds: float = 2.0) -> Iterator[Item]:
    """Yields the items, with a progress bar on stderr once they have taken longer than the delay."""
    started = time.monotonic()
    bar: Progress | None = None
    try:
        for done, item in enumerate(items):
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            elif time.monotonic() - started > delay_seconds:
                bar = Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    console=plain_console(stderr=True),
                )
                bar.add_task(description, total=total, completed=done)
                bar.start()
            yield item
        if bar is not None:
            bar.update(bar.task_ids[0], completed=total)
    finally:
        if bar is not None:
            bar.stop()
