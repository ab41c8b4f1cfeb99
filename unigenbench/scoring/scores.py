"""From counts to scores: pooled rates, their intervals, and how much of the run they rest on.

A dimension pools the counts of its criteria (the official script and every published table do, although the paper's
text says mean of criteria); the overall score is the mean of the ten dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unigenbench import statistics as stats
from unigenbench.formatting import plural
from unigenbench.runs.files import atomic_write
from unigenbench.runs.store import open_log
from unigenbench.scoring.counts import Compat, Counts, Group, Missing, count_run, failed_by_status
from unigenbench.scoring.official import OfficialScores, count_rows, rows_of
from unigenbench.scoring.verdicts import image_key
from unigenbench.taxonomy import DIMENSIONS
from unigenbench.types import RunLog

SCHEMA_VERSION = 1
SUMMARY = "summary.json"
FEW_PROMPTS = 20
"""With fewer prompts a bootstrap interval is too narrow to be trusted."""


class Overall(NamedTuple):
    """A mean of dimensions."""

    score: float | None
    """in [0, 1]; of the dimensions that have test points"""
    error: float | None
    dimensions: int


def macro(dimensions: Sequence[Group]) -> Overall:
    """Mean of the dimensions' pooled rates, with its clustered standard error by linearisation."""
    present = [group for group in dimensions if group.total.sum()]
    if not present:
        return Overall(None, None, 0)
    influence = sum(
        (group.correct - group.correct.sum() / group.total.sum() * group.total) / group.total.sum() for group in present
    )
    counted = np.any([group.total > 0 for group in present], axis=0)
    error = stats.linear_error(np.asarray(influence) / len(present), counted)
    return Overall(float(np.mean([group.correct.sum() / group.total.sum() for group in present])), error, len(present))


