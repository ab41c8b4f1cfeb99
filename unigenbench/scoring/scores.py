"""From verdicts to scores: pooled counts, their intervals, and how much of the run they rest on.

Everything is worked out from small integer tables with one row per prompt, as prompts are what was sampled: the images
and test points of one prompt move together. A dimension pools the counts of its criteria (spec and every published
table do, although the paper's text says mean of criteria); the overall score is the mean of the ten dimensions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unigenbench import statistics as stats
from unigenbench.errors import DataError, InputError
from unigenbench.runs.store import atomic_write, open_log
from unigenbench.scoring import official
from unigenbench.scoring.verdicts import Cell, Mark, cell_of, images_per_prompt, native_marks, samples_per_image
from unigenbench.taxonomy import CRITERIA, DIMENSIONS, THEMES
from unigenbench.types import Prompt, RunLog

Missing = Literal["exclude", "zero", "error"]
Compat = Literal["native", "official"]

SCHEMA_VERSION = 1
SUMMARY = "summary.json"
FEW_PROMPTS = 20
"""With fewer prompts a bootstrap interval is too narrow to be trusted."""
LENGTH_BINS = 4

CRITERION = {criterion.id: place for place, criterion in enumerate(CRITERIA)}
DIMENSION_COLUMNS = {
    dimension.id: [CRITERION[criterion.id] for criterion in dimension.criteria] for dimension in DIMENSIONS
}


class Column(NamedTuple):
    """The counts of one group of test points, for each prompt."""

    section: str
    """a key of summary.json, for example "themes\""""
    id: str
    correct: np.ndarray
    """[P]"""
    total: np.ndarray
    """test points counted. [P]"""
    expected: np.ndarray
    """test points that a complete run would count. [P]"""


@dataclass(frozen=True)
class Tables:
    """Counts of P prompts and 27 criteria, in the order of CRITERIA."""

    prompts: tuple[Prompt, ...]
    correct: np.ndarray
    """[P, 27]"""
    total: np.ndarray
    """[P, 27]"""
    expected: np.ndarray
    """[P, 27]"""
    passed: np.ndarray
    """for each image whether all its test points were met: 1, 0, or -1 where it was not judged. [P, images]"""
    language: str = "en"

    @cached_property
    def dimensions(self) -> list[Column]:
        """The ten dimensions."""
        return [self._column("dimensions", id, columns) for id, columns in DIMENSION_COLUMNS.items()]

    @cached_property
    def criteria(self) -> list[Column]:
        """The 27 criteria."""
        return [self._column("criteria", id, [place]) for id, place in CRITERION.items()]

    @cached_property
    def whole(self) -> Column:
        """All test points together."""
        return self._column("overall", "micro", slice(None))

    def groups(self) -> list[Column]:
        """Prompts taken together by theme, sub-theme, subject, structure, number of test points and length."""
        named = {
            "themes": [prompt.theme for prompt in self.prompts],
            "subthemes": [f"{prompt.theme}/{prompt.subtheme}" if prompt.subtheme else "" for prompt in self.prompts],
            "subjects": [prompt.subject for prompt in self.prompts],
            "structures": [prompt.structure for prompt in self.prompts],
            "testpoint_counts": [str(len(prompt.points)) for prompt in self.prompts],
            "lengths": length_bins([prompt.text for prompt in self.prompts], self.language),
        }
        return [
            self._column(section, id, slice(None), [name == id for name in names])
            for section, names in named.items()
            for id in sorted(set(names) - {""}, key=_order)
        ]

    def theme_dimensions(self) -> list[Column]:
        """Each theme with each dimension; the id is "theme/dimension"."""
        return [
            self._column(
                "theme_dimensions", f"{theme.name}/{id}", columns, [p.theme == theme.name for p in self.prompts]
            )
            for theme in THEMES
            if any(prompt.theme == theme.name for prompt in self.prompts)
            for id, columns in DIMENSION_COLUMNS.items()
        ]

    def _column(self, section: str, id: str, columns: Any, rows: Sequence[bool] | None = None) -> Column:
        kept = np.ones(len(self.prompts), int) if rows is None else np.asarray(rows, int)
        counts = (table[:, columns].sum(1) * kept for table in (self.correct, self.total, self.expected))
        return Column(section, id, *counts)


