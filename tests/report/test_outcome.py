"""Goals, gains and losses are one reading of the measured figures: of each, what reaches it and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from t2ialign.report.comparison import direction
from t2ialign.report.outcome import Outcome, outcome

ABOVE = {"mean": 0.3, "low": 0.26, "high": 0.34, "n": 400}
BELOW = {"mean": -0.3, "low": -0.34, "high": -0.26, "n": 400}
KEYS = ("faithfulness", "taste", "taste_satisfied", "more_to_taste")
RATIO = {"mean": 0.95, "low": 0.9, "high": 1.0}


def compared(**shifts: dict[str, float]) -> dict[str, Any]:
    """Base, SFT and aligned on 400 prompts: above in everything but what is given."""
    all_shifts = {key: shifts.get(key, ABOVE) for key in KEYS}
    return {
        "prompts": 400,
        "models": {model: {"unreadable": 20} for model in ("base", "sft", "aligned")},
        "differences": {"aligned - base": all_shifts, "aligned - sft": all_shifts},
        "diversity": {"aligned": {"diversity": RATIO}},
    }


def summary(**changes: Any) -> dict[str, Any]:
    agreed = {"verdicts": {"mean": 0.98}}
    return {
        "measures": [{"key": key, "name": key.replace("_", " ").capitalize()} for key in KEYS],
        "equal": compared(),
        "own": compared(),
        "independent_verifier": {"base": agreed, "aligned": agreed},
        "criteria": {"Attribute - Color": {"difference": ABOVE}},
        **changes,
    }


def reached(found: Outcome) -> dict[str, bool]:
    return {goal.goal: goal.reached for goal in found.goals}


def test_a_demo_that_gained_everywhere_reached_every_goal_and_lost_nothing():
    found = outcome(summary())
    assert len(found.goals) == 7
    assert all(reached(found).values())
    assert found.improved
    assert len(found.better) == len(KEYS)
    assert found.worse == []
    assert found.sentence is not None
    assert found.sentence.startswith("On 400 held-out prompts better: Faithfulness +30.0 points (+26.0 to +34.0), ")


@pytest.mark.parametrize(
    "shift",
    [
        {"mean": 0.04, "low": 0.02, "high": 0.06, "n": 400},  # too little
        {"mean": 0.3, "low": -0.1, "high": 0.7, "n": 400},  # may be nothing
        {"mean": 0.3, "low": 0.26, "high": 0.34, "n": 4},  # of four prompts
        BELOW,
    ],
)
@pytest.mark.parametrize("key", ["faithfulness", "taste_satisfied", "more_to_taste"])
def test_a_difference_that_is_small_unclear_thin_or_below_reaches_no_goal(key: str, shift: dict[str, float]):
    found = reached(outcome(summary(equal=compared(**{key: shift}))))
    name = key.replace("_", " ").capitalize()
    over_base = [held for goal, held in found.items() if goal.startswith(name) and "SFT" not in goal]
    over_sft = [held for goal, held in found.items() if goal.startswith(name) and "SFT" in goal]
    assert over_base == [False]
    assert over_sft in ([], [direction(shift) == "better"])  # above SFT by anything that shows


@pytest.mark.parametrize(("mean", "held"), [(0.9, True), (0.89, False)])
def test_diversity_below_nine_tenths_is_a_goal_missed_and_a_loss(mean: float, held: bool):
    equal = compared() | {"diversity": {"aligned": {"diversity": RATIO | {"mean": mean}}}}
    found = outcome(summary(equal=equal))
    assert reached(found)["Diversity at least 0.9 of base"] is held
    assert found.worse == ([] if held else ["diversity, 0.89 (0.90 to 1.00) of base's"])


def test_diversity_that_could_not_be_measured_is_no_loss_and_reaches_nothing():
    found = outcome(summary(equal=compared() | {"diversity": {"aligned": {"diversity": None}}}))
    assert reached(found)["Diversity at least 0.9 of base"] is False
    assert found.worse == []


@pytest.mark.parametrize(("share", "held"), [(0.97, True), (0.96, False)])
def test_the_verifiers_have_to_agree_on_the_images_of_each_model(share: float, held: bool):
    readings = {"base": {"verdicts": {"mean": 0.99}}, "aligned": {"verdicts": {"mean": share}}}
    found = reached(outcome(summary(independent_verifier=readings)))
    assert found["Both verifiers agree on at least 97% of verdicts, of base and of aligned"] is held


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"equal": compared(taste=BELOW)}, "Taste −30.0 points (−34.0 to −26.0)"),
        ({"own": compared(taste=BELOW)}, "Taste −30.0 points (−34.0 to −26.0), each model at its own guidance"),
        ({"criteria": {"Logic": {"difference": BELOW}}}, "Logic −30.0 points (−34.0 to −26.0)"),
    ],
)
def test_what_got_worse_is_said_whatever_got_better(changes: dict[str, Any], lost: str):
    found = outcome(summary(**changes))
    assert found.worse == [lost]
    assert found.better
    assert not found.improved
    assert found.sentence is not None
    assert found.sentence.endswith(f"; worse: {lost}.")


@pytest.mark.parametrize(("after", "is_lost"), [(22, False), (60, True)])
def test_unreadable_pictures_are_a_loss_where_their_share_shows_to_be_larger(after: int, is_lost: bool):
    # of 400, Wilson: 20 up to 7.6 %, 22 from 3.7 %, 60 from 11.8 %
    equal = compared()
    equal["models"]["aligned"] = {"unreadable": after}
    lost = f"unreadable pictures, 20 before and {after} after"
    assert outcome(summary(equal=equal)).worse == ([lost] if is_lost else [])


def test_online_goals_are_of_each_model_at_its_own_guidance():
    own = compared()
    own["differences"]["online - base"] = {"faithfulness": ABOVE, "taste": ABOVE | {"mean": 0.29}}
    own["diversity"]["online"] = {"diversity": RATIO}
    found = [(goal, held) for goal, held in reached(outcome(summary(own=own))).items() if goal.startswith("Online")]
    assert found == [
        ("Online, at its own guidance: Faithfulness at least 7 points above base's at its own", True),
        ("Online, at its own guidance: Taste at least 30 points above base's at its own", False),
        ("Online, at its own guidance: diversity at least 0.9 of base's at its own", True),
    ]


def test_without_a_comparison_nothing_is_said():
    assert outcome(None) == Outcome([], [], [], None)
    assert not outcome(None).improved


def test_no_change_that_shows_is_said_as_such():
    unclear = {"mean": 0.01, "low": -0.02, "high": 0.04, "n": 400}
    found = outcome(summary(equal=compared(**dict.fromkeys(KEYS, unclear))))
    assert found.sentence == "On 400 held-out prompts no change shows."
    assert not any(held for goal, held in reached(found).items() if "Diversity" not in goal and "verifiers" not in goal)
