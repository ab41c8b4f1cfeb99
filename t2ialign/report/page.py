"""One HTML file that shows what a run did: curves, images of base and aligned model, verdicts, and how to read them.

The page asks for nothing: images are inlined, charts are SVG, there is no script, and everything is escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.objectives.base import Objective
from t2ialign.report.comparison import FEWEST, bars, disagreements, galleries
from t2ialign.report.curves import training_charts
from t2ialign.report.outcome import outcome
from t2ialign.report.rollouts import online_findings, rollout_groups
from t2ialign.report.run_folder import SUMMARY, TRAINING, flatten, read_config, read_json
from t2ialign.report.template import render, write_page
from t2ialign.report.training import findings
from t2ialign.report.validation import validation_rows
from t2ialign.training.trackers import METRICS, read_metrics

ONLINE = "online"
"""The loop of runs that train on images of their own."""
DPO = "dpo"
"""The objective whose metrics are read as docs/dpo-metrics.md says."""


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run folder and returns its path.

    Args:
        run_dir: a training run (metrics.jsonl), a measured comparison (summary.json and verdicts.jsonl, with the
            training run in `training/`), or both in one folder. What is absent has no section.
        out: the page; default: `report.html` in the run folder.

    Raises:
        InputError: the folder holds neither.
        DataError: a file of the run is damaged, or an image that it names is gone.
        TryAgainError: the disk is full.
    """
    training = run_dir if (run_dir / METRICS).is_file() else run_dir / TRAINING
    rows = [row for row in read_metrics(training / METRICS) if "step" in row]
    summary = read_json(run_dir / SUMMARY)
    if not rows and summary is None:
        raise InputError(
            f"{run_dir}: no {METRICS} with a finished step and no {SUMMARY}; give the folder of a training run or of "
            "a demo"
        )
    config = read_config(training / "config.yaml")
    objective = config.get("objective") or {}
    is_dpo = objective.get("name") == DPO
    is_online = config.get("loop") == ONLINE
    initial_loss = _initial_loss(objective) if is_dpo else None
    found = outcome(summary)
    page = render(
        "report",
        title=_title(run_dir, summary),
        config=flatten(config),
        environment=flatten(read_json(training / "environment.json") or {}),
        summary=summary,
        found=found,
        steps=rows[-1]["step"] if rows else 0,
        fewest=FEWEST,
        galleries=galleries(run_dir) if summary else [],
        bars=bars(summary) if summary else [],
        disagreements=disagreements(run_dir, summary) if summary else [],
        charts=training_charts(rows, initial_loss=initial_loss),
        findings=[
            *findings(rows, initial_loss=initial_loss, found=found),
            *(online_findings(rows, config) if is_online else []),
        ],
        is_online=is_online,
        samples=validation_rows(training),
        groups=rollout_groups(training) if is_online else [],
        is_preference=is_dpo and any("margin" in row for row in rows),
        starts_at_ln_2=initial_loss is not None,
    )
    return write_page(out or run_dir / "report.html", page)


def _initial_loss(objective: dict[str, Any]) -> float | None:
    """The objective's loss at the start; None where it depends on the data, or an older version wrote the section."""
    try:
        component: Objective = validated("objective", objective)
    except InputError:
        return None
    return component.initial_loss


def _title(run_dir: Path, summary: dict[str, Any] | None) -> str:
    return str(summary["title"]) if summary else run_dir.resolve().name
