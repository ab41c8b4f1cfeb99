"""Two models on the same prompts: differences with intervals and p-values, or a refusal to compare."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from unigenbench import statistics as stats
from unigenbench.errors import BenchError, InputError
from unigenbench.formatting import plural
from unigenbench.scoring.counts import CRITERION, DIMENSION_COLUMNS, failed_by_status
from unigenbench.scoring.manifest import images_per_prompt, judge_model
from unigenbench.scoring.pairing import ONLY_FIRST, ONLY_SECOND, Pairing, pair
from unigenbench.scoring.scores import FEW_PROMPTS
from unigenbench.types import RunLog

MEASURES = ("prompts", "rubric", "judge", "images")
"""What must be the same in both runs for a difference of scores to be one of models."""
MAX_FAILED = 0.10
"""Share of replies that may be unreadable or failed: what a judge cannot answer is no random part of the images."""


class TooManyFailures(BenchError):
    """A run holds too few verdicts for a comparison to mean anything."""

    exit_code = 1


class Groups(NamedTuple):
    """Counts of the pooled groups that are compared: dimensions, criteria, and all test points."""

    names: list[tuple[str, str]]
    """(section, id)"""
    first: np.ndarray
    """[P, G]"""
    second: np.ndarray
    """[P, G]"""
    total: np.ndarray
    """[P, G]"""


def compare(
    first: RunLog,
    second: RunLog,
    *,
    permutations: int = 10_000,
    bootstrap: int = 2000,
    seed: int = 0,
    max_failed: float = MAX_FAILED,
    allow: Collection[str] = (),
) -> dict[str, Any]:
    """Scores of the second run less those of the first, over the images that both have verdicts for.

    Each entry has `a`, `b`, `difference` (b - a), the 95 % interval `ci` (the same prompts resampled for both) and the
    two-sided `p` of a permutation test (the two runs exchanged, prompt by prompt). Those of dimensions and criteria
    also have `p_holm`, adjusted for all dimensions or all criteria, and McNemar's counts and p, which take verdicts for
    independent and are there as a description.

    Args:
        permutations: drawn where there are more than 16 prompts; below that all are tried.
        max_failed: share of a run's replies that may have failed.
        allow: those of MEASURES in which the runs may differ.

    Raises:
        TooManyFailures: more of them failed.
        InputError: the runs differ in what they measure, or share nothing.
    """
    _check_same_measure(first, second, allow)
    for log in (first, second):
        _check_failures(log, max_failed)
    pairing = pair(first, second, same_images=False)
    drawn = stats.multiplicities(len(pairing.prompts), bootstrap, seed)
    swapped, exact = stats.swaps(len(pairing.prompts), permutations, seed)
    sections = _sections(_groups(pairing), drawn, swapped, exact)
    _describe(sections, pairing)
    for section in ("dimensions", "criteria"):
        _adjust(sections[section])
    return {
        "a": _about(first),
        "b": _about(second),
        "shared": {
            "images": pairing.shared,
            "prompts": len(pairing.prompts),
            "testpoints": int(pairing.total.sum()),
            "only_a": pairing.only_first,
            "only_b": pairing.only_second,
            "other_prompt": pairing.changed,
        },
        "policy": {
            "permutations": len(swapped),
            "exact": exact,
            "bootstrap": bootstrap,
            "seed": seed,
            "max_failed": max_failed,
            "allowed": sorted(allow),
        },
        **sections,
        "warnings": list(_warnings(first, second, pairing, allow)),
    }


def _measures(log: RunLog) -> dict[str, Any]:
    """What must be the same for scores to be of the same thing."""
    rubric = log.manifest["rubric"]
    return {
        "prompts": f"{log.prompts.name} ({log.prompts.sha256[:12]})",
        "rubric": f"{rubric['id']} ({str(rubric.get('sha256'))[:12]})",
        "judge": f"{judge_model(log)} ({log.manifest['judge']['id']})",
        "images": f"{images_per_prompt(log)} per prompt",
    }


def _differing(first: RunLog, second: RunLog) -> list[tuple[str, str, str]]:
    was, now = _measures(first), _measures(second)
    differing = [(name, was[name], now[name]) for name in MEASURES if was[name] != now[name]]
    keys = judge_differences(first, second)
    return [(name, *_judges(keys)) if name == "judge" and keys else (name, a, b) for name, a, b in differing]


def judge_differences(first: RunLog, second: RunLog) -> list[tuple[str, Any, Any]]:
    """(key, first value, second value) of what differs in the configurations of two runs' judges; None: not set."""
    was, now = (log.manifest["judge"]["spec"] for log in (first, second))
    return [(key, was.get(key), now.get(key)) for key in sorted({*was, *now}) if was.get(key) != now.get(key)]


def _judges(keys: Sequence[tuple[str, Any, Any]]) -> tuple[str, str]:
    """The keys with their values of either judge, as text."""
    first, second = (", ".join(f"{key} {_text(values[side])}" for key, *values in keys) for side in (0, 1))
    return first, second


