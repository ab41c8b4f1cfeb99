"""One HTML file that shows what a run did: curves, images of base and aligned model, verdicts, and how to read them.

The page asks for nothing: images are inlined, charts are SVG, there is no script, and everything is escaped.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
import yaml
from PIL import Image

from t2ialign.errors import DataError, InputError
from t2ialign.report.charts import Chart, line_chart
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.trackers import METRICS, read_metrics

SUMMARY = "summary.json"
VERDICTS = "verdicts.jsonl"
TRAINING = "training"
"""Folder of the training run inside a folder that holds more than one stage."""

DPO = "dpo"
"""The objective that is read as docs/dpo-metrics.md says; its loss starts at ln 2 unless an SFT term is added."""
LN_2 = math.log(2)
FIRST_PAIRS = 50
"""Image pairs shown from the top of the list, whatever their verdicts: a sheet of 100 images."""
CHANGED_PAIRS = 6
"""Image pairs shown of those that got better, and of those that got worse."""

_CHARTS: list[tuple[str, str, dict[str, str], dict[str, float]]] = [
    (
        "Loss",
        "starts at ln 2 and stays near it: one noisy look per pair says little",
        {"loss": "loss"},
        {"ln 2": LN_2},
    ),
    (
        "Implicit accuracy",
        "share of pairs whose chosen image gained more than the rejected one; ½ is chance",
        {"implicit_accuracy": "accuracy"},
        {"½": 0.5},
    ),
    (
        "Margin",
        "what goes into the log-sigmoid; above 0 prefers the chosen image",
        {"margin": "margin"},
        {"": 0.0},
    ),
    (
        "Change of the denoising error",
        "policy minus reference; below 0 the policy denoises that image better",
        {"chosen_change": "chosen", "rejected_change": "rejected"},
        {"": 0.0},
    ),
    (
        "Saturated pairs",
        "share whose loss is flat, which hardly teach any more: margin > 5, with kto < -5 too",
        {"saturated": "share"},
        {},
    ),
    (
        "Denoising error",
        "mean squared error against the drawn noise",
        {"chosen_error": "chosen", "rejected_error": "rejected", "reference_error": "reference"},
        {},
    ),
    ("Gradient norm", "before clipping", {"grad_norm": "norm"}, {}),
    ("Learning rate", "as used in each step", {"lr": "rate"}, {}),
]
"""(title, note, metric -> label, guide -> value); a chart appears where the run has one of its metrics."""

_NOT_CHARTED = {"step", "samples_seen", "seconds"}


class Finding(NamedTuple):
    """What the training curves say, in a sentence."""

    kind: Literal["good", "note", "warning"]
    text: str


class Shown(NamedTuple):
    """An image pair as the page shows it."""

    prompt: str
    base: dict[str, Any]
    """image (data URI), faithfulness, taste, verdicts"""
    aligned: dict[str, Any]


class Gallery(NamedTuple):
    title: str
    note: str
    pairs: list[Shown]


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run folder and returns its path.

    Args:
        run_dir: a training run (metrics.jsonl), a measured comparison (summary.json and verdicts.jsonl, with the
            training run in `training/`), or both in one folder. What is absent has no section.
        out: the page; `report.html` in the run folder if not said.

    Raises:
        InputError: the folder holds neither.
        DataError: a file of the run is damaged, or an image that it names is gone.
        TryAgainError: the disk is full.
    """
    training = run_dir if (run_dir / METRICS).is_file() else run_dir / TRAINING
    rows = [row for row in read_metrics(training / METRICS) if "step" in row]
    summary = _read_json(run_dir / SUMMARY)
    if not rows and summary is None:
        raise InputError(
            f"{run_dir}: no {METRICS} with a finished step and no {SUMMARY}; give the folder of a training run or of "
            "a demo"
        )
    config = _read_config(training / "config.yaml")
    is_dpo = config.get("objective.name", DPO) == DPO
    starts_at_ln_2 = is_dpo and not config.get("objective.sft_weight")
    page = _template().render(
        title=_title(run_dir, summary),
        config=config,
        environment=dict(_flat(_read_json(training / "environment.json") or {}, "")),
        summary=summary,
        steps=rows[-1]["step"] if rows else 0,
        galleries=_galleries(run_dir) if summary else [],
        bars=_bars(summary) if summary else [],
        looks=_looks(run_dir, summary) if summary else [],
        charts=training_charts(rows, starts_at_ln_2=starts_at_ln_2),
        findings=findings(rows, starts_at_ln_2=starts_at_ln_2),
        is_preference=is_dpo and any("margin" in row for row in rows),
        starts_at_ln_2=starts_at_ln_2,
    )
    out = out or run_dir / "report.html"
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2ialign.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["points"] = lambda value: f"{100 * value:+.1f}"
    environment.filters["minutes"] = lambda seconds: f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return environment.get_template("report.html.j2")


