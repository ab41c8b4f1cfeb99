"""What the report shows of a training run: curves, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from t2ialign.report.charts import Chart, line_chart
from unigenbench.formatting import with_minus


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
_NOT_CHARTED = {"step", "samples_seen", "seconds"}


class Finding(NamedTuple):
    """What the training curves say, in a sentence."""

    kind: Literal["good", "note", "warning"]
    text: str


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
        series = {label: [_value(row, key) for row in rows] for key, label in present.items()}
        charts.append(line_chart(title, note, [row["step"] for row in rows], series, guides))
    return charts


def _other_charts(rows: list[dict[str, Any]]) -> list[ChartSpec]:
    """A chart of each metric that no other shows; those of one validation reward (`validation/NAME/WHO`) share one."""
    charted = {key for chart in _CHARTS for key in chart.labels} | _NOT_CHARTED
    keys = {key for row in rows for key, value in row.items() if isinstance(value, int | float)} - charted
    groups: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        group, _, who = key.rpartition("/")
        groups.setdefault(group or key, {})[key] = who
    return [ChartSpec(name.replace("_", " ").capitalize(), "as logged", labels, {}) for name, labels in groups.items()]


def _value(row: dict[str, Any], key: str) -> float:
    value = row.get(key)
    return math.nan if value is None else float(value)


def findings(
    rows: list[dict[str, Any]], *, initial_loss: float | None, summary: Mapping[str, Any] | None = None
) -> list[Finding]:
    """What held-out pairs and the last fifth of a preference run say, with the warning signs of docs/dpo-metrics.md.

    Signs of training pairs are warnings unless held-out prompts or pairs were measured and contradict them.

    Args:
        initial_loss: as for `training_charts`.
        summary: of a comparison of images of held-out prompts.
    """
    held_out = _held_out_finding(rows)
    contradiction = _held_out_gain(summary) or next((one.text for one in held_out if one.kind == "good"), None)
    rows = [row for row in rows if "margin" in row]
    late = rows[-max(1, len(rows) // 5) :]
    if not late:
        return held_out
    loss, accuracy, saturated = (_mean(late, key) for key in ("loss", "implicit_accuracy", "saturated"))
    found = [*held_out]
    if initial_loss is not None:
        found.append(_loss_finding(loss, accuracy, initial_loss, contradiction))
    change = _change_finding(_mean(late, "chosen_change"), _mean(late, "rejected_change"), _held_out_gain(summary))
    if change is not None:
        found.append(change)
    if saturated > 0.2:
        found.append(
            Finding(
                "warning",
                f"{saturated:.0%} of the pairs are saturated: beta (of mapo, logit_scale) is large for latents of this "
                "size, or the pairs are memorised.",
            )
        )
    return found


def _change_finding(chosen: float, rejected: float, gain: str | None) -> Finding | None:
    """How the denoising errors of both images changed; None where nothing follows from it."""
    if chosen > 0 and rejected > 0:
        text = (
            "The policy denoises both images of the training pairs worse than the reference did "
            f"(chosen {_signed(chosen)}, rejected {_signed(rejected)})."
        )
        if gain is not None:
            return Finding("note", f"{text} Images can get worse that way; these did not. {gain}")
        return Finding(
            "warning",
            f"{text} The margin can grow that way while images get worse: look at the samples, and try a lower "
            "learning rate, a larger beta, or an earlier checkpoint.",
        )
    if chosen <= 0 <= rejected:
        return Finding(
            "good",
            f"The chosen images are denoised better ({_signed(chosen)}) and the rejected ones worse "
            f"({_signed(rejected)}), as intended.",
        )
    return None


def _signed(value: float) -> str:
    return with_minus(f"{value:+.2g}")


def _held_out_gain(summary: Mapping[str, Any] | None) -> str | None:
    """What held-out prompts gained, if any measure did and none lost; None otherwise, or where nothing was compared."""
    try:
        compared = (summary or {})["equal"]
        shifts = compared["differences"]["aligned - base"]
        names = {measure["key"]: measure["name"] for measure in (summary or {})["measures"]}
        base, aligned = (compared["models"][model]["unreadable"] for model in ("base", "aligned"))
    except KeyError:
        return None
    gained = [f"{names[key]} {100 * shift['mean']:+.1f} points" for key, shift in shifts.items() if shift["low"] > 0]
    if not gained or aligned > base or any(shift["high"] < 0 for shift in shifts.values()):
        return None
    return (
        f"On {compared['prompts']:,} held-out prompts: {', '.join(gained)}; unreadable pictures {base} before, "
        f"{aligned} after."
    )


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


def _loss_finding(loss: float, accuracy: float, initial_loss: float, contradiction: str | None) -> Finding:
    if abs(loss - initial_loss) < 1e-5:
        return Finding("warning", f"The loss is {loss:.4f}, exactly ln 2: the policy has not left the reference.")
    if loss < 0.3:
        text = f"The loss fell to {loss:.3f} with an implicit accuracy of {accuracy:.2f} on the training pairs"
        if contradiction is not None:
            return Finding("note", f"{text}: part of that is memory, but not all. {contradiction}")
        return Finding(
            "warning",
            f"{text}: they are likely being memorised. More pairs, fewer steps or a lower learning rate help.",
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