def summarise(
    log: RunLog,
    *,
    missing: Missing = "exclude",
    compat: Compat = "native",
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a run, as summary.json holds them: fractions, unrounded; null where nothing was counted.

    Each entry of dimensions, criteria, themes, ... has `correct` and `total` test points, the `expected` ones of a
    complete run, the `prompts` they come from, `score`, clustered standard error `se` and 95 % interval `ci`.

    Args:
        bootstrap: samples of prompts behind each interval.
        seed: of these samples.

    Raises:
        InputError, DataError: as `count_run`.
    """
    counts = count_run(log, missing=missing, compat=compat)
    groups = [*counts.dimensions, *counts.criteria, *counts.prompt_groups(), *counts.theme_dimensions(), counts.whole]
    replicates = _replicates(groups, bootstrap, seed)
    entries = [entry(group, replicates[:, place]) for place, group in enumerate(groups)]
    sections: dict[str, dict[str, Any]] = {}
    for group, made in zip(groups, entries, strict=True):
        sections.setdefault(group.section, {})[group.id] = made
    whole = sections.pop("overall")["micro"]
    by_script = count_rows(rows_of(log)) if compat == "official" else None
    manifest = log.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": manifest.get("run_id", log.path.name),
        "judge_id": manifest["judge"]["id"],
        "category": log.prompts.name,
        "data_version": log.prompts.version,
        "selection": log.prompts.selection,
        "policy": {"missing": missing, "compat": compat, "bootstrap": bootstrap, "seed": seed},
        "coverage": coverage(log, counts),
        "overall": _overall(counts.dimensions, replicates[:, : len(DIMENSIONS)], whole),
        **sections,
        "per_prompt": per_prompt(counts.passed),
        **({"official": by_script.as_json()} if by_script else {}),
        "usage": manifest.get("usage"),
        "cost": manifest.get("cost"),
        "comparable": bool(manifest.get("comparable")),
        "banner": manifest.get("banner"),
        "warnings": _warnings(log, counts) + (_skipped(by_script) if by_script else []),
    }


def _replicates(groups: Sequence[Group], bootstrap: int, seed: int) -> np.ndarray:
    """Rates of all groups in all bootstrap samples. [B, G]"""
    correct = np.stack([group.correct for group in groups], axis=1)
    total = np.stack([group.total for group in groups], axis=1)
    if not len(correct):
        return np.full((bootstrap, len(groups)), np.nan)
    return stats.bootstrap_ratios(stats.multiplicities(len(correct), bootstrap, seed), correct, total)


def entry(group: Group, replicates: np.ndarray) -> dict[str, Any]:
    """One group of test points as summary.json has it."""
    correct, total = int(group.correct.sum()), int(group.total.sum())
    return {
        "correct": correct,
        "total": total,
        "expected": int(group.expected.sum()),
        "prompts": int((group.total > 0).sum()),
        "score": correct / total if total else None,
        "se": stats.clustered_error(group.correct, group.total),
        "ci": _as_list(stats.interval(replicates)),
    }


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _overall(dimensions: Sequence[Group], replicates: np.ndarray, whole: dict[str, Any]) -> dict[str, Any]:
    """macro with `ci` and `se`, micro with `micro_ci` and `micro_se`, and the counts behind both."""
    mean = macro(dimensions)
    means = stats.mean_of_present(replicates)
    fewer = (~np.isnan(replicates)).sum(1) < mean.dimensions
    return {
        "macro": mean.score,
        "se": mean.error,
        "ci": _as_list(stats.interval(means)),
        "n_dimensions": mean.dimensions,
        "replicates_with_fewer_dimensions": int(fewer.sum()),
        "micro": whole["score"],
        "micro_se": whole["se"],
        "micro_ci": whole["ci"],
        **{key: whole[key] for key in ("correct", "total", "expected", "prompts")},
    }


def coverage(log: RunLog, counts: Counts) -> dict[str, Any]:
    """How much of a complete run was judged."""
    images = len(counts.prompts) * counts.passed.shape[1]
    seen = {image_key(judgement)[:2] for judgement in log.judgements if judgement.status != "image_missing"}
    judged = {image_key(judgement)[:2] for judgement in log.judgements if judgement.status == "ok"}
    return {
        "images_expected": images,
        "images_found": log.manifest["images"].get("found", len(seen)),
        "judged": len(judged),
        "failed_by_status": failed_by_status(log),
        "testpoints_expected": int(counts.expected.sum()),
        "testpoints_scored": int(counts.total.sum()),
        "share": len(judged) / images if images else None,
    }


def per_prompt(passed: np.ndarray) -> dict[str, Any]:
    """Stricter views, which the official benchmark does not have.

    Args:
        passed: 1, 0, or -1 for an image not judged. [P, k]

    Returns:
        `all_pass_image_rate`: share of judged images that meet all their test points; `any_of_k` and `all_of_k`: share
        of prompts with such an image, and of prompts all of whose images are such, among the `prompts` that have all
        their images judged.
    """
    whole = passed[(passed >= 0).all(1)] if passed.size else passed
    judged = passed[passed >= 0]
    return {
        "k": passed.shape[1],
        "prompts": len(whole),
        "images": len(judged),
        "all_pass_image_rate": float(judged.mean()) if judged.size else None,
        "any_of_k": float(whole.any(1).mean()) if whole.size else None,
        "all_of_k": float(whole.all(1).mean()) if whole.size else None,
    }


def _skipped(scores: OfficialScores) -> list[str]:
    """What the official script says of rows that it cannot read."""
    return [f"the official rules skip {scores.skipped} of {scores.rows} rows"] if scores.skipped else []


def _warnings(log: RunLog, counts: Counts) -> list[str]:
    found = [f"{log.prompts.path.name}:{repair.line}: {repair.what}" for repair in log.prompts.repairs]
    ungrounded = sum("ungrounded" in point.flags for prompt in counts.prompts for point in prompt.points)
    if ungrounded:
        found.append(f"{ungrounded} test points ask for what their prompt does not say; they count")
    used = int((counts.total.sum(1) > 0).sum())
    if 0 < used < FEW_PROMPTS:
        found.append(f"intervals rest on {plural(used, 'prompt')} and are too narrow; have at least {FEW_PROMPTS}")
    names = {dimension.id: dimension.name for dimension in DIMENSIONS}
    empty = [names[dimension.id] for dimension in counts.dimensions if not dimension.total.sum()]
    if empty and used:
        left = len(DIMENSIONS) - len(empty)
        mean = f"the mean of {left} dimensions" if left > 1 else "that of one dimension"
        found.append(f"no test points of {', '.join(empty)}: the overall score is {mean}")
    return found


def score_run(path: Path, **options: Any) -> dict[str, Any]:
    """Works out the scores of a run folder anew and writes them to its summary.json.

    Args:
        options: as those of `summarise`.
    """
    summary = summarise(open_log(path), **options)
    atomic_write(path / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return summary
