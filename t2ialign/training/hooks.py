"""What happens after an optimizer step: progress and warnings. A hook is `hook(engine)`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from t2ialign.training.engine import Engine
from t2ialign.training.metrics import Metrics


def _shown(metrics: Metrics) -> list[str]:
    """The numbers that matter while a run is watched."""
    shown = [f"loss {metrics['loss']:.4f}"]
    if "implicit_accuracy" in metrics:
        shown.append(f"accuracy {metrics['implicit_accuracy']:.2f}")
    return shown


class Pace:
    """How long a run still takes, its validations included.

    Args:
        step: from which the run goes on.
        steps: the last step.
        every: optimizer steps between validations; there is one more after the last step. None: there are none.
        clock: seconds.
    """

    def __init__(self, *, step: int, steps: int, every: int | None = None, clock: Callable[[], float] = monotonic):
        self._from, self.steps, self._every, self.clock = step, steps, every, clock
        self._started = clock()
        self._paused = 0.0
        self._validation = 0.0

    def begin(self) -> None:
        """Counts from now: what follows are the steps."""
        self._started, self._paused = self.clock(), 0.0

    @contextmanager
    def validating(self) -> Generator[None, None, None]:
        """Times what is inside as a validation."""
        started = self.clock()
        yield
        self._validation = self.clock() - started
        self._paused += self._validation

    def each(self, step: int, now: float) -> float:
        """Mean seconds of the steps so far."""
        return (now - self._started - self._paused) / (step - self._from)

    def left(self, step: int, now: float) -> float:
        """Seconds that steps and validations still take, validations as long as the latest."""
        return self.each(step, now) * (self.steps - step) + self._validation * self._validations_after(step)

    def _validations_after(self, step: int) -> int:
        if self._every is None or step >= self.steps:
            return 0
        return -(-self.steps // self._every) - step // self._every


class ProgressBar:
    """A bar with remaining time and the numbers that matter."""

    def __init__(self, console: Console, pace: Pace):
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[now]}"),
            console=console,
        )
        self._pace = pace
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def __call__(self, engine: Engine) -> None:
        left = f"{duration(self._pace.left(engine.step, self._pace.clock()))} left"
        if self._task is None:
            self._task = self._progress.add_task("train", total=self._pace.steps, left="", now="")
        self._progress.update(self._task, completed=engine.step, left=left, now="  ".join(_shown(engine.metrics)))


class StepLines:
    """A line now and then, for logs that are no terminal: the first step, one every so often, and the last.

    Args:
        say: takes a line.
        pace: of the run.
        every_seconds: between two lines.
    """

    def __init__(self, say: Callable[[str], None], pace: Pace, *, every_seconds: float = 30.0):
        self._say, self._pace, self._every = say, pace, every_seconds
        self._last: float | None = None

    def __call__(self, engine: Engine) -> None:
        now, steps = self._pace.clock(), self._pace.steps
        if self._last is not None and now - self._last < self._every and engine.step < steps:
            return
        self._last = now
        each = f"{self._pace.each(engine.step, now):.3g} s a step"
        numbers = [*_shown(engine.metrics), f"lr {engine.metrics['lr']:.3g}", each]
        ending = [f"{duration(self._pace.left(engine.step, now))} left"] if engine.step < steps else []
        self._say("  ".join([f"step {engine.step} of {steps}", *numbers, *ending]))


def duration(seconds: float) -> str:
    """For example "40 s", "12 min", "3 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


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
