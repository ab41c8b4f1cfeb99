"""The figures of README.md and docs/evidence.md are those that were measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAIRS = {"aligned - base": "aligned − base", "aligned - sft": "aligned − SFT"}
SEEDS = ("0", "3", "4")


def measured(model: str) -> dict[str, dict]:
    """Seed -> what the demo measured, from assets/benchmarks."""
    text = (ROOT / "assets" / "benchmarks" / f"demo_{model}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return {seed: content.get("seeds", content)[seed] for seed in SEEDS}


def points(difference: dict[str, float]) -> str:
    """A difference in points with its interval, as the tables write it."""
    mean, low, high = (f"{100 * difference[key]:+.1f}".replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def ratio(interval: dict[str, float]) -> str:
    """A ratio with its interval, as the tables write it."""
    return "{mean:.2f} ({low:.2f} to {high:.2f})".format(**interval)


@pytest.mark.parametrize("model", ["shapes-sd", "shapes-sdxl"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_differences_are_those_measured(model: str, pair: str, seed: str):
    found = measured(model)[seed]
    equal, own = found["equal"]["differences"][pair], found["own"]["differences"][pair]
    label = f"{PAIRS[pair]}, seed 0" if seed == "0" else f"seed {seed}"
    base = pair == "aligned - base"
    diversity = ratio(found["equal"]["diversity"]["aligned"]["diversity"]) if base else ""
    cells = [label, *(points(equal[key]) for key in ("faithfulness", "taste", "taste_satisfied")), diversity]
    assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in EVIDENCE
    own_cells = [points(own[key]) for key in ("faithfulness", "all_right", "taste_satisfied")]
    own_label = f"`{model}`, {label}" if seed == "0" else label
    assert f"| {own_label} | {' | '.join(own_cells)} |" in EVIDENCE
    if model == "shapes-sd":
        assert f"| {label} | {points(equal['faithfulness'])} | {points(equal['taste_satisfied'])} |" in README