def _order(name: str) -> tuple[int, str]:
    """Numbers by their size, before and after words by the alphabet."""
    digits = name.split("-")[0].split(" ")[0]
    return (int(digits), "") if digits.isdigit() else (0, name)


def length_bins(texts: Sequence[str], language: str) -> list[str]:
    """The quarter of the prompt set that each prompt's length falls in, for example "21-27 words".

    English is measured in words, Chinese in characters.
    """
    if not texts:
        return []
    unit = "characters" if language == "zh" else "words"
    lengths = np.array([len(text) if language == "zh" else len(text.split()) for text in texts])
    inner = np.quantile(lengths, np.arange(1, LENGTH_BINS) / LENGTH_BINS)
    place = np.searchsorted(np.unique(inner), lengths, side="left")
    ends = {bin: (lengths[place == bin].min(), lengths[place == bin].max()) for bin in np.unique(place)}
    return [f"{ends[bin][0]}-{ends[bin][1]} {unit}" for bin in place]


def tabulate(
    prompts: Sequence[Prompt], marks: Mapping[Cell, Mark], images: int, samples: int = 1, language: str = "en"
) -> Tables:
    """Counts of marks.

    Args:
        prompts: rows of the tables, in their order.
        marks: what was judged; of these prompts.
        images: of each prompt, in a complete run.
        samples: judgements of each image, in a complete run.
    """
    row = {prompt.index: place for place, prompt in enumerate(prompts)}
    correct, total, expected = (np.zeros((len(prompts), len(CRITERIA)), np.int64) for _ in range(3))
    passed = np.full((len(prompts), images), -1)
    for place, prompt in enumerate(prompts):
        for point in prompt.points:
            expected[place, CRITERION[point.criterion]] += images * samples
    for cell, mark in marks.items():
        place = row[cell.prompt_index]
        for criterion, met in zip(mark.criteria, mark.met, strict=True):
            total[place, CRITERION[criterion]] += 1
            correct[place, CRITERION[criterion]] += met
        if cell.image_index < images:
            before = passed[place, cell.image_index]
            passed[place, cell.image_index] = min(int(all(mark.met)), before if before >= 0 else 1)
    return Tables(tuple(prompts), correct, total, expected, passed, language)


def tables(log: RunLog, *, missing: Missing = "exclude", compat: Compat = "native") -> Tables:
    """The counts of a run.

    Args:
        missing: what an image without a verdict is: left out of both counts, all wrong, or an error.
        compat: whose rules; the official script knows no other than leaving out.

    Raises:
        InputError: the two do not go together.
        DataError: `missing` is "error" and something is; or the log does not fit its prompts.
    """
    marks = _marks(log, compat, missing)
    images, samples = images_per_prompt(log), samples_per_image(log)
    made = tabulate(log.prompts.prompts, marks, images, samples, log.prompts.language)
    if missing == "exclude":
        return made
    without = len(log.prompts.prompts) * images * samples - len(marks)
    if missing == "error" and without:
        raise DataError(
            f"{log.path}: {without} of {len(marks) + without} images have no verdict ({_failures(log)}); "
            "judge them, or say --missing exclude or zero"
        )
    return Tables(made.prompts, made.correct, made.expected, made.expected, np.maximum(made.passed, 0), made.language)


def _marks(log: RunLog, compat: Compat, missing: Missing) -> dict[Cell, Mark]:
    if compat == "native":
        return native_marks(log)
    if missing != "exclude":
        raise InputError(f"--compat official leaves out what was not judged; it does not go with --missing {missing}")
    return official.official_marks(log)


def _failures(log: RunLog) -> str:
    counts = failed_by_status(log)
    unseen = "some never came to their turn" if not counts else ""
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or unseen


def failed_by_status(log: RunLog) -> dict[str, int]:
    """{status: judgements} of what gave no verdict."""
    return dict(Counter(judgement.status for judgement in log.judgements if judgement.status != "ok"))


class Overall(NamedTuple):
    """A mean of dimensions."""

    score: float | None
    """in [0, 1]; of the dimensions that have test points"""
    error: float | None
    dimensions: int


