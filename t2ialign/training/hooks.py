"""What happens after an optimizer step: progress and warnings. A hook is `hook(engine)`."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from t2ialign.training.engine import Engine


class ProgressBar:
    """A bar with remaining time and the numbers that matter."""

    def __init__(self, console: Console, steps: int):
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
        )
        self._steps = steps
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def __call__(self, engine: Engine) -> None:
        shown = [f"loss {engine.metrics['loss']:.4f}"]
        if "implicit_accuracy" in engine.metrics:
            shown.append(f"accuracy {engine.metrics['implicit_accuracy']:.2f}")
        if self._task is None:
            self._task = self._progress.add_task("train", total=self._steps, completed=engine.step, now="")
        self._progress.update(self._task, completed=engine.step, now="  ".join(shown))


class Saturation:
    """Says, after the first steps, what multiplies errors and for how many examples the loss is flat.

    Args:
        multiplier: of the difference of errors in the margin.
        say: takes a line.
        steps: the step after which it speaks; of a run that goes on it counts the steps it has seen.
        margin_key: the objective's key that scales the margin.
    """

    def __init__(self, multiplier: float, say: Callable[[str], None], *, steps: int = 20, margin_key: str = "beta"):
        self._multiplier, self._say, self._steps, self._margin_key = multiplier, say, steps, margin_key
        self._shares: list[float] = []

    def __call__(self, engine: Engine) -> None:
        if engine.step > self._steps or "saturated" not in engine.metrics:
            return
        self._shares.append(engine.metrics["saturated"])
        if engine.step == self._steps:
            seen = len(self._shares)
            share = sum(self._shares) / seen
            when = f"steps {self._steps - seen + 1} to {self._steps}"
            self._say(f"margin multiplier {self._multiplier:g}; {share:.0%} of examples saturated in {when}")
            if share > 0.5:
                self._say(
                    "warning: more than half are saturated, so that their margin teaches nothing; lower "
                    f"objective.{self._margin_key} or optim.lr"
                )
