"""One page that compares training runs: curves over each other, keys that differ, final numbers, images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.errors import InputError
from t2ialign.report.charts import Chart, line_chart, number
from t2ialign.report.curves import KNOWN, NOT_CHARTED, chart_title, interval, is_of_interval, value
from t2ialign.report.run_folder import TRAINING, flatten, read_config
from t2ialign.report.template import render, write_page
from t2ialign.report.validation import SampleRow, validation_rows
from t2ialign.training.trackers import METRICS, read_metrics
from unigenbench.formatting import with_minus


class TrainingRun(NamedTuple):
    """What is compared of a run."""

    name: str
    folder: Path
    config: dict[str, Any]
    """Dotted key -> value."""
    rows: list[dict[str, Any]]


def write_runs(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes one page of several runs and returns its path.

    Args:
        run_dirs: folders of training runs or demos.
        out: the page; default: `comparison.html` beside the first run.

    Raises:
        InputError: a folder is given twice or holds no training run.
        DataError: a file of a run is damaged.
        TryAgainError: the disk is full.
    """
    runs = _read(run_dirs)
    page = render(
        "runs",
        title=" and ".join(run.name for run in runs),
        runs=runs,
        differing=_differing(runs),
        finals=_finals(runs),
        charts=_charts(runs),
        samples=_samples(runs),
    )
    return write_page(out or run_dirs[0].resolve().parent / "comparison.html", page)


def _read(run_dirs: Sequence[Path]) -> list[TrainingRun]:
    resolved = [folder.resolve() for folder in run_dirs]
    names = [folder.name for folder in resolved]
    runs: list[TrainingRun] = []
    for place, folder in enumerate(run_dirs):
        if resolved[place] in resolved[:place]:
            raise InputError(f"{folder}: is given twice; name each run once")
        training = folder if (folder / METRICS).is_file() else folder / TRAINING
        rows = [row for row in read_metrics(training / METRICS) if "step" in row]
        if not rows:
            raise InputError(f"{folder}: no {METRICS} with a finished step; give folders of training runs")
        name = names[place] if names.count(names[place]) == 1 else str(folder)
        runs.append(TrainingRun(name, training, flatten(read_config(training / "config.yaml")), rows))
    return runs


def _differing(runs: Sequence[TrainingRun]) -> dict[str, list[Any]]:
    """Key -> its value in each run, of the keys that are not the same in all; None where a run lacks it."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "run_dir")
    values = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if any(one != of_runs[0] for one in of_runs[1:])}


def _metrics(runs: Sequence[TrainingRun]) -> list[str]:
    """Every metric that has a curve: the well-known ones first; what is measured of the base is the same in all."""
    found = {key for run in runs for row in run.rows for key, seen in row.items() if isinstance(seen, int | float)}
    found = {key for key in found - NOT_CHARTED if not is_of_interval(key, found) and not key.endswith("/base")}
    return [*(key for key in KNOWN if key in found), *sorted(found - KNOWN.keys())]


def _charts(runs: Sequence[TrainingRun]) -> list[Chart]:
    steps = sorted({row["step"] for run in runs for row in run.rows})
    return [] if len(steps) < 2 else [_chart(runs, key, steps) for key in _metrics(runs)]


def _chart(runs: Sequence[TrainingRun], key: str, steps: Sequence[int]) -> Chart:
    measured = {run.name: {row["step"]: row for row in run.rows if key in row} for run in runs}
    series = {name: [value(rows.get(step, {}), key) for step in steps] for name, rows in measured.items()}
    ends = {name: [interval(rows.get(step, {}), key) for step in steps] for name, rows in measured.items()}
    bands = {name: some for name, some in ends.items() if any(math.isfinite(low) for low, _ in some)}
    return line_chart(_title(key), "band: 95 % interval" if bands else "", steps, series, None, bands)


def _title(key: str) -> str:
    if key in KNOWN:
        return KNOWN[key]
    group, _, who = key.rpartition("/")
    return chart_title(group) if who in ("policy", "mean") else chart_title(key)


def _finals(runs: Sequence[TrainingRun]) -> list[tuple[str, list[str]]]:
    """(what, its number in each run): steps, the last of each validation, the mean of each metric's last fifth."""
    finals = [("Steps", [str(run.rows[-1]["step"]) for run in runs])]
    for key in [*_metrics(runs), "seconds"]:
        if key not in ("lr", "iteration"):
            name = "Seconds a step" if key == "seconds" else _title(key)
            finals.append((name, [_final([row for row in run.rows if key in row], key) for run in runs]))
    return finals


def _final(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    if not rows:
        return "–"
    if key.startswith("validation/"):
        last, (low, high) = value(rows[-1], key), interval(rows[-1], key)
        return number(last) if not high > low else "{} ({} to {})".format(*_alike(last, low, high))
    late = [value(row, key) for row in rows[-max(1, len(rows) // 5) :]]
    return number(sum(late) / len(late))


def _alike(value: float, low: float, high: float) -> list[str]:
    """A number and its interval with as many places as the interval's width asks for."""
    places = min(12, max(0, 1 - math.floor(math.log10(high - low))))
    return [with_minus(f"{one:.{places}f}") for one in (value, low, high)]


def _samples(runs: Sequence[TrainingRun]) -> list[SampleRow]:
    """Each prompt that all runs were validated with: the first run's base, then every run at its end."""
    shown = [{row[:2]: row.samples for row in validation_rows(run.folder, steps=1)} for run in runs]
    rows: list[SampleRow] = []
    for prompt, seed in shown[0]:
        if all((prompt, seed) in of_run for of_run in shown):
            ends = [
                of_run[prompt, seed][-1]._replace(label=f"{run.name}: {of_run[prompt, seed][-1].label}")
                for run, of_run in zip(runs, shown, strict=True)
            ]
            rows.append(SampleRow(prompt, seed, [shown[0][prompt, seed][0], *ends]))
    return rows
