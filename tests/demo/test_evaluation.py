"""What is measured of images, and how models are compared: by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2ialign.demo.evaluation import (
    compare,
    compare_criteria,
    compare_criterion,
    compare_models,
    criterion,
    judge,
    measure,
    scene_of,
)
from t2ialign.demo.verification import agreement, write_readings
from t2ialign.errors import DataError
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, Thing
from t2ialign.statistics import wilson


def picture(color: str = "red", size: str = "large", background: str = "black", shape: str = "circle"):
    return render(Scene(background, (Thing(shape, color, size, 30.0, 30.0),)))


def test_an_image_is_measured_by_both_preferences_apart():
    found = measure("a red circle", picture(size="small"))
    assert (found.faithfulness, found.all_right) == (1, 1)
    assert (found.taste, found.taste_satisfied) == (0.5, 0)  # dark, but small
    assert found.unreadable is None
    assert found.residual is not None
    assert found.residual < 1  # places are read to a fraction of a px
    seen = scene_of(found.scene)
    assert seen is not None
    assert seen.things[0].color == "red"


def test_a_claim_that_counts_keeps_what_was_seen():
    verdicts = measure("two rings", picture(size="small")).verdicts
    assert ("things in the picture: 2", 1) in [(one["claim"], one["seen"]) for one in verdicts]


def test_taste_is_satisfied_where_all_that_is_left_open_is_to_taste():
    assert measure("a red circle", picture()).taste_satisfied == 1
    assert measure("a small red circle", picture(size="small")).taste_satisfied == 1  # only the background is open


def row(base: tuple, aligned: tuple, claims: tuple[list[bool], list[bool]] = ([], [])) -> dict:
    """(faithfulness, taste) of both."""
    sides = {}
    for side, (faithful, liked), verdicts in (("base", base, claims[0]), ("aligned", aligned, claims[1])):
        judged = [{"criterion": "A", "claim": "", "right": right} for right in verdicts]
        sides[side] = {"faithfulness": faithful, "taste": liked, "verdicts": judged}
    return sides


def test_a_difference_by_hand():
    rows = [row((0.0, 0.2), (1.0, 0.6)), row((0.5, 0.9), (0.5, 0.1)), row((1.0, 0.0), (0.5, 0.5))]
    shift = compare(rows, "base", "aligned", "faithfulness", seed=0)
    # +1, 0, -1/2: mean 1/6, variance ((5/6)^2 + (1/6)^2 + (2/3)^2) / 2 = 7/12
    assert shift["mean"] == pytest.approx(1 / 6)
    assert shift["sd"] == pytest.approx((7 / 12) ** 0.5)
    assert (shift["better"], shift["worse"]) == pytest.approx((1 / 3, 1 / 3))
    more = compare(rows, "base", "aligned", "more_to_taste", seed=0)
    assert (more["better"], more["worse"], more["mean"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))


def test_what_could_not_be_measured_is_counted_and_not_a_number():
    rows = [row((0, 0.0), (0, 1.0)), row((0, None), (0, 1.0)), row((0, 0.5), (0, 0.5))]
    shift = compare(rows, "base", "aligned", "taste", seed=0)
    assert (shift["mean"], shift["n"], shift["not_measured"]) == (0.5, 2, 1)
    with pytest.raises(DataError, match="none of 1 prompts has a number on both models"):
        compare(rows[1:2], "base", "aligned", "taste", seed=0)


def test_the_criterion_is_the_mean_of_both_preferences():
    rows = [row((1.0, None), (0, 0)), row((0.5, 0.25), (0, 0))]
    assert criterion(rows, "base") == (0.75 + 0.25) / 2


def test_the_difference_of_two_criteria_is_that_of_their_means_and_has_an_interval():
    rows = [row((0.0, None), (1.0, None)), row((0.5, 0.25), (0.5, 0.75)), row((1.0, 0.5), (0.5, 0.5))]
    shift = compare_criterion(rows, "base", "aligned", seed=0)
    # faithfulness +1, 0, -1/2: mean 1/6; taste of two prompts +1/2, 0: mean 1/4
    assert shift.mean == pytest.approx((1 / 6 + 1 / 4) / 2)
    assert shift.mean == pytest.approx(criterion(rows, "aligned") - criterion(rows, "base"))
    assert shift.low < shift.mean < shift.high
    assert shift.n == 3
    with pytest.raises(DataError, match="none of 1 prompts has a number on both models"):
        compare_criterion(rows[:1], "base", "aligned", seed=0)


def test_criteria_by_hand():
    # 3 statements of 2 prompts: base 1 right, aligned 3 right; by prompt the gains are 1 of 1 and 1 of 2
    none = (0.0, 0.0)
    rows = [row(none, none, ([False], [True])), row(none, none, ([True, False], [True, True]))]
    entry = compare_criteria(rows, "base", "aligned", seed=0)["A"]
    assert entry["base"] == wilson(1, 3)._asdict()
    assert entry["aligned"] == wilson(3, 3)._asdict()
    assert entry["difference"] == pytest.approx({"mean": 2 / 3, "low": 1 / 2, "high": 1.0, "n": 2})


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Three prompts by two models: base draws small things on white, aligned large ones on black."""
    for model, size, background in (("base", "small", "white"), ("aligned", "large", "black")):
        (tmp_path / model).mkdir()
        for index, color in enumerate(("red", "green", "blue")):
            picture(color, size, background).save(tmp_path / model / f"{index}_0.png")
    return tmp_path


