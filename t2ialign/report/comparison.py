"""What the report shows of a comparison: image pairs, disagreements of the verifiers, accuracy by criterion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.report.images import data_uri
from t2ialign.report.run_folder import VERDICTS, read_json_lines
from unigenbench.formatting import with_minus

FIRST = 50
"""Prompts shown from the top of the list, whatever the verdicts."""
TOP = 6
"""Of these, shown before any figure."""
CHANGED = 6
"""Prompts shown of those that got better, and of those that got worse."""


FEWEST = 5
"""With fewer prompts or statements the ends of an interval say next to nothing."""


class Drawn(NamedTuple):
    """What the models drew of a prompt."""

    prompt: str
    sides: dict[str, dict[str, Any]]
    """Model -> image (data URI), faithfulness, taste, verdicts; base first."""


class Gallery(NamedTuple):
    """Images of some prompts under a heading."""

    title: str
    note: str
    drawn: list[Drawn]


class Disagreement(NamedTuple):
    """An image on which verifier and independent verifier disagree."""

    model: str
    image: str
    """data URI"""
    prompt: str
    verifier: str
    """What the verifier saw, in words."""
    independent: str
    """What the independent verifier saw."""
    verdicts: list[dict[str, Any]]
    """claim, verifier, independent"""


class Bar(NamedTuple):
    """One criterion's verified accuracy on both models; every number in [0, 1]."""

    criterion: str
    base: dict[str, float]
    """mean, low, high, n"""
    aligned: dict[str, float]
    difference: dict[str, float]
    """mean, low, high"""


def is_thin(estimate: Mapping[str, float]) -> bool:
    """Whether an interval is not worth showing: it rests on too little, or all that it rests on is alike."""
    return estimate.get("n", FEWEST) < FEWEST or estimate["low"] == estimate["high"]


def direction(shift: Mapping[str, float]) -> str:
    """What a difference with mean, low and high means, in a word: better, worse, or unclear."""
    if shift.get("n", FEWEST) < FEWEST or shift["low"] <= 0 <= shift["high"]:
        return "unclear"
    return "better" if shift["low"] > 0 else "worse"


def in_points(shift: Mapping[str, float], unit: str = "") -> str:
    """A difference with its interval, for example "+5.1 (+2.7 to +7.5)"; thin intervals are withheld."""
    mean, low, high = (with_minus(f"{100 * shift[key]:+.1f}") for key in ("mean", "low", "high"))
    return f"{mean}{unit} ({'interval thin' if is_thin(shift) else f'{low} to {high}'})"


def disagreements(run_dir: Path, summary: dict[str, Any]) -> list[Disagreement]:
    """Every image on which the verifiers disagree."""
    return [
        Disagreement(
            model,
            data_uri(run_dir / reading["image"]),
            reading["prompt"],
            reading["verifier"],
            reading["independent"],
            reading["verdicts"],
        )
        for model, agreement in summary.get("independent_verifier", {}).items()
        for reading in agreement["disagreements"]
    ]


def bars(summary: dict[str, Any]) -> list[Bar]:
    """A bar for each criterion."""
    return [
        Bar(name, entry["base"], entry["aligned"], entry["difference"])
        for name, entry in summary.get("criteria", {}).items()
    ]


def galleries(run_dir: Path) -> list[Gallery]:
    """The first prompts as they come, which open the page; some that got better, as many that got worse, the next."""
    results = read_json_lines(run_dir / VERDICTS)
    better = [result for result in results if result["aligned"]["faithfulness"] > result["base"]["faithfulness"]]
    worse = [result for result in results if result["aligned"]["faithfulness"] < result["base"]["faithfulness"]]
    of_all = f"of {len(results)} images."
    chosen = [
        ("The first held-out prompts", "In the order of the test set, not chosen.", results[:TOP]),
        ("Where the aligned model does more of what was asked", f"{len(better)} {of_all}", better[:CHANGED]),
        ("Where it does less", f"{len(worse)} {of_all}", worse[:CHANGED]),
        ("The next held-out prompts", "In the order of the test set, not chosen.", results[TOP:FIRST]),
    ]
    return [Gallery(title, note, [_drawn(run_dir, one) for one in some]) for title, note, some in chosen if some]


def _drawn(run_dir: Path, result: dict[str, Any]) -> Drawn:
    models = [name for name in result if name != "prompt"]
    sides = {name: {**result[name], "image": data_uri(run_dir / result[name]["image"])} for name in models}
    return Drawn(result["prompt"], sides)
