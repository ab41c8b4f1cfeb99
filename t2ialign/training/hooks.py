"""What happens after an optimizer step: progress, warnings, validation images. A hook is `hook(engine)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from t2ialign.generation.images import generate_images
from t2ialign.policy import Policy
from t2ialign.sampling.guidance import Guidance
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.engine import Engine
from t2ialign.types import Weights

Scorer = Callable[[list[Image.Image], list[str]], list[float | None]]


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


def grid(rows: list[list[Image.Image]]) -> Image.Image:
    """Images side by side, a list a row, 2 px apart."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (len(rows[0]) * (width + 2) - 2, len(rows) * (height + 2) - 2), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * (width + 2), y * (height + 2)))
    return sheet


class ValidationImages:
    """Images of fixed prompts and seeds, the untouched base on the left; draws nothing that training draws.

    Args:
        policy: who answers.
        prompts: one image each.
        folder: where the sheets go.
        every: optimizer steps between sheets; one more after the last step.
        steps: the last step.
        guidance_scale: of the images.
        inference_steps: of the sampler.
        scorers: name -> reward, measured on base and policy.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: list[str],
        folder: Path,
        *,
        every: int,
        steps: int,
        guidance_scale: float,
        inference_steps: int,
        scorers: dict[str, Scorer],
    ):
        self._policy, self._prompts, self._folder = policy, prompts, folder
        self._every, self._steps = every, steps
        self._scale, self._inference_steps = guidance_scale, inference_steps
        self._scorers = scorers
        self._base: list[Image.Image] | None = None

    def __call__(self, engine: Engine) -> None:
        if engine.is_main and (engine.step % self._every == 0 or engine.step == self._steps):
            self.measure(engine)

    def measure(self, engine: Engine) -> None:
        """Makes the sheet of this step and records its scores."""
        if self._base is None:
            self._base = self._images("base")
        images = self._images("policy")
        sheet = grid([list(pair) for pair in zip(self._base, images, strict=True)])
        with atomic_write(self._folder / f"step-{engine.step:06d}.png") as partial:
            sheet.save(partial, format="PNG")
        if engine.tracker is not None:
            engine.tracker.image("validation/base_left_policy_right", sheet, engine.step)
        scores = {}
        for name, scorer in self._scorers.items():
            for who, shown in (("base", self._base), ("policy", images)):
                values = [value for value in scorer(shown, self._prompts) if value is not None]
                if values:
                    scores[f"validation/{name}/{who}"] = sum(values) / len(values)
        if scores:
            engine.log(scores)

    def _images(self, weights: Weights) -> list[Image.Image]:
        return list(
            generate_images(
                self._policy,
                self._prompts,
                list(range(len(self._prompts))),
                guidance=Guidance(self._scale, weights, weights),
                steps=self._inference_steps,
                batch=4,
            )
        )
