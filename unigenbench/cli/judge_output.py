"""What the commands `judge` and `estimate` print: progress, waits, the outcome, and why a run stopped."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unigenbench.errors import BenchError, Interrupted, TryAgainError

if TYPE_CHECKING:
    from unigenbench.judging.estimate import Estimate
    from unigenbench.judging.progress import Outcome, Progress

SECONDS_BETWEEN_LINES = 30.0
"""of progress, where standard error is no terminal"""


def _console() -> Console:
    """Standard error; what it prints is text, never markup."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere; on standard error."""
    console = _console()
    if not console.is_terminal:
        yield ProgressLog(lambda line: console.print(line))
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda now: bar.update(task, completed=now.done, total=now.total, description=_describe(now))


class ProgressLog:
    """Progress as lines of a log: every 30 seconds, at the end, and when the run begins to end or to wait."""

    def __init__(self, write: Callable[[str], None]):
        self._write, self._at = write, time.monotonic()
        self._ending = self._waiting = False

    def __call__(self, now: Progress) -> None:
        waiting = now.wait is not None
        is_news = now.done == now.total or now.ending != self._ending or (waiting and not self._waiting)
        if is_news or time.monotonic() - self._at >= SECONDS_BETWEEN_LINES:
            self._at, self._ending, self._waiting = time.monotonic(), now.ending, waiting
            self._write(f"{now.done} of {now.total} asked, {_describe(now)}")


def _describe(now: Progress) -> str:
    judged = now.statuses.get("ok", 0)
    parts = [f"{judged} judged", f"{now.done - judged} failed", f"{now.concurrency} at once"]
    if now.cost is not None:
        expected = "" if now.expected_cost is None else f" of about {now.expected_cost:.2f}"
        parts.append(f"cost {now.cost:.2f}{expected}")
    if now.ending:
        parts.append("ending once the calls in flight are answered; interrupt to drop them")
    elif now.wait is not None:
        parts.append(f"waiting until {now.wait.until:%H:%M:%S}: {now.wait.reason}")
    return ", ".join(parts)


def show_estimate(estimate: Estimate, as_json: bool) -> None:
    """What a run would take."""
    if as_json:
        typer.echo(json.dumps(asdict(estimate)))
        return
    usage = estimate.usage
    cost = "unknown; give --prices FILE" if estimate.cost is None else f"{estimate.cost:.2f}"
    typer.echo(
        f"{estimate.judgements} judgements, {estimate.requests} requests without retries\n"
        f"about {usage.input / 1e6:.2f} million tokens in, {usage.output / 1e6:.2f} million out (without reasoning)\n"
        f"cost: {cost}"
    )


def show_outcome(outcome: Outcome, run: Path, as_json: bool) -> None:
    """What was judged and what was not, each failure by its kind, and the text of the most frequent one."""
    if as_json:
        shown = {**asdict(outcome), "error": str(outcome.error) if outcome.error else None, "run": str(run)}
        typer.echo(json.dumps(shown))
        return
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items(), key=lambda c: -c[1]))
    typer.echo(f"{run}: {counts}")
    if outcome.commonest_failure is not None:
        error, times = outcome.commonest_failure
        failed = sum(outcome.statuses.values()) - outcome.statuses.get("ok", 0) - outcome.statuses.get("unjudged", 0)
        typer.echo(f"most frequent failure ({times} of {failed}): {error}")
    cost = "" if outcome.cost is None else f", cost {outcome.cost:.4f} in all"
    if outcome.cost is not None and outcome.uncounted:
        cost += f" (estimated for {outcome.uncounted} requests whose tokens the server did not count)"
    scores = f"unigenbench score {shlex.quote(str(run))}"
    typer.echo(f"{outcome.requests} requests in {outcome.seconds:.1f} s{cost}; scores: {scores}")


def show_stop(reason: BenchError) -> None:
    """Why a run ended early: its own limits, an interrupt or a pause are no error."""
    from unigenbench.judging.budget import BudgetSpent

    stopped = isinstance(reason, Interrupted | TryAgainError | BudgetSpent)
    label, style = ("stopped", "yellow") if stopped else ("error", "red")
    _console().print(f"{label}: {reason}", style=style)