def macro(columns: Sequence[Column]) -> Overall:
    """Mean of the dimensions' pooled rates, with its clustered standard error by linearisation."""
    present = [column for column in columns if column.total.sum()]
    if not present:
        return Overall(None, None, 0)
    influence = sum(
        (column.correct - column.correct.sum() / column.total.sum() * column.total) / column.total.sum()
        for column in present
    )
    counted = np.any([column.total > 0 for column in present], axis=0)
    error = stats.linear_error(np.asarray(influence) / len(present), counted)
    return Overall(float(np.mean([c.correct.sum() / c.total.sum() for c in present])), error, len(present))


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
        InputError, DataError: as `tables`.
    """
    counts = tables(log, missing=missing, compat=compat)
    columns = [*counts.dimensions, *counts.criteria, *counts.groups(), *counts.theme_dimensions(), counts.whole]
    replicates = _replicates(columns, bootstrap, seed)
    entries = [entry(column, replicates[:, place]) for place, column in enumerate(columns)]
    sections: dict[str, dict[str, Any]] = {}
    for column, made in zip(columns, entries, strict=True):
        sections.setdefault(column.section, {})[column.id] = made
    whole = sections.pop("overall")["micro"]
    by_script = official.count(official.rows_of(log)) if compat == "official" else None
    manifest = log.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": manifest.get("run_id", log.path.name),
        "judge_id": (manifest.get("judge") or {}).get("id"),
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
        "comparable": bool(manifest.get("comparable", False)),
        "banner": manifest.get("banner"),
        "warnings": _warnings(log, counts) + (_skipped(by_script) if by_script else []),
    }


def _replicates(columns: Sequence[Column], bootstrap: int, seed: int) -> np.ndarray:
    """Rates of all groups in all bootstrap samples. [B, G]"""
    correct, total = (np.stack([column[place] for column in columns], axis=1) for place in (2, 3))
    if not len(correct):
        return np.full((bootstrap, len(columns)), np.nan)
    return stats.bootstrap_ratios(stats.multiplicities(len(correct), bootstrap, seed), correct, total)


def entry(column: Column, replicates: np.ndarray) -> dict[str, Any]:
    """One group of test points as summary.json has it."""
    correct, total = int(column.correct.sum()), int(column.total.sum())
    return {
        "correct": correct,
        "total": total,
        "expected": int(column.expected.sum()),
        "prompts": int((column.total > 0).sum()),
        "score": correct / total if total else None,
        "se": stats.clustered_error(column.correct, column.total),
        "ci": _as_list(stats.interval(replicates)),
    }


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _overall(dimensions: Sequence[Column], replicates: np.ndarray, whole: dict[str, Any]) -> dict[str, Any]:
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


def coverage(log: RunLog, counts: Tables) -> dict[str, Any]:
    """How much of a complete run was judged."""
    images = len(counts.prompts) * counts.passed.shape[1]
    seen = {cell_of(judgement)[:2] for judgement in log.judgements if judgement.status != "image_missing"}
    judged = {cell_of(judgement)[:2] for judgement in log.judgements if judgement.status == "ok"}
    return {
        "images_expected": images,
        "images_found": (log.manifest.get("images") or {}).get("found", len(seen)),
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


def _skipped(scores: official.OfficialScores) -> list[str]:
    """What the official script says of rows that it cannot read."""
    return [f"the official rules skip {scores.skipped} of {scores.rows} rows"] if scores.skipped else []


def _warnings(log: RunLog, counts: Tables) -> list[str]:
    found = [f"{log.prompts.path.name}:{repair.line}: {repair.what}" for repair in log.prompts.repairs]
    flagged = Counter(
        flag for prompt in counts.prompts for point in prompt.points for flag in point.flags if flag == "ungrounded"
    )
    if flagged:
        found.append(f"{flagged['ungrounded']} test points ask for what their prompt does not say; they count")
    used = int((counts.total.sum(1) > 0).sum())
    if 0 < used < FEW_PROMPTS:
        found.append(f"intervals rest on {used} prompts and are too narrow; have at least {FEW_PROMPTS}")
    empty = [dimension.id for dimension in counts.dimensions if not dimension.total.sum()]
    if empty and used:
        found.append(
            f"no test points of {', '.join(empty)}: the overall score is the mean of {10 - len(empty)} dimensions"
        )
    return found


def score_run(path: Path, **options: Any) -> dict[str, Any]:
    """Works out the scores of a run folder anew and writes them to its summary.json.

    Args:
        options: as those of `summarise`.
    """
    summary = summarise(open_log(path), **options)
    atomic_write(path / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return summary