def _text(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_same_measure(first: RunLog, second: RunLog, allow: Collection[str]) -> None:
    unknown = [name for name in allow if name not in MEASURES]
    if unknown:
        raise InputError(f"--allow {unknown[0]}: unknown; there are {', '.join(MEASURES)}")
    for name, was, now in _differing(first, second):
        if name not in allow:
            raise InputError(
                f"{first.path} and {second.path} differ in {name}: {was}; {now}. "
                f"A difference of scores could come from that; if you know that it does not, say --allow {name}"
            )


def failed_share(log: RunLog) -> float:
    """Share of judgements that gave no verdict, in [0, 1]."""
    return sum(failed_by_status(log).values()) / len(log.judgements) if log.judgements else 0.0


def _check_failures(log: RunLog, max_failed: float) -> None:
    share = failed_share(log)
    if share > max_failed:
        counts = ", ".join(f"{count} {status}" for status, count in failed_by_status(log).items())
        raise TooManyFailures(
            f"{log.path}: {share:.1%} of {len(log.judgements)} replies failed or cannot be read ({counts}), more than "
            f"{max_failed:.0%}; what a judge cannot answer is no random part. Judge them again, or say --max-failed "
            f"{ceil(100 * share) / 100}"
        )


def _groups(pairing: Pairing) -> Groups:
    columns = (
        [("dimensions", id, places) for id, places in DIMENSION_COLUMNS.items()]
        + [("criteria", id, [place]) for id, place in CRITERION.items()]
        + [("overall", "micro", list(CRITERION.values()))]
    )
    tables = (
        np.stack([counts[:, places].sum(1) for _, _, places in columns], axis=1)
        for counts in (pairing.first, pairing.second, pairing.total)
    )
    return Groups([(section, id) for section, id, _ in columns], *tables)


def _with_mean(rates: np.ndarray) -> np.ndarray:
    """Rates of all groups, and after them the mean of the dimensions, which come first. [..., G] -> [..., G + 1]"""
    mean = stats.mean_of_present(rates[..., : len(DIMENSION_COLUMNS)])
    return np.concatenate([rates, np.expand_dims(mean, -1)], axis=-1)


def _sections(groups: Groups, drawn: np.ndarray, swapped: np.ndarray, exact: bool) -> dict[str, dict[str, Any]]:
    """{section: {id: entry}} of all groups and the overall score."""
    sides = groups.first, groups.second
    rates = [_with_mean(stats.ratio(counts.sum(0), groups.total.sum(0))) for counts in sides]
    replicates = [_with_mean(stats.bootstrap_ratios(drawn, counts, groups.total)) for counts in sides]
    permuted = _with_mean(_permuted(groups, swapped))
    sections: dict[str, dict[str, Any]] = {"overall": {}, "dimensions": {}, "criteria": {}}
    for place, (section, id) in enumerate([*groups.names, ("overall", "macro")]):
        a, b = (float(side[place]) for side in rates)
        difference = replicates[1][:, place] - replicates[0][:, place]
        sections[section][id] = _entry(a, b, difference, permuted[:, place], exact)
    return sections


def _permuted(groups: Groups, swapped: np.ndarray) -> np.ndarray:
    """Differences of rates with the two runs exchanged for some prompts: one matrix product. [R, G]

    Both runs have the same test points, so that an exchange turns the sign of a prompt's difference of counts.
    """
    difference = groups.second - groups.first
    total = np.broadcast_to(groups.total.sum(0), (len(swapped), difference.shape[1]))
    return stats.ratio(difference.sum(0) - 2 * (swapped @ difference), total)


def _entry(a: float, b: float, replicates: np.ndarray, permuted: np.ndarray, exact: bool) -> dict[str, Any]:
    if np.isnan(a):
        return {"a": None, "b": None, "difference": None, "ci": None, "p": None}
    interval = stats.interval(replicates)
    return {
        "a": a,
        "b": b,
        "difference": b - a,
        "ci": None if interval is None else list(interval),
        "p": stats.two_sided_p(b - a, permuted, exact=exact),
    }


def _describe(sections: dict[str, dict[str, Any]], pairing: Pairing) -> None:
    """Adds the numbers of test points and of their prompts, and McNemar's counts."""
    counts, judged = pairing.counts.sum(0), pairing.total > 0
    columns = {"dimensions": DIMENSION_COLUMNS, "criteria": {id: [place] for id, place in CRITERION.items()}}
    columns["overall"] = {"micro": list(CRITERION.values())}
    for section, places in columns.items():
        for id, rows in places.items():
            table = counts[rows].sum(0)
            only_a, only_b = int(table[ONLY_FIRST]), int(table[ONLY_SECOND])
            sections[section][id] |= {
                "total": int(table.sum()),
                "prompts": int(judged[:, rows].any(1).sum()),
                "mcnemar": {"only_a": only_a, "only_b": only_b, "p": stats.mcnemar_p(only_a, only_b)},
            }
    sections["overall"]["macro"]["prompts"] = len(pairing.prompts)


def _adjust(section: dict[str, Any]) -> None:
    """Adds Holm's p-values over all entries that could be tested."""
    tested = [entry for entry in section.values() if entry["p"] is not None]
    for entry, adjusted in zip(tested, stats.holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = adjusted


def _about(log: RunLog) -> dict[str, Any]:
    return {
        "run": str(log.path),
        "run_id": log.manifest.get("run_id", log.path.name),
        "judge_id": log.manifest["judge"]["id"],
        "category": log.prompts.name,
        "selection": log.prompts.selection,
        "judged": sum(judgement.status == "ok" for judgement in log.judgements),
        "failed_by_status": failed_by_status(log),
        "failed_share": failed_share(log),
    }


def _warnings(first: RunLog, second: RunLog, pairing: Pairing, allow: Collection[str]) -> Iterator[str]:
    for name, was, now in _differing(first, second):
        if name in allow:
            yield f"the runs differ in {name} ({was}; {now}); the difference may come from that"
    if pairing.changed:
        yield f"{pairing.changed} images are left out, as the two runs have different prompts of the same number"
    if len(pairing.prompts) < FEW_PROMPTS:
        prompts = plural(len(pairing.prompts), "prompt")
        yield f"intervals rest on {prompts} and are too narrow; have at least {FEW_PROMPTS}"
