"""Scores against numbers that the official script was seen to give, and against counting by hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import case_a_prompts, case_b, judgement, log, prompt, prompt_set, run, write_case_a

from unigenbench.errors import DataError, InputError
from unigenbench.prompts import read_prompts
from unigenbench.scoring.counts import count_run, length_bins
from unigenbench.scoring.official import import_official
from unigenbench.scoring.scores import per_prompt, summarise

OFFICIAL = os.environ.get("UNIGENBENCH_DATA")
needs_official = pytest.mark.skipif(
    not OFFICIAL, reason="UNIGENBENCH_DATA is not set: the official prompt files are not there to be counted"
)


def fractions(section) -> dict[str, str]:
    return {id: f"{entry['correct']}/{entry['total']}" for id, entry in section.items() if entry["total"]}


@pytest.fixture
def case_a(tmp_path: Path):
    return import_official(write_case_a(tmp_path / "m_en.csv"), case_a_prompts(), tmp_path / "run", judge="someone")


def test_case_a_by_the_official_rules(case_a):
    summary = summarise(case_a, compat="official", bootstrap=50)
    assert fractions(summary["dimensions"]) == {
        "style": "3/4", "world_knowledge": "3/4", "attribute": "6/10", "action": "3/6",
        "logical_reasoning": "1/3", "text": "1/3",
    }  # fmt: skip
    assert fractions(summary["criteria"]) == {
        "style": "3/4", "world_knowledge": "3/4", "attribute.quantity": "4/7", "attribute.color": "2/3",
        "action.hand": "2/3", "action.non_contact": "1/3", "logical_reasoning": "1/3", "text": "1/3",
    }  # fmt: skip
    primary = summary["official"]["primary_dimensions"]
    assert {name: entry["accuracy"] for name, entry in primary.items()} == {
        "Style": 0.75, "World Knowledge": 0.75, "Attribute ": 0.6, "Logical Reasoning": 0.3333,
        "Action ": 0.5, "Text Generation": 0.3333,
    }  # fmt: skip
    assert "2 of 12 rows" in " ".join(summary["warnings"])


def test_case_a_by_our_rules(case_a):
    summary = summarise(case_a, bootstrap=50)
    assert fractions(summary["dimensions"]) == {
        "style": "3/4", "world_knowledge": "3/4", "attribute": "6/10", "action": "4/6",
        "logical_reasoning": "1/3", "text": "3/3",
    }  # fmt: skip
    assert fractions(summary["criteria"]) == {
        "style": "3/4", "world_knowledge": "3/4", "attribute.quantity": "4/7", "attribute.color": "2/3",
        "action.hand": "3/3", "action.non_contact": "1/3", "logical_reasoning": "1/3", "text": "3/3",
    }  # fmt: skip
    assert summary["coverage"]["failed_by_status"] == {"parse_failed": 2}
    assert (summary["coverage"]["judged"], summary["coverage"]["images_expected"]) == (10, 12)
    assert (summary["coverage"]["testpoints_scored"], summary["coverage"]["testpoints_expected"]) == (30, 36)
    # six of ten dimensions: (3/4 + 3/4 + 6/10 + 4/6 + 1/3 + 1) / 6
    assert summary["overall"]["macro"] == pytest.approx((0.75 + 0.75 + 0.6 + 4 / 6 + 1 / 3 + 1) / 6, abs=1e-12)
    assert summary["overall"]["n_dimensions"] == 6
    assert summary["overall"]["micro"] == pytest.approx((3 + 3 + 6 + 4 + 1 + 3) / 30)


def test_case_a_with_what_is_missing_as_zero(case_a):
    summary = summarise(case_a, missing="zero", bootstrap=50)
    assert fractions(summary["criteria"]) == {
        "style": "3/4", "world_knowledge": "3/4", "attribute.quantity": "4/8", "attribute.color": "2/4",
        "action.hand": "3/4", "action.non_contact": "1/4", "logical_reasoning": "1/4", "text": "3/4",
    }  # fmt: skip
    assert fractions(summary["dimensions"])["attribute"] == "6/12"
    assert fractions(summary["dimensions"])["action"] == "4/8"


def test_what_is_missing_can_be_an_error(case_a):
    with pytest.raises(DataError, match=r"2 of 12 images have no verdict \(2 parse_failed\)"):
        summarise(case_a, missing="error")
    with pytest.raises(InputError, match="does not go with --missing zero"):
        summarise(case_a, missing="zero", compat="official")


CASE_B = {
    "style": "634/1000", "world_knowledge": "396/632", "attribute": "601/936", "action": "677/1052",
    "relationship": "513/788", "compound": "489/776", "grammar": "477/748", "logical_reasoning": "272/436",
    "layout": "328/536", "text": "219/348",
}  # fmt: skip
CASE_B_CRITERIA = {
    "action.animal": "85/136", "action.contact": "107/168", "action.full_body": "122/184", "action.hand": "95/156",
    "action.non_contact": "125/196", "action.state": "143/212", "attribute.color": "79/120",
    "attribute.expression": "101/156", "attribute.material": "137/212", "attribute.quantity": "94/144",
    "attribute.shape": "100/160", "attribute.size": "90/144", "compound.feature_matching": "238/384",
    "compound.imagination": "251/392", "layout.three_d": "162/264", "layout.two_d": "166/272",
    "grammar.consistency": "139/216", "grammar.negation": "164/260", "grammar.pronoun_reference": "174/272",
    "relationship.comparison": "82/128", "relationship.composition": "197/296", "relationship.inclusion": "119/184",
    "relationship.similarity": "115/180",
}  # fmt: skip


@needs_official
@pytest.mark.parametrize("compat", ["native", "official"])
@pytest.mark.parametrize("category", ["en", "zh"])
def test_case_b_on_the_official_file(category, compat):
    prompts = read_prompts(Path(OFFICIAL or "") / f"test_prompts_{category}.csv")
    summary = summarise(run(prompts, case_b), compat=compat, bootstrap=200)
    assert fractions(summary["dimensions"]) == CASE_B
    criteria = fractions(summary["criteria"])
    assert {id: value for id, value in criteria.items() if "." in id} == CASE_B_CRITERIA
    assert len(criteria) == 27
    assert (summary["overall"]["correct"], summary["overall"]["total"]) == (4606, 7252)
    assert summary["overall"]["macro"] == pytest.approx(0.6330186674, abs=5e-11)
    assert summary["overall"]["micro"] == 4606 / 7252
    assert summary["coverage"]["share"] == 1.0
    assert sum(entry["total"] for entry in summary["themes"].values()) == 7252
    assert len(summary["subthemes"]) == 20
    assert len(summary["subjects"]) == 5
    assert len(summary["structures"]) == 2
    assert set(summary["testpoint_counts"]) == {"1", "2", "3", "4", "5"}
    low, high = summary["overall"]["ci"]
    assert low < 0.6330186674 < high


@pytest.mark.parametrize("compat", ["native", "official"])
def test_case_b_on_a_file_of_our_own(compat, tmp_path: Path):
    # the same rule on a CSV written here: every count is made a second time, by plain loops
    labels = [
        "Style",
        "Attribute - Color",
        "Attribute - Size",
        "Action - State",
        "Entity Layout - Two-Dimensional Space",
    ]
    file = tmp_path / "own.csv"
    lines = ["index,prompt_en,sub_dims_en"]
    for index in range(30):
        mine = [labels[(index + place) % 5] for place in range(1 + index % 4)]
        points = ", ".join(f'""{label}""' for label in mine)
        told = ", ".join('""x""' for _ in mine)
        lines.append(
            f'{index},"picture {index}","{{""Primary Categories"": ""Art"", ""Secondary Categories"": ""Graphic Art"", '
            f'""Subjects"": ""Animal"", ""Sentence Structure"": ""Descriptive"", ""Testpoints"": [{points}], '
            f'""Testpoint Description"": [{told}]}}"'
        )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts: dict[str, list[int]] = {label: [0, 0] for label in labels}
    for index in range(30):
        for image in range(4):
            for place in range(1 + index % 4):
                entry = counts[labels[(index + place) % 5]]
                entry[0] += (7 * index + 3 * image + 5 * place) % 11 < 7
                entry[1] += 1

    summary = summarise(run(read_prompts(file), case_b), compat=compat, bootstrap=50)

    expected = {
        "style": counts["Style"],
        "attribute": [sum(pair) for pair in zip(counts["Attribute - Color"], counts["Attribute - Size"], strict=True)],
        "action": counts["Action - State"],
        "layout": counts[labels[4]],
    }
    assert fractions(summary["dimensions"]) == {id: f"{good}/{all}" for id, (good, all) in expected.items()}
    assert summary["overall"]["macro"] == pytest.approx(sum(good / all for good, all in expected.values()) / 4)
    assert summary["overall"]["total"] == sum(pair[1] for pair in counts.values())


def test_a_dimension_pools_its_criteria():
    # Color 1 of 1, Size 0 of 3: pooled 1/4, where the mean of the two would be 1/2
    prompts = prompt_set([prompt(0, "Attribute - Color"), *(prompt(i, "Attribute - Size") for i in (1, 2, 3))])
    summary = summarise(run(prompts, lambda index, *_: index == 0, images=1), bootstrap=10)
    assert summary["dimensions"]["attribute"]["score"] == 1 / 4


def test_a_criterion_that_is_twice_in_a_prompt_counts_twice():
    prompts = prompt_set([prompt(0, "Attribute - Color", "Attribute - Color")])
    summary = summarise(run(prompts, lambda index, image, place: place, images=2), bootstrap=10)
    assert fractions(summary["criteria"]) == {"attribute.color": "2/4"}


def test_standard_error_and_interval_agree_on_many_prompts():
    # a bootstrap over 200 prompts spreads as the clustered error says, for a dimension and for the mean of dimensions
    prompts = prompt_set([prompt(i, "Style", "Text Generation", "Attribute - Color") for i in range(200)])
    summary = summarise(run(prompts, lambda i, j, k: (i * (k + 3) + i * i) % 7 < 3), bootstrap=2000)
    for score, error, (low, high) in [
        (
            summary["dimensions"]["style"]["score"],
            summary["dimensions"]["style"]["se"],
            summary["dimensions"]["style"]["ci"],
        ),
        (summary["overall"]["macro"], summary["overall"]["se"], summary["overall"]["ci"]),
        (summary["overall"]["micro"], summary["overall"]["micro_se"], summary["overall"]["micro_ci"]),
    ]:
        assert low < score < high
        assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.06)


def test_error_and_interval_are_of_prompts_not_of_verdicts():
    # all 4 images x 3 test points of a prompt say the same: 20 prompts of 10 good, error sqrt(20/19) * sqrt(0.25 / 20)
    prompts = prompt_set([prompt(i, "Style", "Style", "Style") for i in range(20)])
    summary = summarise(run(prompts, lambda i, j, k: i % 2), bootstrap=10)
    assert summary["dimensions"]["style"]["se"] == pytest.approx((20 / 19 * 0.25 / 20) ** 0.5)


def test_a_bootstrap_is_the_same_for_the_same_seed():
    made = run(prompt_set([prompt(i, "Style") for i in range(30)]), case_b)
    once, again, other = (summarise(made, seed=seed, bootstrap=100) for seed in (3, 3, 4))
    assert once == again
    assert once["overall"]["ci"] != other["overall"]["ci"]


def test_a_failed_call_is_no_number():
    prompts = prompt_set([prompt(i, "Style") for i in range(4)])
    judged = [judgement(p, 0, [1] if p.index < 2 else None, "transport_failed") for p in prompts.prompts]
    summary = summarise(log(prompts, judged, images=1), bootstrap=50)
    assert summary["dimensions"]["style"]["score"] == 1.0
    assert summary["dimensions"]["style"]["total"] == 2
    assert summary["dimensions"]["style"]["expected"] == 4
    assert summary["coverage"]["share"] == 0.5
    assert summary["coverage"]["failed_by_status"] == {"transport_failed": 2}


def test_a_run_without_verdicts_has_no_scores():
    prompts = prompt_set([prompt(0, "Style"), prompt(1, "Text Generation")])
    summary = summarise(log(prompts, []), bootstrap=20)
    assert summary["overall"]["macro"] is None
    assert summary["overall"]["ci"] is None
    assert summary["dimensions"]["style"]["score"] is None
    assert summary["per_prompt"]["all_pass_image_rate"] is None
    assert summary["coverage"]["share"] == 0.0


def test_an_interval_on_few_prompts_is_warned_of():
    few = run(prompt_set([prompt(i, "Style") for i in range(5)]), case_b)
    assert any("5 prompts" in warning for warning in summarise(few, bootstrap=10)["warnings"])


def test_warnings_name_dimensions_as_readers_know_them():
    one = run(prompt_set([prompt(0, "Style", "Text Generation")]), case_b)
    few, empty = summarise(one, bootstrap=10)["warnings"]
    assert few == "intervals rest on 1 prompt and are too narrow; have at least 20"
    assert empty.startswith("no test points of World Knowledge, Attribute, ")
    assert empty.endswith(": the overall score is the mean of 2 dimensions")


def test_views_of_prompts_by_hand():
    # rows: all four pass; one passes; none; one not judged
    import numpy as np

    views = per_prompt(np.array([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, -1]]))
    assert views["all_pass_image_rate"] == (4 + 1 + 0 + 3) / 15
    assert views["any_of_k"] == 2 / 3
    assert views["all_of_k"] == 1 / 3
    assert (views["k"], views["prompts"], views["images"]) == (4, 3, 15)


def test_an_image_passes_with_all_its_test_points():
    prompts = prompt_set([prompt(0, "Style", "Text Generation")])
    verdicts = [[1, 1], [1, 0], [0, 0], [1, 1]]
    counts = count_run(log(prompts, [judgement(prompts.prompts[0], i, v) for i, v in enumerate(verdicts)]))
    assert counts.passed.tolist() == [[1, 0, 0, 1]]


def test_themes_are_pooled_and_a_subtheme_is_named_by_its_theme():
    prompts = prompt_set(
        [
            prompt(0, "Style", theme="Art", subtheme="Other"),
            prompt(1, "Style", "Text Generation", theme="Creative Divergence", subtheme="Other"),
        ]
    )
    summary = summarise(run(prompts, lambda i, j, k: k == 0, images=1), bootstrap=10)
    assert fractions(summary["themes"]) == {"Art": "1/1", "Creative Divergence": "1/2"}
    assert fractions(summary["subthemes"]) == {"Art/Other": "1/1", "Creative Divergence/Other": "1/2"}
    assert fractions(summary["theme_dimensions"]) == {
        "Art/style": "1/1", "Creative Divergence/style": "1/1", "Creative Divergence/text": "0/1",
    }  # fmt: skip


def test_length_bins_are_quarters():
    texts = ["w " * length for length in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert length_bins(texts, "en") == ["1-2 words"] * 2 + ["3-4 words"] * 2 + ["5-6 words"] * 2 + ["7-8 words"] * 2
    assert length_bins(["一二三", "一二三"], "zh") == ["3-3 characters"] * 2
    assert length_bins([], "en") == []


def test_a_log_that_does_not_fit_its_prompts_is_refused():
    prompts = prompt_set([prompt(0, "Style", "Text Generation")])
    with pytest.raises(DataError, match="1 verdicts for 2 test points"):
        count_run(log(prompts, [judgement(prompts.prompts[0], 0, [1])]))
    with pytest.raises(DataError, match="no index 9"):
        count_run(log(prompts, [judgement(prompt(9, "Style"), 0, [1])]))


@pytest.mark.parametrize("compat", ["native", "official"])
def test_every_judgement_of_an_image_counts(compat):
    # three judgements of each image, two of them yes: of 3 x 3 prompts x 2 images
    prompts = prompt_set([prompt(i, "Style") for i in range(3)])
    judged = [
        replace(judgement(p, image, [min(sample, 1)]), key=f"made/{p.index}/{image}/{sample}")
        for p in prompts.prompts
        for image in range(2)
        for sample in range(3)
    ]
    summary = summarise(log(prompts, judged, images=2, folder={"samples": 3}), compat=compat, bootstrap=10)
    assert fractions(summary["dimensions"]) == {"style": "12/18"}
    assert summary["dimensions"]["style"]["expected"] == 18
    assert summary["coverage"]["share"] == 1.0
    assert summary["per_prompt"]["all_pass_image_rate"] == 0.0  # an image passes if every judgement says so
