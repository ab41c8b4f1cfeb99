"""Judges what several models drew of the same Shapes prompts, and compares the models two by two.

A row is a prompt with what was measured of each model's image of it. The two preferences are never added up, but for
one purpose: `criterion` chooses a guidance scale.
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
from t2ialign.shapes.matcher import match
from t2ialign.shapes.realism import residual
from t2ialign.shapes.scene import Scene, Thing
from t2ialign.shapes.taste import taste
from t2ialign.shapes.verify import Unreadable, verify
from t2ialign.statistics import paired_bootstrap, wilson
from t2ialign.storage.atomic import atomic_write

MEASURES = {
    "faithfulness": ("Faithfulness", "share of the prompt's statements that hold in the picture"),
    "all_right": ("All right", "share of pictures in which every statement holds"),
    "taste": ("Taste", "dark background and large things, where the prompt leaves them open; mean of [0, 1]"),
    "taste_satisfied": ("Taste satisfied", "share of pictures in which all that is left open is to taste"),
    "more_to_taste": ("More to taste", "share of prompts whose picture is more to taste than the other model's"),
}
"""What is compared: key -> (name, meaning). `more_to_taste` is of two models, the others are of one."""

Row = dict[str, Any]


class Measured(NamedTuple):
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
    """criterion, claim, right"""


def measure(prompt: str, image: Image.Image) -> Measured:
    """The verifier's and the taste's judgement of one image."""
    judged = verify(prompt, image)
    liked = taste(judged.seen, prompt)
    seen = judged.seen if isinstance(judged.seen, Scene) else None
    return Measured(
        faithfulness=judged.share,
        all_right=float(judged.all_right),
        taste=liked,
        taste_satisfied=None if liked is None else float(liked == 1),
        residual=None if seen is None else residual(image, seen),
        unreadable=judged.seen.reason if isinstance(judged.seen, Unreadable) else None,
        scene=None if seen is None else {**asdict(seen), "things": [asdict(thing) for thing in seen.things]},
        verdicts=[
            {"criterion": verdict.criterion, "claim": str(verdict.constraint), "right": verdict.right}
            for verdict in judged.verdicts
        ],
    )


def judge(prompts: Sequence[str], run_dir: Path, folders: Mapping[str, str], table: str) -> list[Row]:
    """A row a prompt: each model's image of it, judged; also written as JSON lines.

    Args:
        prompts: of the images `<index>_0.png`.
        run_dir: what folders and table are relative to.
        folders: model -> folder of its images.
        table: the file of rows.

    Raises:
        DataError: an image cannot be read.
    """
    rows: list[Row] = []
    for index, prompt in enumerate(track(prompts, "verified prompts", len(prompts))):
        row: Row = {"prompt": prompt}
        for model, folder in folders.items():
            name = f"{folder}/{index}_0.png"
            row[model] = {"image": name, **measure(prompt, open_rgb(run_dir / name))._asdict()}
        rows.append(row)
    with atomic_write(run_dir / table) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


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


def mean(rows: Sequence[Row], model: str, key: str) -> float:
    """The mean of a measure over the rows that have it.

    Raises:
        DataError: none has.
    """
    values = [row[model][key] for row in rows if row[model][key] is not None]
    if not values:
        raise DataError(f"{key}: none of {len(rows)} images of {model} has a number")
    return sum(values) / len(values)


def criterion(rows: Sequence[Row], model: str) -> float:
    """What a guidance scale is chosen by: the mean of faithfulness and taste, in [0, 1]."""
    return (mean(rows, model, "faithfulness") + mean(rows, model, "taste")) / 2


def compare(rows: Sequence[Row], first: str, second: str, key: str, seed: int) -> dict[str, Any]:
    """`second` minus `first` in one measure, paired by prompt, with a 95 % interval.

    Returns:
        mean, low, high of the difference; sd of the prompts' differences; better and worse, the shares of prompts on
        which `second` is above and below `first`; n prompts with a number on both sides, and not_measured, the rest.

    Raises:
        DataError: no prompt has a number on both sides.
    """
    of_two = key == "more_to_taste"
    pairs = [(row[first]["taste" if of_two else key], row[second]["taste" if of_two else key]) for row in rows]
    measured = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not measured:
        raise DataError(f"{key}: none of {len(rows)} prompts has a number on both models; nothing can be compared")
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
        "not_measured": len(rows) - len(measured),
    }


def compare_models(rows: Sequence[Row], models: Sequence[str], seed: int) -> dict[str, Any]:
    """Every measure of every model, and every difference between two of them.

    Args:
        models: from the first, the base, to the last, the one that is to be best.

    Returns:
        models: model -> measure -> mean, and unreadable, residual, spread; differences: "later - earlier" -> measure
        -> what `compare` says; diversity: model -> attribute -> its spread over base's, None where base has none.
    """
    tallies = {model: _tally(rows, model) for model in models}
    return {
        "prompts": len(rows),
        "models": {model: _describe(rows, model, tallies[model]) for model in models},
        "differences": {
            f"{second} - {first}": {key: compare(rows, first, second, key, seed) for key in MEASURES}
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


def _describe(rows: Sequence[Row], model: str, tallied: dict[str, diversity.Tally]) -> dict[str, Any]:
    read = [row[model]["residual"] for row in rows if row[model]["residual"] is not None]
    return {
        **{key: mean(rows, model, key) for key in MEASURES if key != "more_to_taste"},
        "unreadable": len(rows) - len(read),
        "residual": sum(read) / len(read) if read else None,
        "spread": {name: float(values[0]) for name, values in diversity.spreads(tallied).items()},
    }


def _tally(rows: Sequence[Row], model: str) -> dict[str, diversity.Tally]:
    return diversity.tally([row["prompt"] for row in rows], [scene_of(row[model]["scene"]) for row in rows])


def scene_of(content: Mapping[str, Any] | None) -> Scene | None:
    """The scene that `asdict` took apart."""
    if content is None:
        return None
    return Scene(content["background"], tuple(Thing(**thing) for thing in content["things"]))


def compare_criteria(rows: Sequence[Row], first: str, second: str, seed: int) -> dict[str, Any]:
    """Verified accuracy by criterion with Wilson intervals, and the paired difference resampled by prompt."""
    found: dict[str, list[tuple[int, bool, bool]]] = {}
    for index, row in enumerate(rows):
        for one, other in zip(row[first]["verdicts"], row[second]["verdicts"], strict=True):
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


def second_look(rows: Sequence[Row], model: str, run_dir: Path, out: Path) -> None:
    """Reads a model's images with the second reader and writes, a line an image, where it disagrees.

    The lines hold image, prompt, first and second (what each saw, in words), verdicts (claim, first, second).
    """
    lines = []
    for row in track(rows, f"images of {model} read a second time", len(rows)):
        one = row[model]
        seen = match(open_rgb(run_dir / one["image"]))
        again = verify(row["prompt"], seen)
        verdicts = [
            {"claim": before["claim"], "first": before["right"], "second": after.right}
            for before, after in zip(one["verdicts"], again.verdicts, strict=True)
        ]
        first = scene_of(one["scene"])
        lines.append(
            {
                "image": one["image"],
                "prompt": row["prompt"],
                "first": one["unreadable"] if first is None else in_words(first),
                "second": seen.reason if isinstance(seen, Unreadable) else in_words(seen),
                "verdicts": verdicts,
            }
        )
    with atomic_write(out) as partial:
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def in_words(scene: Scene) -> str:
    """For example "small red ring, large blue cross on navy"."""
    things = ", ".join(f"{thing.size} {thing.color} {thing.shape}" for thing in scene.things)
    return f"{things or 'nothing'} on {scene.background}"


def agreement(looks: Sequence[Row]) -> dict[str, Any]:
    """How often the second reader's verdicts equal the first's, and the images where one differs.

    Returns:
        verdicts and pictures: mean, low, high, n (Wilson, 95 %); a picture agrees where both say, or both deny, that
        every statement holds.
    """
    verdicts = [verdict["first"] == verdict["second"] for look in looks for verdict in look["verdicts"]]
    whole = [
        all(verdict["first"] for verdict in look["verdicts"]) == all(verdict["second"] for verdict in look["verdicts"])
        for look in looks
    ]
    return {
        "verdicts": wilson(sum(verdicts), len(verdicts))._asdict(),
        "pictures": wilson(sum(whole), len(whole))._asdict(),
        "disagreements": [
            look for look in looks if any(verdict["first"] != verdict["second"] for verdict in look["verdicts"])
        ],
    }
