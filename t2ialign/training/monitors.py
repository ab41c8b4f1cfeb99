"""Signs in the record of an online run that it goes wrong: what each says, and who looks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from t2ialign.config.online import Monitor, Sign
from t2ialign.config.schema import OnlineConfig
from t2ialign.errors import QualityError
from t2ialign.training.engine import Engine
from t2ialign.training.trackers import METRICS, read_metrics

Row = Mapping[str, Any]
HELD_OUT, TRAINED, FIRST_SHOWN = "validation/", "reward/", "first_shown_wins/"
"""How metrics of rewards on fixed prompts, of rewards that are trained, and of the order of display begin."""


def signs(rows: Sequence[Row], limits: Monitor, low_preferred: Collection[str] = ()) -> dict[Sign, str]:
    """What the record of a run says of each sign that is there.

    Args:
        rows: of metrics.jsonl, in order.
        limits: from where on something is a sign.
        low_preferred: metrics of rewards of which low scores are preferred: `reward/NAME`, `validation/NAME`.
    """
    window = limits.every_iterations
    distance = _mean(_values(rows, "kl")[-window:])
    is_far = limits.distance is not None and distance > limits.distance
    said: dict[Sign, str | None] = {
        "held_out": next(_fallen(rows, limits, low_preferred), None),
        "diversity": _changed(
            rows, "rollout/diversity", window, lambda ratio: ratio < limits.diversity, "images of a prompt become alike"
        ),
        "saturation": _changed(
            rows, "rollout/saturation", window, lambda ratio: ratio > limits.saturation, "colours become too strong"
        ),
        "flat_groups": _above(rows, "rollout/flat_groups", window, limits.flat_groups, "groups have no difference"),
        "clipped": _above(rows, "clipped", window, limits.clipped, "steps are clipped"),
        "order": next(_prefers_a_place(rows, limits), None),
        "distance": f"the distance from the reference (kl) is {distance:.3g}" if is_far else None,
    }
    return {sign: text for sign, text in said.items() if text is not None}


def _changed(rows: Sequence[Row], metric: str, window: int, too_far: Callable[[float], bool], what: str) -> str | None:
    values = _values(rows, metric)
    first, last = _mean(values[:window]), _mean(values[-window:])
    if len(values) <= window or first <= 0 or not too_far(last / first):
        return None
    return f"{what}: {metric} went from {first:.3g} to {last:.3g}"


def _above(rows: Sequence[Row], metric: str, window: int, limit: float, what: str) -> str | None:
    last = _mean(_values(rows, metric)[-window:])
    return f"{last:.0%} of {what} ({metric})" if last > limit else None


def _prefers_a_place(rows: Sequence[Row], limits: Monitor) -> Iterator[str]:
    """Pairwise rewards that prefer the image that is shown first, or the other one."""
    for key in dict.fromkeys(key for row in rows for key in row if key.startswith(FIRST_SHOWN)):
        share = _mean(_values(rows, key)[-limits.every_iterations :])
        if abs(share - 0.5) > limits.order:
            name = key.removeprefix(FIRST_SHOWN)
            told = f"{name} prefers the image that is shown first in {share:.0%} of pairs"
            yield f"{told}; its option order: both cancels that"


def _fallen(rows: Sequence[Row], limits: Monitor, low_preferred: Collection[str]) -> Iterator[str]:
    """Rewards of fixed prompts that are further from their best than their error allows, while trained ones gained."""
    names = dict.fromkeys(
        key for row in rows for key in row if key.startswith(HELD_OUT) and key.endswith("/standard_error")
    )
    for key in names:
        name = key.removesuffix("/standard_error")
        sign = -1 if name in low_preferred else 1
        scores = {row["step"]: sign * row[f"{name}/policy"] for row in rows if f"{name}/policy" in row}
        best, now = max(scores, key=lambda step: scores[step]), max(scores)
        loss, error = scores[best] - scores[now], _values(rows, key)[-1]
        gained = _gain(rows, best, now, limits.every_iterations, low_preferred)
        if loss > limits.held_out * error > 0 and gained is not None:
            yield (
                f"{name.removeprefix(HELD_OUT)} of fixed prompts {_moved(sign)} from {sign * scores[best]:.3g} (step "
                f"{best}) to {sign * scores[now]:.3g}, {loss / error:.1f} standard errors, while {gained}"
            )


def _moved(sign: int) -> str:
    return "fell" if sign > 0 else "rose"


def _gain(rows: Sequence[Row], before: int, after: int, window: int, low_preferred: Collection[str]) -> str | None:
    """What was trained and gained between two steps; None where all that is known lost."""
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(TRAINED))
    if not names:
        return "what is trained are win rates, whose mean says nothing"
    for name in names:
        scored = [row for row in rows if name in row]
        means = [
            _mean(([row[name] for row in scored if row["step"] <= step] or [scored[0][name]])[-window:])
            for step in (before, after)
        ]
        sign = -1 if name in low_preferred else 1
        if sign * (means[1] - means[0]) > 0:
            return f"the trained {name.removeprefix(TRAINED)} {_moved(-sign)} from {means[0]:.3g} to {means[1]:.3g}"
    return None


def _values(rows: Sequence[Row], metric: str) -> list[float]:
    return [row[metric] for row in rows if isfinite(row.get(metric, float("nan")))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def low_preferred(trained: Iterable[tuple[str, float]], held_out: Iterable[tuple[str, float]]) -> set[str]:
    """The metrics of rewards whose weight is below 0; see `signs`.

    Args:
        trained: names and weights of a run's rewards.
        held_out: of those of `validate.rewards`.
    """
    low = {f"{TRAINED}{name}" for name, weight in trained if weight < 0}
    return low | {f"{HELD_OUT}{name}" for name, weight in held_out if weight < 0}


class Monitors:
    """A hook that looks for signs after every few iterations; says each once, or ends the run.

    Args:
        config: of the run.
        say: takes a line.
    """

    def __init__(self, config: OnlineConfig, say: Callable[[str], None]):
        self._config, self._say = config, say
        self._said: set[Sign] = set()

    def __call__(self, engine: Engine) -> None:
        """
        Raises:
            QualityError: a sign is there that ends the run.
        """
        monitor = self._config.monitor
        if engine.step % (monitor.every_iterations * self._config.rollout.updates):
            return
        low = low_preferred(
            ((reward.name, reward.weight) for reward in self._config.rewards),
            ((reward.name, reward.weight) for reward in self._config.validation.rewards),
        )
        for sign, text in signs(read_metrics(self._config.run_dir / METRICS), monitor, low).items():
            if sign in monitor.stop:
                raise QualityError(
                    f"{self._config.run_dir}: stopped after step {engine.step}, saved: {text}. Without {sign} in "
                    "monitor.stop the same command goes on"
                )
            if sign not in self._said:
                self._say(f"warning: {text}")
                self._said.add(sign)
