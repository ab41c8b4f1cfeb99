"""Comparing two runs: what must hold of a difference, and when there is none to be had."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hand_made import JUDGE, case_b, judgement, log, prompt, prompt_set, run

from unigenbench.errors import InputError
from unigenbench.scoring.compare import TooManyFailures, compare
from unigenbench.scoring.counts import reliable_interval

LABELS = ("Style", "Attribute - Color", "Attribute - Size", "Text Generation")
PROMPTS = prompt_set([prompt(i, *LABELS[: 1 + i % 4]) for i in range(40)])


def quick(first, second, **options):
    return compare(first, second, **{"permutations": 500, "bootstrap": 200, **options})


def better(index: int, image: int, place: int) -> int:
    """case_b with every third failure mended."""
    return case_b(index, image, place) or int((index + image + place) % 3 == 0)


def test_a_run_compared_with_itself_differs_by_0_with_p_1():
    made = run(PROMPTS, case_b)
    found = quick(made, made)
    entries = [*found["overall"].values(), *found["dimensions"].values(), *found["criteria"].values()]
    tested = [entry for entry in entries if entry["p"] is not None]
    assert len(tested) == 2 + 3 + 4
    for entry in tested:
        assert entry["difference"] == 0
        assert entry["p"] == 1
        assert entry["ci"] == [0, 0]
    assert all(entry["p_holm"] == 1 for entry in found["dimensions"].values() if entry["p"])
    assert found["shared"] == {
        "images": 160, "prompts": 40, "testpoints": 400, "only_a": 0, "only_b": 0, "other_prompt": 0,
    }  # fmt: skip
    assert found["warnings"] == []


def test_a_better_run_is_found_better_and_the_other_way_round_worse():
    first, second = run(PROMPTS, case_b), run(PROMPTS, better)
    found, turned = quick(first, second), quick(second, first)
    overall = found["overall"]["macro"]
    assert overall["difference"] > 0
    assert overall["ci"][0] > 0
    assert overall["p"] == 1 / 501
    assert turned["overall"]["macro"]["difference"] == pytest.approx(-overall["difference"])
    assert turned["overall"]["macro"]["ci"] == pytest.approx([-overall["ci"][1], -overall["ci"][0]])
    assert turned["overall"]["macro"]["p"] == overall["p"]


def test_differences_are_those_of_the_scores():
    from unigenbench.scoring.scores import summarise

    first, second = run(PROMPTS, case_b), run(PROMPTS, better)
    found = quick(first, second)
    scores = [summarise(log, bootstrap=10) for log in (first, second)]
    assert found["overall"]["macro"]["a"] == pytest.approx(scores[0]["overall"]["macro"])
    assert found["overall"]["micro"]["b"] == pytest.approx(scores[1]["overall"]["micro"])
    for section in ("dimensions", "criteria"):
        for id, entry in found[section].items():
            if entry["a"] is not None:
                assert entry["a"] == pytest.approx(scores[0][section][id]["score"])
                assert entry["difference"] == pytest.approx(scores[1][section][id]["score"] - entry["a"])


def test_few_prompts_are_exchanged_in_every_way():
    # differences of prompts 1 1 1 -1 0, one image and test point each: 10/16 of the patterns are as far from 0
    prompts = prompt_set([prompt(i, "Style") for i in range(5)])
    first = run(prompts, lambda i, j, k: int(i == 3), images=1)
    second = run(prompts, lambda i, j, k: int(i < 3), images=1)
    found = quick(first, second)
    assert found["policy"]["exact"]
    assert found["policy"]["permutations"] == 2**5
    assert found["overall"]["macro"]["p"] == 10 / 16
    assert found["dimensions"]["style"]["mcnemar"] == {"only_a": 1, "only_b": 3, "p": 2 * (1 + 4) / 16}
    assert "5 prompts" in found["warnings"][0]


def test_exchanging_tables_is_exchanging_runs():
    # the matrix product against building both runs anew for each of the 2^4 exchanges
    prompts = prompt_set([prompt(i, *LABELS[: 1 + i]) for i in range(4)])
    verdicts = (case_b, better)
    found = quick(run(prompts, case_b, images=2), run(prompts, better, images=2))

    def exchanged(swaps: tuple[int, ...], side: int):
        return run(prompts, lambda i, j, k: verdicts[side ^ swaps[i]](i, j, k), images=2)

    differences = []
    for swaps in product((0, 1), repeat=4):
        made = quick(exchanged(swaps, 0), exchanged(swaps, 1), bootstrap=2)
        differences.append(made["overall"]["macro"]["difference"])
    observed = found["overall"]["macro"]["difference"]
    assert found["overall"]["macro"]["p"] == pytest.approx((np.abs(differences) >= abs(observed) - 1e-12).mean())


def test_holm_is_over_dimensions_and_over_criteria_apart():
    found = quick(run(PROMPTS, case_b), run(PROMPTS, better))
    for section, count in (("dimensions", 3), ("criteria", 4)):
        tested = sorted((entry["p"], entry["p_holm"]) for entry in found[section].values() if entry["p"] is not None)
        assert len(tested) == count
        assert tested[0][1] == pytest.approx(min(1, count * tested[0][0]))


def some(prompts, share: float, status="parse_failed"):
    """A run in which a share of the images has no verdict."""
    made = run(prompts, case_b)
    every = round(1 / share)
    return log(
        prompts,
        [
            judgement(prompts.prompts[old.prompt_index], old.image_index, None, status) if place % every == 0 else old
            for place, old in enumerate(made.judgements)
        ],
    )


@pytest.mark.parametrize("status", ["parse_failed", "refused", "truncated", "transport_failed"])
def test_twenty_percent_without_an_answer_are_refused(status):
    whole, holed = run(PROMPTS, case_b), some(PROMPTS, 0.2, status)
    for pair in ((whole, holed), (holed, whole)):
        with pytest.raises(TooManyFailures, match=rf"20\.0% of 160 replies .*\(32 {status}\), more than 10%"):
            quick(*pair)
    assert TooManyFailures.exit_code == 1
    found = quick(whole, holed, max_failed=0.2)
    assert (found["shared"]["images"], found["shared"]["only_a"]) == (128, 32)


@pytest.mark.parametrize("every", [10, 8, 3])
def test_a_share_of_failures_exactly_at_the_limit_is_still_compared(every):
    whole, holed = run(PROMPTS, case_b), some(PROMPTS, 1 / every)
    share = sum(found.status != "ok" for found in holed.judgements) / 160
    assert quick(whole, holed, max_failed=share)["b"]["failed_share"] == share
    with pytest.raises(TooManyFailures):
        quick(whole, holed, max_failed=share - 1e-9)


def test_five_percent_without_an_answer_are_left_out_and_told():
    found = quick(run(PROMPTS, case_b), some(PROMPTS, 0.05))
    assert found["shared"] == {
        "images": 152, "prompts": 40, "testpoints": found["shared"]["testpoints"], "only_a": 8, "only_b": 0,
        "other_prompt": 0,
    }  # fmt: skip
    assert found["b"]["failed_by_status"] == {"parse_failed": 8}
    # the other run is counted on the same 152 images: no difference comes from what failed
    assert found["overall"]["macro"]["difference"] == 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"judge": {**JUDGE, "id": "another"}}, "judge"),
        ({"rubric": {"id": "own-2", "sha256": "b" * 64}}, "rubric"),
        ({"folder": {"per_prompt": 3}}, "images"),
    ],
)
def test_runs_that_measure_differently_are_refused_unless_told(changes, name):
    first, second = run(PROMPTS, case_b), run(PROMPTS, better, **changes)
    with pytest.raises(InputError, match=f"differ in {name}: .*--allow {name}"):
        quick(first, second)
    found = quick(first, second, allow=[name])
    assert any(f"differ in {name}" in warning for warning in found["warnings"])


def test_other_prompts_are_refused_and_never_paired():
    changed = [prompt(i, *LABELS[: 1 + i % 4], text="another" if i < 10 else "") for i in range(40)]
    first, second = run(PROMPTS, case_b), run(prompt_set(changed, sha256="e" * 64), case_b)
    with pytest.raises(InputError, match="differ in prompts"):
        quick(first, second)
    found = quick(first, second, allow=["prompts"])
    assert (found["shared"]["prompts"], found["shared"]["other_prompt"]) == (30, 40)
    with pytest.raises(InputError, match="--allow judges: unknown"):
        quick(first, first, allow=["judges"])


def test_a_part_is_compared_with_the_whole_on_what_they_share():
    part = prompt_set(PROMPTS.prompts[:25], selection="first 25")
    found = quick(run(PROMPTS, case_b), run(part, case_b))
    assert found["shared"]["prompts"] == 25
    assert found["shared"]["only_a"] == 60


def test_runs_that_share_nothing_are_refused():
    first = run(prompt_set(PROMPTS.prompts[:20]), case_b)
    second = run(prompt_set(PROMPTS.prompts[20:]), case_b)
    with pytest.raises(InputError, match="no judged image in common: 80 and 80 are judged"):
        quick(first, second)


def test_runs_of_other_images_of_the_same_prompts_are_compared():
    first = run(PROMPTS, case_b)
    others = [replace(one, image_sha256=f"b{one.image_sha256}") for one in first.judgements]
    assert quick(first, log(PROMPTS, others))["shared"]["images"] == 160


def test_a_run_without_judgements_shares_nothing():
    with pytest.raises(InputError, match=r"160 and 0 are judged, 0 have the same number, none is of the same prompts$"):
        quick(run(PROMPTS, case_b), log(PROMPTS, []))


def test_a_comparison_says_what_each_run_is():
    part = prompt_set(PROMPTS.prompts, selection="first 40")
    lost = [judgement(one, 0, None, "refused") for one in part.prompts[:2]]
    second = log(part, [*lost, *run(part, better).judgements[2 * 4 :]], run_id="r2")
    found = quick(run(PROMPTS, case_b), second)
    assert found["a"] == {
        "run": "runs/made", "run_id": "made", "judge_id": JUDGE["id"], "category": "made", "selection": None,
        "judged": 160, "failed_by_status": {}, "failed_share": 0.0,
    }  # fmt: skip
    assert found["b"] == found["a"] | {
        "run_id": "r2", "selection": "first 40", "judged": 152, "failed_by_status": {"refused": 2},
        "failed_share": 2 / 154,
    }  # fmt: skip
    unnamed = {key: value for key, value in second.manifest.items() if key != "run_id"}
    assert quick(second, replace(second, manifest=unnamed))["b"]["run_id"] == "made"


def test_prompts_of_a_difference_are_those_with_test_points_in_it():
    prompts = prompt_set([prompt(0, "Attribute - Color"), prompt(1, "Attribute - Size", "Style"), prompt(2, "Style")])
    found = quick(run(prompts, case_b, images=1), run(prompts, better, images=1))
    entries = found["dimensions"] | found["criteria"]
    told = {id: (entry["prompts"], entry["total"]) for id, entry in entries.items() if entry["total"]}
    assert told == {"style": (2, 2), "attribute": (2, 2), "attribute.color": (1, 1), "attribute.size": (1, 1)}
    assert (found["overall"]["micro"]["prompts"], found["overall"]["micro"]["total"]) == (3, 4)


@pytest.mark.parametrize(("count", "warned"), [(20, False), (19, True)])
def test_a_difference_on_fewer_than_twenty_prompts_is_warned_of(count: int, warned: bool):
    part = prompt_set(PROMPTS.prompts[:count])
    few = f"intervals rest on {count} prompts and are too narrow; have at least 20"
    assert quick(run(part, case_b), run(part, better))["warnings"] == ([few] if warned else [])


def test_judges_that_differ_are_told_by_the_keys_that_differ():
    first = run(PROMPTS, case_b, judge={**JUDGE, "spec": {"model": "m", "temperature": 0.0, "kind": "openai"}})
    second = run(PROMPTS, case_b, judge={"spec": {"model": "m", "temperature": 0.7, "kind": "openai"}, "id": "other"})
    with pytest.raises(InputError, match=r"differ in judge: temperature 0\.0; temperature 0\.7\. .* --allow judge"):
        quick(first, second)
    [warning] = [text for text in quick(first, second, allow=["judge"])["warnings"] if "judge" in text]
    assert "temperature 0.0" in warning


def test_what_differs_is_told_as_it_was_set():
    specs = {"model": "a", "extra": {"top_k": 1}, "seed": 1, "same": "x"}, {"model": "b", "extra": {}, "same": "x"}
    first, second = (
        run(PROMPTS, case_b, judge={"spec": spec, "id": str(place)}, rubric={"id": "own", "sha256": str(place) * 64})
        for place, spec in enumerate(specs)
    )
    rubric, judge = quick(first, second, allow=["judge", "rubric"])["warnings"]
    assert f"differ in rubric (own ({'0' * 12}); own ({'1' * 12}));" in rubric
    assert 'differ in judge (extra {"top_k": 1}, model a, seed 1; extra {}, model b, seed not set);' in judge


def test_judges_that_differ_in_no_key_are_told_by_model_or_name_and_id():
    first = run(PROMPTS, case_b, judge={"spec": {"kind": "shapes"}, "id": "1", "name": "shapes"})
    second = run(PROMPTS, case_b, judge={"spec": {"kind": "shapes"}, "id": "2", "name": "shapes"})
    with pytest.raises(InputError, match=r"differ in judge: shapes \(1\); shapes \(2\)\."):
        quick(first, second)


def test_intervals_that_little_stands_behind_are_not_shown_as_certain():
    assert reliable_interval({"ci": [0.4, 0.6], "prompts": 5}) == (0.4, 0.6)
    assert reliable_interval({"ci": [0.4, 0.6], "prompts": 4}) is None
    assert reliable_interval({"ci": [1.0, 1.0], "prompts": 50}) is None
    assert reliable_interval({"ci": None, "prompts": 50}) is None
    few = prompt_set([prompt(i, "Style") for i in range(4)])
    found = quick(run(few, case_b), run(few, better))
    assert all(reliable_interval(entry) is None for entry in found["overall"].values())
    assert {entry["prompts"] for entry in found["overall"].values()} == {4}
