"""Judges on the same images: how far they agree, and what a better judge says of a cheaper one's scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from unigenbench import statistics as stats
from unigenbench.errors import InputError
from unigenbench.scoring.counts import CRITERION, DIMENSION_COLUMNS, count_run
from unigenbench.scoring.manifest import judge_model
from unigenbench.scoring.pairing import BOTH, NEITHER, ONLY_FIRST, ONLY_SECOND, Pairing, judged, pair, same_question
from unigenbench.scoring.scores import macro
from unigenbench.scoring.verdicts import verdicts_by_image
from unigenbench.types import RunLog

PLACES = {
    "overall": {"all": list(CRITERION.values())},
    "dimensions": DIMENSION_COLUMNS,
    "criteria": {id: [place] for id, place in CRITERION.items()},
}
"""{section: {id: columns of a [P, 27] table}}"""


def agree(logs: Sequence[RunLog], *, bootstrap: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Agreement of each pair of runs on the verdicts that they share, and of all of them together.

    Each entry of a pair has the four counts, `observed` and `expected` agreement, `kappa` with its interval
    `kappa_ci` (prompts resampled), `pabak` and `bias` (rate of yes of the first less that of the second).

    Raises:
        InputError: fewer than two runs, or two that share no image.
    """
    if len(logs) < 2:
        raise InputError("agree: one run; give two or more, of the same images with different judges")
    return {
        "judges": [_about(log) for log in logs],
        "pairs": [
            {
                "first": first,
                "second": second,
                **agree_pair(pair(logs[first], logs[second], same_images=True), bootstrap, seed),
            }
            for first, second in combinations(range(len(logs)), 2)
        ],
        "krippendorff_alpha": stats.krippendorff_alpha(_answers(logs)),
        "policy": {"bootstrap": bootstrap, "seed": seed},
    }


def _about(log: RunLog) -> dict[str, Any]:
    judge_id = log.manifest["judge"]["id"]
    return {"run": str(log.path), "judge": judge_model(log), "judge_id": judge_id, "judged": len(judged(log))}


def agree_pair(pairing: Pairing, bootstrap: int, seed: int) -> dict[str, Any]:
    """The entries of one pair of judges."""
    drawn = stats.multiplicities(len(pairing.prompts), bootstrap, seed)
    replicates = np.tensordot(drawn, pairing.counts, 1)
    made: dict[str, Any] = {
        "images": pairing.shared,
        "prompts": len(pairing.prompts),
        "only_first": pairing.only_first,
        "only_second": pairing.only_second,
        "other_image": pairing.changed,
    }
    for section, groups in PLACES.items():
        made[section] = {}
        for id, columns in groups.items():
            counts = pairing.counts[:, columns].sum((0, 1))
            interval = stats.interval(stats.kappas(replicates[:, columns].sum(1)))
            entry = stats.agreement(*map(int, counts))._asdict()
            made[section][id] = {**entry, "kappa_ci": list(interval) if interval else None}
    return made


def _answers(logs: Sequence[RunLog]) -> np.ndarray:
    """Each run's verdict on each test point that any of them judged, NaN where it has none. [runs, test points]"""
    judgements, verdicts = [judged(log) for log in logs], [verdicts_by_image(log) for log in logs]
    rows: list[list[float]] = [[] for _ in logs]
    for key in dict.fromkeys(key for found in judgements for key in found):
        asked = next(found[key] for found in judgements if key in found)
        count = len(asked.verdicts or ())
        for row, found, own in zip(rows, judgements, verdicts, strict=True):
            same = key in found and same_question(asked, found[key], same_images=True)
            row += map(float, own[key].met) if same else [np.nan] * count
    return np.array(rows)