PROMPTS = ["a red circle", "a red circle", "a circle that is not red"]


def test_models_are_compared_two_by_two(drawn):
    rows = judge(PROMPTS, drawn, {"base": "base", "sft": "base", "aligned": "aligned"}, "verdicts.jsonl")
    assert [json.loads(line) for line in (drawn / "verdicts.jsonl").read_text().splitlines()] == rows
    found = compare_models(rows, ("base", "sft", "aligned"), seed=0)
    assert set(found["differences"]) == {"sft - base", "aligned - base", "aligned - sft"}
    assert found["differences"]["sft - base"]["taste"]["mean"] == 0
    assert found["differences"]["aligned - base"]["taste_satisfied"]["mean"] == 1
    assert found["models"]["base"]["all_right"] == pytest.approx(2 / 3)  # the second circle is green
    assert found["models"]["aligned"]["unreadable"] == 0
    assert found["diversity"]["sft"]["place"] is None  # every thing is in one place


def test_a_missing_image_is_named(drawn):
    (drawn / "aligned" / "1_0.png").unlink()
    with pytest.raises(DataError, match=r"aligned/1_0\.png"):
        judge(PROMPTS, drawn, {"aligned": "aligned"}, "verdicts.jsonl")


def test_the_independent_verifier_disagrees_where_the_verifier_is_wrong(drawn):
    rows = judge(PROMPTS, drawn, {"base": "base"}, "verdicts.jsonl")
    for verdict in rows[0]["base"]["verdicts"]:
        verdict["right"] = False  # a verifier that errs on the first of three pictures
    write_readings(rows, "base", drawn, drawn / "readings.jsonl")
    readings = [json.loads(line) for line in (drawn / "readings.jsonl").read_text().splitlines()]
    found = agreement(readings)
    statements = [len(row["base"]["verdicts"]) for row in rows]
    assert found["verdicts"]["n"] == sum(statements)
    assert found["verdicts"]["mean"] == pytest.approx(1 - statements[0] / sum(statements))
    assert found["pictures"]["mean"] == pytest.approx(2 / 3)
    assert [reading["image"] for reading in found["disagreements"]] == ["base/0_0.png"]
    assert readings[0]["verifier"] == readings[0]["independent"] == "small red circle on white"
