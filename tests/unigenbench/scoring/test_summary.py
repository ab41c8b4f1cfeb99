"""What a summary says beside its scores: facts of the run, coverage, prompts, groups and warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import JUDGE, case_b, judgement, log, prompt, prompt_set, run

from unigenbench.errors import DataError
from unigenbench.scoring.counts import count_run
from unigenbench.scoring.manifest import MOST_IMAGES, images_per_prompt
from unigenbench.scoring.scores import summarise
from unigenbench.scoring.verdicts import image_key
from unigenbench.statistics import multiplicities
from unigenbench.taxonomy import DIMENSIONS
from unigenbench.types import RunLog

ALL_TEN = tuple(dimension.criteria[0].name for dimension in DIMENSIONS)


def quick(log: RunLog, **options):
    return summarise(log, **{"bootstrap": 10, **options})


def judged_in_part(count: int, judged: int, *labels: str) -> RunLog:
    """One image of each prompt, of which only the first so many have a verdict: yes and no by turns."""
    prompts = prompt_set([prompt(i, *labels) for i in range(count)])
    return log(prompts, [judgement(p, 0, [p.index % 2] * len(labels)) for p in prompts.prompts[:judged]], images=1)


def test_a_summary_repeats_what_the_run_says_of_itself():
    made = run(prompt_set([prompt(0, "Style")], selection="first 1"), case_b)
    said = {"run_id": "r7", "usage": {"input": 5}, "cost": 0.25, "comparable": True, "banner": None}
    summary = quick(replace(made, manifest=made.manifest | said))
    assert {key: summary[key] for key in said} == said
    assert (summary["judge_id"], summary["selection"]) == (JUDGE["id"], "first 1")
    summary = quick(made)
    assert (summary["comparable"], summary["banner"]) == (False, "not comparable")
    unnamed = {key: value for key, value in made.manifest.items() if key not in ("run_id", "comparable")}
    summary = quick(replace(made, manifest=unnamed))
    assert (summary["run_id"], summary["comparable"]) == ("made", False)


def test_coverage_counts_images_not_judgements():
    # of two images of two prompts: one judged twice, one not understood, one missing, one never asked about
    prompts = prompt_set([prompt(i, "Style") for i in range(2)])
    first, second = prompts.prompts
    once = judgement(first, 0, [1])
    judged = [
        once,
        replace(once, key="made/0/0/1"),
        judgement(first, 1, None),
        judgement(second, 0, None, "image_missing"),
    ]
    found = quick(log(prompts, judged, images=2, folder={"samples": 2}))["coverage"]
    assert (found["images_expected"], found["images_found"], found["judged"], found["share"]) == (4, 2, 1, 1 / 4)
    assert found["failed_by_status"] == {"parse_failed": 1, "image_missing": 1}
    assert (found["testpoints_expected"], found["testpoints_scored"]) == (8, 2)
    # what the run found when it began, where it says so
    assert quick(log(prompts, judged, images=2, folder={"found": 3}))["coverage"]["images_found"] == 3


def test_prompts_of_an_entry_are_those_with_a_verdict_in_it():
    prompts = prompt_set([prompt(0, "Style"), prompt(1, "Style", "Text Generation"), prompt(2, "Style")])
    verdicts = [judgement(prompts.prompts[0], 0, [1]), judgement(prompts.prompts[1], 0, [0, 1])]
    summary = quick(log(prompts, verdicts, images=1))
    assert [summary["dimensions"][id]["prompts"] for id in ("style", "text", "action")] == [2, 1, 0]
    assert summary["overall"]["prompts"] == 2


def test_the_error_of_the_mean_is_over_judged_prompts():
    # verdicts 0 1, the third prompt has none: influences -1/4 and 1/4, error sqrt(2 / (2 - 1) * 2 / 16) = 1/2
    summary = quick(judged_in_part(3, 2, "Style"))
    assert summary["overall"]["se"] == pytest.approx(0.5)
    assert summary["dimensions"]["style"]["se"] == pytest.approx(0.5)


def test_samples_that_miss_a_dimension_are_counted():
    # two prompts of one dimension each: a bootstrap sample has both dimensions if it draws both prompts
    prompts = prompt_set([prompt(0, "Style"), prompt(1, "Text Generation")])
    drawn = multiplicities(2, 200, 0)
    overall = quick(run(prompts, case_b), bootstrap=200)["overall"]
    assert overall["replicates_with_fewer_dimensions"] == (drawn == 0).any(1).sum() > 0
    both = prompt_set([prompt(i, "Style", "Text Generation") for i in range(2)])
    assert quick(run(both, case_b))["overall"]["replicates_with_fewer_dimensions"] == 0


def test_a_run_of_no_prompts_has_no_scores():
    summary = quick(log(prompt_set([]), []))
    assert (summary["overall"]["macro"], summary["overall"]["ci"], summary["coverage"]["share"]) == (None, None, None)


@pytest.mark.parametrize(("judged", "warned"), [(20, False), (19, True), (1, True)])
def test_fewer_than_twenty_judged_prompts_are_warned_of(judged: int, warned: bool):
    few = f"intervals rest on {judged} prompt{'s' if judged > 1 else ''} and are too narrow; have at least 20"
    assert quick(judged_in_part(25, judged, *ALL_TEN))["warnings"] == ([few] if warned else [])
    assert (quick(judged_in_part(25, judged, "Style"))["warnings"][0] == few) == warned


def test_a_run_without_verdicts_is_not_warned_of_its_scores():
    summary = quick(judged_in_part(3, 0, "Style"))
    assert summary["warnings"] == []
    assert summary["overall"]["n_dimensions"] == 0


def test_test_points_that_their_prompts_do_not_say_are_counted_in_a_warning():
    def flagged(index: int, *flags: str):
        made = prompt(index, *ALL_TEN)
        return replace(made, points=(replace(made.points[0], flags=frozenset(flags)), *made.points[1:]))

    prompts = prompt_set(
        [flagged(0, "ungrounded"), flagged(1, "ungrounded", "duplicate_label"), *map(flagged, range(2, 22))]
    )
    assert quick(run(prompts, case_b))["warnings"] == [
        "2 test points ask for what their prompt does not say; they count"
    ]


def test_groups_are_in_the_order_of_their_numbers():
    texts = ["w " * length for length in (2, 3, 9, 11)]
    labels = [("Style",) * count for count in (10, 2, 1, 9)]
    prompts = prompt_set([prompt(i, *labels[i], text=texts[i]) for i in range(4)])
    summary = quick(run(prompts, case_b))
    assert list(summary["lengths"]) == ["2-2 words", "3-3 words", "9-9 words", "11-11 words"]
    assert list(summary["testpoint_counts"]) == ["1", "2", "9", "10"]


def test_only_themes_of_the_prompts_are_listed_with_dimensions():
    summary = quick(run(prompt_set([prompt(0, "Style"), prompt(1, "Style", theme="Design")]), case_b))
    themes = {id.split("/")[0] for id in summary["theme_dimensions"]}
    assert themes == {"Art", "Design"}
    assert len(summary["theme_dimensions"]) == 2 * len(DIMENSIONS)


@pytest.mark.parametrize("missing", ["exclude", "zero"])
def test_chinese_prompts_are_grouped_by_their_characters(missing):
    prompts = prompt_set([prompt(0, "Style", text="一只猫在桌上")], language="zh")
    assert list(quick(run(prompts, case_b), missing=missing)["lengths"]) == ["6-6 characters"]


def test_an_image_without_a_verdict_does_not_pass_where_it_counts_as_wrong():
    prompts = prompt_set([prompt(0, "Style")])
    made = log(prompts, [judgement(prompts.prompts[0], 0, [1]), judgement(prompts.prompts[0], 1, None)], images=2)
    assert count_run(made).passed.tolist() == [[1, -1]]
    assert count_run(made, missing="zero").passed.tolist() == [[1, 0]]


def test_missing_as_an_error_asks_for_verdicts_of_all_images():
    whole = judged_in_part(3, 3, "Style")
    assert quick(whole, missing="error")["overall"]["total"] == 3
    with pytest.raises(DataError, match=r"1 of 3 images have no verdict \(some never came to their turn\)"):
        quick(judged_in_part(3, 2, "Style"), missing="error")


@pytest.mark.parametrize("number", [0, MOST_IMAGES + 1])
def test_a_number_of_images_that_no_run_has_is_refused(number: int):
    made = log(prompt_set([prompt(0, "Style")]), [], images=number)
    with pytest.raises(DataError, match=f"{number} images per prompt; 1 to 10000 can be scored, mend run.json"):
        quick(made)


def test_as_many_images_as_can_be_scored_are():
    made = log(prompt_set([prompt(0, "Style")]), [], images=MOST_IMAGES)
    assert images_per_prompt(made) == MOST_IMAGES


@pytest.mark.parametrize(("key", "sample"), [("made/0/0/2", 2), ("made/0/0", 0), ("image", 0), ("a/²", 0)])
def test_the_sample_is_the_number_at_the_end_of_a_key(key: str, sample: int):
    assert image_key(replace(judgement(prompt(0, "Style"), 0, [1]), key=key)).sample == sample


def test_verdicts_of_a_judgement_that_failed_do_not_count():
    prompts = prompt_set([prompt(0, "Style")])
    failed = replace(judgement(prompts.prompts[0], 1, [1]), status="truncated")
    counts = count_run(log(prompts, [judgement(prompts.prompts[0], 0, [1]), failed], images=2))
    assert (counts.total.sum(), np.count_nonzero(counts.passed == -1)) == (1, 1)
