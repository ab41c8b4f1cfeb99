"""The curves of a training run: which metrics share a chart, what it is called, and which have intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from t2ialign.report.charts import Chart, line_chart
from t2ialign.statistics import Z_95


class ChartSpec(NamedTuple):
    """A chart, drawn where the run has one of its metrics."""

    title: str
    note: str
    labels: dict[str, str]
    """Metric -> label of its line."""
    guides: dict[str, float]
    """Label -> height of a horizontal line."""


_CHARTS = (
    ChartSpec(
        "Loss",
        "mean over the examples of a step",
        {"loss": "loss"},
        {},
    ),
    ChartSpec(
        "Implicit accuracy",
        "share of pairs whose chosen image gained more than the rejected one; ½ is chance",
        {"implicit_accuracy": "accuracy"},
        {"½": 0.5},
    ),
    ChartSpec(
        "Margin", "what goes into the log-sigmoid; above 0 prefers the chosen image", {"margin": "margin"}, {"": 0.0}
    ),
    ChartSpec(
        "Change of the denoising error",
        "policy minus reference; below 0 the policy denoises that image better",
        {"chosen_change": "chosen", "rejected_change": "rejected"},
        {"": 0.0},
    ),
    ChartSpec(
        "Saturated pairs",
        "share whose loss is flat, which hardly teach any more: margin > 5, with kto < −5 too",
        {"saturated": "share"},
        {},
    ),
    ChartSpec(
        "Denoising error",
        "mean squared error against the drawn noise",
        {"chosen_error": "chosen", "rejected_error": "rejected", "reference_error": "reference"},
        {},
    ),
    ChartSpec("Gradient norm", "before clipping", {"grad_norm": "norm"}, {}),
    ChartSpec("Learning rate", "as used in each step", {"lr": "rate"}, {}),
)
HELD_OUT = "validation/pair_accuracy"
"""Group of the metrics of held-out pairs."""
_GUIDES = {HELD_OUT: {"½": 0.5}}
"""Group of metrics -> horizontal lines of its chart."""
KNOWN = {
    key: chart.title if len(chart.labels) == 1 else f"{chart.title}: {label}"
    for chart in _CHARTS
    for key, label in chart.labels.items()
}
"""Metric -> title of a chart of its own."""
NOT_CHARTED = {"step", "samples_seen", "seconds"}


def training_charts(rows: list[dict[str, Any]], *, initial_loss: float | None) -> list[Chart]:
    """A chart of every metric in the rows of metrics.jsonl; the well-known ones first, grouped and explained.

    Args:
        initial_loss: DPO's loss while the policy equals the reference; None where it is not known or the loss another.
    """
    if len(rows) < 2:
        return []
    is_preference = any("margin" in row for row in rows)
    charts = []
    for title, note, labels, guides in (*_CHARTS, *_other_charts(rows)):
        present = {key: label for key, label in labels.items() if any(key in row for row in rows)}
        if not present:
            continue
        if title == "Loss" and is_preference and initial_loss is not None:
            note = "starts at ln 2 and stays near it: one noisy sample of a pair says little"
            guides = {"ln 2": initial_loss}
        series = {label: [value(row, key) for row in rows] for key, label in present.items()}
        charts.append(line_chart(title, note, [row["step"] for row in rows], series, guides, _bands(rows, present)))
    return charts


def _bands(rows: list[dict[str, Any]], labels: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Label -> the 95 % interval of each value, of the metrics that have one."""
    bands = {label: [interval(row, key) for row in rows] for key, label in labels.items()}
    return {label: ends for label, ends in bands.items() if any(math.isfinite(low) for low, _ in ends)}


def interval(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """What was measured beside a value: low and high of a mean, or the standard error of a difference from the base."""
    group, _, who = key.rpartition("/")
    if who == "mean":
        return value(row, f"{group}/low"), value(row, f"{group}/high")
    error = value(row, f"{group}/standard_error") if who == "policy" else math.nan
    return value(row, key) - Z_95 * error, value(row, key) + Z_95 * error


def _other_charts(rows: list[dict[str, Any]]) -> list[ChartSpec]:
    """A chart of each metric that no other shows.

    Those of one reward share one: on fixed prompts (`validation/NAME/WHO`), and on the images that are trained on
    (`reward/NAME`).
    """
    charted = {key for chart in _CHARTS for key in chart.labels} | NOT_CHARTED
    keys = {key for row in rows for key, value in row.items() if isinstance(value, int | float)} - charted
    groups: dict[str, dict[str, str]] = {}
    for key in sorted(key for key in keys if not is_of_interval(key, keys)):
        kind, _, name = key.partition("/")
        group, _, who = key.rpartition("/")
        if kind == "reward":
            group, who = f"validation/{name}", "trained on"
        elif kind == "rollout":
            group, who = key, name
        groups.setdefault(group or key, {})[key] = who
    return [
        ChartSpec(chart_title(name), _note(name, labels, keys), labels, _GUIDES.get(name, {}))
        for name, labels in groups.items()
    ]


def is_of_interval(key: str, keys: Set[str]) -> bool:
    """Whether a metric is drawn as the edge of a band, and not as a line."""
    group, _, who = key.rpartition("/")
    return who == "standard_error" or (who in ("low", "high") and f"{group}/mean" in keys)


def _note(group: str, labels: Mapping[str, str], keys: Set[str]) -> str:
    if "mean" in labels.values() and f"{group}/low" in keys:
        return "band: 95 % interval"
    return "band: 95 % interval of the difference from base" if f"{group}/standard_error" in keys else "as logged"


def chart_title(group: str) -> str:
    """A reward's own name, and words for the others."""
    if group == HELD_OUT:
        return "Held-out pair accuracy"
    return group.removeprefix("validation/") if "/" in group else group.replace("_", " ").capitalize()


def value(row: Mapping[str, Any], key: str) -> float:
    """NaN where the row lacks it."""
    found = row.get(key)
    return math.nan if found is None else float(found)
