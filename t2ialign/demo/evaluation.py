"""Judges what several models drew of the same Shapes prompts, and compares the models two by two.

The two preferences, faithfulness and taste, are never added up, but for one purpose: `criterion` chooses a guidance
scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from t2ialign.errors import DataError
from t2ialign.progress import track
from t2ialign.shapes import diversity
from t2ialign.shapes.constraint import counted
from t2ialign.shapes.realism import residual
from t2ialign.shapes.scene import Scene, Thing
from t2ialign.shapes.taste import taste
from t2ialign.shapes.verify import Unreadable, verify
from t2ialign.statistics import Difference, paired_bootstrap, wilson
from t2ialign.storage.atomic import atomic_write

MEASURES = {
    "faithfulness": ("Faithfulness", "share of the prompt's statements that hold in the picture"),
    "all_right": ("All right", "share of pictures in which every statement holds"),
    "taste": ("Taste", "dark background and large things, where the prompt leaves them open; mean of [0, 1]"),
    "taste_satisfied": ("Taste satisfied", "share of pictures in which all that is left open is to taste"),
    "more_to_taste": ("More to taste", "share of prompts whose picture is more to taste than the other model's"),
}
"""What is compared: key -> (name, meaning). `more_to_taste` is of two models, the others are of one."""

PromptResult = dict[str, Any]
"""A prompt with what was measured of each model's image of it: {"prompt": text, MODEL: ImageMeasures as a dict}."""


class ImageMeasures(NamedTuple):
    """One image, judged."""

    faithfulness: float
    """in [0, 1]"""
    all_right: float
    """0 or 1"""
    taste: float | None
    """in [0, 1]; None where the prompt leaves nothing open to it"""
    taste_satisfied: float | None
    """1 where taste is 1, else 0"""
    residual: float | None
    """Mean absolute difference from the drawing of what is seen, in [0, 255]; None of an unreadable image."""
    unreadable: str | None
    """Why no scene can be read in the image, where that is so; every statement then counts as wrong."""
    scene: dict[str, Any] | None
    """What is seen."""
    verdicts: list[dict[str, Any]]
    """criterion, claim, right; seen, the number of things that a claim counts, None of other claims"""


def measure(prompt: str, image: Image.Image) -> ImageMeasures:
    """The verifier's and the taste's judgement of one image."""
    judged = verify(prompt, image)
    liked = taste(judged.seen, prompt)
    seen = judged.seen if isinstance(judged.seen, Scene) else None
    return ImageMeasures(
        faithfulness=judged.share,
        all_right=float(judged.all_right),
        taste=liked,
        taste_satisfied=None if liked is None else float(liked == 1),
        residual=None if seen is None else residual(image, seen),
        unreadable=judged.seen.reason if isinstance(judged.seen, Unreadable) else None,
        scene=None if seen is None else {**asdict(seen), "things": [asdict(thing) for thing in seen.things]},
        verdicts=[
            {
                "criterion": verdict.criterion,
                "claim": str(verdict.constraint),
                "right": verdict.right,
                "seen": None if seen is None else counted(verdict.constraint, seen),
            }
            for verdict in judged.verdicts
        ],
    )


def judge(prompts: Sequence[str], run_dir: Path, folders: Mapping[str, str], table: str) -> list[PromptResult]:
    """The result of each prompt: every model's image of it, judged; also written as JSON lines.

    Args:
        prompts: of the images `<index>_0.png`.
        run_dir: what folders and table are relative to.
        folders: model -> folder of its images.
        table: the file of results, a line a prompt.

    Raises:
        DataError: an image cannot be read.
    """
    results: list[PromptResult] = []
    for index, prompt in enumerate(track(prompts, "verified prompts", len(prompts))):
        result: PromptResult = {"prompt": prompt}
        for model, folder in folders.items():
            name = f"{folder}/{index}_0.png"
            result[model] = {"image": name, **measure(prompt, open_rgb(run_dir / name))._asdict()}
        results.append(result)
    with atomic_write(run_dir / table) as partial:
        partial.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in results), encoding="utf-8")
    return results