def _title(run_dir: Path, summary: dict[str, Any] | None) -> str:
    return str(summary["title"]) if summary else run_dir.resolve().name


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run the command that wrote it again") from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(_flat(yaml.safe_load(path.read_text(encoding="utf-8")), ""))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({error})") from None


def _flat(value: Any, key: str) -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested mapping."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else str(name))


def training_charts(rows: list[dict[str, Any]], *, starts_at_ln_2: bool = True) -> list[Chart]:
    """A chart of every metric in the rows of metrics.jsonl; the well-known ones first, grouped and explained."""
    if len(rows) < 2:
        return []
    known = [*_CHARTS]
    charted = {key for _, _, lines, _ in _CHARTS for key in lines} | _NOT_CHARTED
    others = {key for row in rows for key, value in row.items() if isinstance(value, int | float)} - charted
    known += _other_charts(sorted(others))
    explains_loss = starts_at_ln_2 and any("margin" in row for row in rows)
    charts = []
    for title, note, lines, guides in known:
        present = {key: label for key, label in lines.items() if any(key in row for row in rows)}
        if not present:
            continue
        if title == "Loss" and not explains_loss:
            note, guides = "mean over the examples of a step", {}
        series = {label: [_value(row, key) for row in rows] for key, label in present.items()}
        charts.append(line_chart(title, note, [row["step"] for row in rows], series, guides))
    return charts


def _other_charts(keys: list[str]) -> list[tuple[str, str, dict[str, str], dict[str, float]]]:
    """A chart of each remaining metric; those of one validation reward (`validation/NAME/WHO`) share one."""
    groups: dict[str, dict[str, str]] = {}
    for key in keys:
        group, _, who = key.rpartition("/")
        groups.setdefault(group or key, {})[key] = who
    return [(name.replace("_", " ").capitalize(), "as logged", lines, {}) for name, lines in groups.items()]


def _value(row: dict[str, Any], key: str) -> float:
    value = row.get(key)
    return math.nan if value is None else float(value)