def corrected(cheap: RunLog, trusted: RunLog, *, bootstrap: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Scores of a whole run, corrected by a trusted judge's verdicts on a random part of its images (Rogan and Gladen).

    Each entry has the cheap judge's `rate`, its `sensitivity` and `specificity` on the shared test points, the
    `corrected` rate and its interval `ci` (whole run and part resampled together, by prompts), or `refused` with the
    reason: too little shared, or a judge that tells too little.

    Args:
        cheap: the whole run.
        trusted: a better judge, or people, on a part of the same images that was chosen at random.

    Raises:
        InputError: the two share no image.
    """
    whole, pairing = count_run(cheap), pair(cheap, trusted, same_images=True)
    part = np.zeros((len(whole.prompts), *pairing.counts.shape[1:]))
    row = {prompt.index: place for place, prompt in enumerate(whole.prompts)}
    part[[row[prompt.index] for prompt in pairing.prompts]] = pairing.counts
    drawn = stats.multiplicities(len(whole.prompts), bootstrap, seed)
    sections: dict[str, Any] = {"overall": {}, "dimensions": {}, "criteria": {}}
    for section, groups in PLACES.items():
        for id, columns in groups.items():
            table = np.concatenate(
                [
                    whole.correct[:, columns].sum(1, keepdims=True),
                    whole.total[:, columns].sum(1, keepdims=True),
                    part[:, columns].sum(1),
                ],
                axis=1,
            )
            sections[section][id] = _corrected(table, drawn)
    return {"images_shared": pairing.shared, "prompts_shared": len(pairing.prompts), **sections}


def _corrected(table: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """One entry.

    Args:
        table: correct, total, then the four counts of the shared part with the cheap judge first. [P, 6]
        drawn: bootstrap samples. [B, P]
    """
    rate, sensitivity, specificity = _rates(table.sum(0))
    known = {
        name: None if np.isnan(value) else float(value)
        for name, value in (("rate", rate), ("sensitivity", sensitivity), ("specificity", specificity))
    }
    if None in known.values():
        return {**known, "corrected": None, "ci": None, "refused": "no shared test points of both verdicts"}
    try:
        value = stats.rogan_gladen(float(rate), float(sensitivity), float(specificity))
    except ValueError as error:
        return {**known, "corrected": None, "ci": None, "refused": str(error)}
    rates, sensitivities, specificities = _rates(drawn @ table)
    youden = sensitivities + specificities - 1
    possible = np.where(youden >= stats.LEAST_YOUDEN, youden, np.nan)
    interval = stats.interval(np.clip((rates + specificities - 1) / possible, 0, 1))
    return {**known, "corrected": value, "ci": list(interval) if interval else None, "refused": None}


def _rates(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rate of yes, sensitivity, specificity) of the cheap judge; NaN where nothing was counted. [..., 6] -> [...]"""
    part = sums[..., 2:]
    yes = part[..., BOTH] + part[..., ONLY_SECOND]
    no = part[..., NEITHER] + part[..., ONLY_FIRST]
    return (
        stats.ratio(sums[..., 0], sums[..., 1]),
        stats.ratio(part[..., BOTH], yes),
        stats.ratio(part[..., NEITHER], no),
    )


def rank_agreement(logs: Sequence[RunLog]) -> dict[str, Any]:
    """Whether two judges put the same models in the same order: Kendall's tau of their overall scores.

    Args:
        logs: runs of two judges; those of one folder of images are of one model.

    Raises:
        InputError: not two judges, or fewer than two models that both have judged.
    """
    overalls: dict[str, dict[str, float]] = {}
    for log in logs:
        judge = log.manifest["judge"]["id"]
        score = macro(count_run(log).dimensions).score
        if score is not None:
            overalls.setdefault(judge, {})[str(log.manifest["images"].get("root"))] = score
    if len(overalls) != 2:
        raise InputError(f"--rank: runs of {len(overalls)} judges; give runs of two, over the same folders of images")
    first, second = overalls.values()
    models = [model for model in first if model in second]
    if len(models) < 2:
        raise InputError(f"--rank: {len(models)} folders of images judged by both; an order needs two")
    return {
        "judges": list(overalls),
        "models": {model: [first[model], second[model]] for model in models},
        "kendall_tau": stats.kendall_tau([first[model] for model in models], [second[model] for model in models]),
    }