def open_rgb(path: Path) -> Image.Image:
    """An image of a folder that can be made again.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; remove it, and the same command makes it again") from None


def mean(results: Sequence[PromptResult], model: str, key: str) -> float:
    """The mean of a measure over the prompts that have it.

    Raises:
        DataError: none has.
    """
    values = [result[model][key] for result in results if result[model][key] is not None]
    if not values:
        raise DataError(f"{key}: none of {len(results)} images of {model} has a number")
    return sum(values) / len(values)


def criterion(results: Sequence[PromptResult], model: str) -> float:
    """What a guidance scale is chosen by: the mean of faithfulness and taste, in [0, 1]."""
    return (mean(results, model, "faithfulness") + mean(results, model, "taste")) / 2


def compare_criterion(results: Sequence[PromptResult], first: str, second: str, seed: int) -> Difference:
    """`second` minus `first` in `criterion`, paired by prompt, with a 95 % interval.

    A prompt counts half of its difference in faithfulness and, where it has one, half of its difference in taste times
    n / n_taste: the mean is then the difference of the two criteria. The interval takes n_taste as given.

    Raises:
        DataError: no prompt has a taste on both sides.
    """
    taste = {
        place: result[second]["taste"] - result[first]["taste"]
        for place, result in enumerate(results)
        if result[first]["taste"] is not None and result[second]["taste"] is not None
    }
    if not taste:
        raise DataError(f"taste: none of {len(results)} prompts has a number on both models; nothing can be compared")
    weight = len(results) / len(taste)
    halves = [
        (result[second]["faithfulness"] - result[first]["faithfulness"] + weight * taste.get(place, 0.0)) / 2
        for place, result in enumerate(results)
    ]
    return paired_bootstrap([0.0] * len(halves), halves, seed=seed)


def compare(results: Sequence[PromptResult], first: str, second: str, key: str, seed: int) -> dict[str, Any]:
    """`second` minus `first` in one measure, paired by prompt, with a 95 % interval.

    Returns:
        mean, low, high of the difference; sd of the prompts' differences; better and worse, the shares of prompts on
        which `second` is above and below `first`; n prompts with a number on both sides, and not_measured, the rest.

    Raises:
        DataError: no prompt has a number on both sides.
    """
    of_two = key == "more_to_taste"
    pairs = [
        (result[first]["taste" if of_two else key], result[second]["taste" if of_two else key]) for result in results
    ]
    measured = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not measured:
        raise DataError(f"{key}: none of {len(results)} prompts has a number on both models; nothing can be compared")
    if of_two:
        measured = [(float(one > other), float(other > one)) for one, other in measured]
    before, after = zip(*measured, strict=True)
    difference = paired_bootstrap(before, after, seed=seed)
    changes = [other - one for one, other in measured]
    return {
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "sd": (sum((change - difference.mean) ** 2 for change in changes) / max(1, len(changes) - 1)) ** 0.5,
        "better": sum(change > 0 for change in changes) / len(changes),
        "worse": sum(change < 0 for change in changes) / len(changes),
        "n": len(measured),
        "not_measured": len(results) - len(measured),
    }


def compare_models(results: Sequence[PromptResult], models: Sequence[str], seed: int) -> dict[str, Any]:
    """Every measure of every model, and every difference between two of them.

    Args:
        models: from the first, the base, to the last, the one that is to be best.

    Returns:
        models: model -> measure -> mean, and unreadable, residual, spread; differences: "later - earlier" -> measure
        -> what `compare` says; diversity: model -> attribute -> its spread over base's, None where base has none.
    """
    tallies = {model: _tally(results, model) for model in models}
    return {
        "prompts": len(results),
        "models": {model: _describe(results, model, tallies[model]) for model in models},
        "differences": {
            f"{second} - {first}": {key: compare(results, first, second, key, seed) for key in MEASURES}
            for place, first in enumerate(models)
            for second in models[place + 1 :]
        },
        "diversity": {
            model: {
                name: None if ratio is None else ratio._asdict()
                for name, ratio in diversity.ratios(tallies[models[0]], tallies[model], seed=seed).items()
            }
            for model in models[1:]
        },
    }


def _describe(results: Sequence[PromptResult], model: str, tallied: dict[str, diversity.Tally]) -> dict[str, Any]:
    read = [result[model]["residual"] for result in results if result[model]["residual"] is not None]
    return {
        **{key: mean(results, model, key) for key in MEASURES if key != "more_to_taste"},
        "unreadable": len(results) - len(read),
        "residual": sum(read) / len(read) if read else None,
        "spread": {name: float(values[0]) for name, values in diversity.spreads(tallied).items()},
    }


def _tally(results: Sequence[PromptResult], model: str) -> dict[str, diversity.Tally]:
    return diversity.tally(
        [result["prompt"] for result in results], [scene_of(result[model]["scene"]) for result in results]
    )


def scene_of(content: Mapping[str, Any] | None) -> Scene | None:
    """The scene that `asdict` took apart."""
    if content is None:
        return None
    return Scene(content["background"], tuple(Thing(**thing) for thing in content["things"]))


def compare_criteria(results: Sequence[PromptResult], first: str, second: str, seed: int) -> dict[str, Any]:
    """Verified accuracy by criterion with Wilson intervals, and the paired difference resampled by prompt."""
    found: dict[str, list[tuple[int, bool, bool]]] = {}
    for index, result in enumerate(results):
        for one, other in zip(result[first]["verdicts"], result[second]["verdicts"], strict=True):
            found.setdefault(one["criterion"], []).append((index, one["right"], other["right"]))
    criteria = {}
    for name in sorted(found):
        prompts, before, after = zip(*found[name], strict=True)
        difference = paired_bootstrap(before, after, seed=seed, clusters=prompts)
        criteria[name] = {
            first: wilson(sum(before), len(before))._asdict(),
            second: wilson(sum(after), len(after))._asdict(),
            "difference": difference._asdict(),
        }
    return criteria