def findings(rows: list[dict[str, Any]], *, starts_at_ln_2: bool = True) -> list[Finding]:
    """What held-out pairs and the last fifth of a preference run say, with the warning signs of docs/dpo-metrics.md."""
    held_out = _held_out_finding(rows)
    rows = [row for row in rows if "margin" in row]
    late = rows[-max(1, len(rows) // 5) :]
    if not late:
        return held_out
    loss, accuracy, saturated = (_mean(late, key) for key in ("loss", "implicit_accuracy", "saturated"))
    found = [*held_out, *([_loss_finding(loss, accuracy)] if starts_at_ln_2 else [])]
    chosen, rejected = _mean(late, "chosen_change"), _mean(late, "rejected_change")
    if chosen > 0 and rejected > 0:
        found.append(
            Finding(
                "warning",
                f"The policy denoises both images worse than the reference did (chosen {chosen:+.2g}, rejected "
                f"{rejected:+.2g}). The margin can grow that way while images get worse: look at the samples, and try "
                "a lower learning rate, a larger beta, or an earlier checkpoint.",
            )
        )
    elif chosen <= 0 <= rejected:
        found.append(
            Finding(
                "good",
                f"The chosen images are denoised better ({chosen:+.2g}) and the rejected ones worse ({rejected:+.2g}), "
                "as intended.",
            )
        )
    if saturated > 0.2:
        found.append(
            Finding(
                "warning",
                f"{saturated:.0%} of the pairs are saturated: beta (of mapo, logit_scale) is large for latents of this "
                "size, or the pairs are learnt by heart.",
            )
        )
    return found


def _held_out_finding(rows: list[dict[str, Any]]) -> list[Finding]:
    """The latest held-out pair accuracy, good where its interval lies above one half."""
    measured = [row for row in rows if "validation/pair_accuracy/mean" in row]
    if not measured:
        return []
    mean, low, high = (measured[-1][f"validation/pair_accuracy/{key}"] for key in ("mean", "low", "high"))
    text = f"Held-out pair accuracy at step {measured[-1]['step']}: {mean:.1%} (95 % interval {low:.1%} to {high:.1%})."
    if low > 0.5:
        return [Finding("good", f"{text} Pairs it has not seen are ordered as their labels are.")]
    return [Finding("warning", f"{text} The interval holds one half, which is chance, or lies below it.")]


def _loss_finding(loss: float, accuracy: float) -> Finding:
    if abs(loss - LN_2) < 1e-5:
        return Finding("warning", f"The loss is {loss:.4f}, exactly ln 2: the policy has not left the reference.")
    if loss < 0.3:
        return Finding(
            "warning",
            f"The loss fell to {loss:.3f} with an implicit accuracy of {accuracy:.2f}: the pairs are likely being "
            "learnt by heart. More pairs, fewer steps or a lower learning rate help.",
        )
    return Finding(
        "note",
        f"The loss of the last fifth of the run is {loss:.3f} (ln 2 is 0.693) at an implicit accuracy of "
        f"{accuracy:.2f} on the training pairs. How much the images changed is in the held-out comparison, not here.",
    )


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    values = [_value(row, key) for row in rows]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


class Look(NamedTuple):
    """An image on which the two readers disagree."""

    who: str
    image: str
    """data URI"""
    prompt: str
    first: str
    """What the verifier saw, in words."""
    second: str
    """What the second reader saw."""
    verdicts: list[dict[str, Any]]
    """claim, first, second"""


def _looks(run_dir: Path, summary: dict[str, Any]) -> list[Look]:
    return [
        Look(who, data_uri(run_dir / look["image"]), look["prompt"], look["first"], look["second"], look["verdicts"])
        for who, reader in summary.get("second_reader", {}).items()
        for look in reader["disagreements"]
    ]


class Bar(NamedTuple):
    """One criterion's verified accuracy on both models; every number in [0, 1]."""

    criterion: str
    base: dict[str, float]
    """mean, low, high, n"""
    aligned: dict[str, float]
    difference: dict[str, float]
    """mean, low, high"""


def _bars(summary: dict[str, Any]) -> list[Bar]:
    return [
        Bar(name, entry["base"], entry["aligned"], entry["difference"])
        for name, entry in summary.get("criteria", {}).items()
    ]


def _galleries(run_dir: Path) -> list[Gallery]:
    """The first pairs as they come, then some that got better and as many that got worse."""
    path = run_dir / VERDICTS
    if not path.is_file():
        return []
    rows = [_verdict(line, path, number) for number, line in enumerate(path.read_text().splitlines(), start=1)]
    better = [row for row in rows if row["aligned"]["faithfulness"] > row["base"]["faithfulness"]]
    worse = [row for row in rows if row["aligned"]["faithfulness"] < row["base"]["faithfulness"]]
    of_all = f"of {len(rows)} images."
    chosen = [
        ("The first held-out prompts", "In the order of the test set, not chosen.", rows[:FIRST_PAIRS]),
        ("Where the aligned model does more of what was asked", f"{len(better)} {of_all}", better[:CHANGED_PAIRS]),
        ("Where it does less", f"{len(worse)} {of_all}", worse[:CHANGED_PAIRS]),
    ]
    return [Gallery(title, note, [_shown(run_dir, row) for row in some]) for title, note, some in chosen if some]


def _verdict(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); run the command that wrote it again") from None


def _shown(run_dir: Path, row: dict[str, Any]) -> Shown:
    sides = ({**row[side], "image": data_uri(run_dir / row[side]["image"])} for side in ("base", "aligned"))
    return Shown(row["prompt"], *sides)


def data_uri(path: Path, at_most: int = 256) -> str:
    """An image file as a data URI, no side longer than `at_most` px: PNG where it is small, WebP otherwise.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: cannot be shown ({error.strerror or error})") from None
    image.thumbnail((at_most, at_most), Image.Resampling.LANCZOS)
    small = max(image.size) <= 128
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=85)
    return f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
