"""Images of every model of a comparison, each model's own guidance scale, and what the verifier says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from methods.studies import SETTINGS, Place, Study

from t2ialign.cli.options import parse_loras
from t2ialign.config.generation import GenerationConfig
from t2ialign.demo.evaluation import PromptResult, compare_criterion, compare_models, criterion, judge, mean
from t2ialign.generation.folder import generate_folder
from t2ialign.models import open_guided_model

Sweep = dict[str, dict[str, float]]
"""Guidance scale -> faithfulness, taste, criterion: means over the validation prompts."""


class Folder(NamedTuple):
    """Images to make: one of each prompt."""

    prompts: list[str]
    name: str
    """Relative to the seed's folder."""
    guidance: float


def draw(place: Place, study: Study, folders: Sequence[Folder]) -> None:
    """Makes what is missing of a model's images; the same call goes on after a stop."""
    torch.set_num_threads(1)
    negatives = parse_loras(list(study.negatives), "--negative")
    policy, weights, negative = open_guided_model(
        str(place.model), negatives, alpha=study.alpha, loras=parse_loras(list(study.loras))
    )
    for folder in folders:
        generate_folder(
            policy,
            folder.prompts,
            place.root / folder.name,
            GenerationConfig(
                guidance_scale=folder.guidance,
                inference_steps=SETTINGS.inference_steps,
                batch=SETTINGS.batch,
                seed=place.seed,
            ),
            weights=weights,
            negative=negative if study.negatives else weights,
            description={"loras": list(study.loras), "negatives": list(study.negatives), "alpha": study.alpha},
            progress=False,
        )


def validation(prompts: list[str], name: str, scales: Sequence[float]) -> list[Folder]:
    """The images that choose a model's own guidance scale."""
    return [Folder(prompts, f"validation/{name}/{scale:g}", scale) for scale in scales]


def sweep(place: Place, prompts: list[str], name: str, scales: Sequence[float]) -> Sweep:
    """What a model reaches at each guidance scale."""
    folders = {f"{scale:g}": f"validation/{name}/{scale:g}" for scale in scales}
    rows = judge(prompts, place.root, folders, f"validation/{name}/verdicts.jsonl")
    return {
        scale: {
            "faithfulness": mean(rows, scale, "faithfulness"),
            "taste": mean(rows, scale, "taste"),
            "criterion": criterion(rows, scale),
        }
        for scale in folders
    }


def compare(by_seed: Mapping[int, list[PromptResult]], every: Mapping[str, Study]) -> dict[str, Any]:
    """Every model against base and against what its study names: pooled over seeds, and seed by seed.

    Intervals are over prompts; how far the training seed moves a difference is what the seeds show.
    """
    pooled = [row for rows in by_seed.values() for row in rows]
    names = [name for name in every if name != "base"]
    found: dict[str, Any] = {"base": _against(pooled, "base", names[0])["models"]["base"]}
    for name in names:
        others = ["base", *(other for other in every[name].against if other in every and other != "base")]
        compared = _against(pooled, "base", name)
        found[name] = {
            "what": every[name].what,
            "means": compared["models"][name],
            "over": {other: _differences(pooled, other, name) for other in others},
            "seeds": {
                seed: {other: _differences(rows, other, name) for other in others} for seed, rows in by_seed.items()
            },
            "diversity": compared["diversity"][name]["diversity"],
        }
    return found


def _differences(rows: list[PromptResult], first: str, second: str) -> dict[str, Any]:
    """Differences of two models in every measure, and in the mean of faithfulness and taste."""
    differences = _against(rows, first, second)["differences"][f"{second} - {first}"]
    return {**differences, "mean_of_both": compare_criterion(rows, first, second, SETTINGS.seed)._asdict()}


def _against(rows: list[PromptResult], first: str, second: str) -> dict[str, Any]:
    return compare_models(rows, (first, second), SETTINGS.seed)
