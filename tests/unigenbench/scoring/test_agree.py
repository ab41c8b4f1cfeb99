"""Judges against each other, and a cheap one's scores corrected by a better one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_made import JUDGE, case_b, judgement, log, prompt, prompt_set, run

from unigenbench.errors import InputError
from unigenbench.scoring.agree import agree, corrected, rank_agreement

OTHER = {"id": "ba9876543210", "spec": {"kind": "test", "model": "another"}}


def test_agreement_by_hand():
    # one test point in each of 8 prompts: A = 1 1 0 0 1 0 1 1, B = 1 0 0 0 1 1 1 1; kappa 14/30
    first, second = [1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 1, 1]
    prompts = prompt_set([prompt(i, "Style") for i in range(8)])
    logs = [
        run(prompts, lambda i, j, k: first[i], images=1),
        run(prompts, lambda i, j, k: second[i], images=1, judge=OTHER),
    ]
    found = agree(logs, bootstrap=500)
    for entry in (found["pairs"][0]["overall"]["all"], found["pairs"][0]["criteria"]["style"]):
        assert (entry["both"], entry["only_first"], entry["only_second"], entry["neither"]) == (4, 1, 1, 2)
        assert entry["kappa"] == pytest.approx(14 / 30)
        assert entry["kappa_ci"][0] < 14 / 30 < entry["kappa_ci"][1]
    assert found["pairs"][0]["dimensions"]["text"]["kappa"] is None
    # alpha of two raters: 16 answers, 10 of them 1; 2 of 8 units unequal: 1 - 15 * (2 * 2) / (2 * 10 * 6)
    assert found["krippendorff_alpha"] == pytest.approx(1 - 15 * 4 / 120)
    assert [judge["judge"] for judge in found["judges"]] == ["none", "another"]


def test_a_judge_agrees_with_itself():
    made = run(prompt_set([prompt(i, "Style", "Text Generation") for i in range(10)]), case_b)
    found = agree([made, made, made], bootstrap=50)
    assert len(found["pairs"]) == 3
    assert all(pair["overall"]["all"]["kappa"] == 1 for pair in found["pairs"])
    assert found["krippendorff_alpha"] == 1


def test_other_images_and_failures_are_left_out_and_counted():
    prompts = prompt_set([prompt(i, "Style") for i in range(6)])
    first = run(prompts, case_b, images=1)
    changed = [
        replace(old, image_sha256="f" * 64)
        if old.prompt_index == 0
        else judgement(prompts.prompts[1], 0, None, "refused")
        if old.prompt_index == 1
        else old
        for old in first.judgements
    ]
    found = agree([first, log(prompts, changed, images=1, judge=OTHER)], bootstrap=20)
    pair = found["pairs"][0]
    assert (pair["images"], pair["other_image"], pair["only_first"], pair["only_second"]) == (4, 1, 1, 0)


def test_another_image_is_no_disagreement():
    # alpha is that of the images both were shown
    prompts = prompt_set([prompt(i, "Style", "Text Generation") for i in range(6)])
    first, second = run(prompts, case_b, images=1), run(prompts, lambda i, j, k: i % 2, images=1, judge=OTHER)
    one, *rest = second.judgements
    other = log(prompts, [replace(one, image_sha256="f" * 64), *rest], images=1, judge=OTHER)
    without = log(prompts, rest, images=1, judge=OTHER)
    alphas = [agree([first, one], bootstrap=5)["krippendorff_alpha"] for one in (second, other, without)]
    assert alphas[1] == alphas[2] != alphas[0]
    assert corrected(first, other, bootstrap=5)["images_shared"] == 5


def test_an_image_that_is_not_known_is_taken_for_the_one_of_its_name():
    # an import does not hash images that are elsewhere
    prompts = prompt_set([prompt(i, "Style") for i in range(6)])
    first = run(prompts, case_b, images=1)
    unknown = [replace(one, image_sha256="") for one in first.judgements]
    assert agree([first, log(prompts, unknown, images=1)], bootstrap=5)["pairs"][0]["images"] == 6
    other = [replace(one, image_sha256="f" * 64) for one in first.judgements]
    with pytest.raises(InputError, match="6 have the same number, none is of the same images and prompts"):
        agree([first, log(prompts, other, images=1)], bootstrap=5)


def test_the_interval_of_a_dimension_pools_its_criteria():
    # one table of answers, once under two criteria of a dimension and once under one of them
    found = []
    for labels in (("Attribute - Color", "Attribute - Size"), ("Attribute - Color", "Attribute - Color")):
        prompts = prompt_set([prompt(i, *labels) for i in range(12)])
        logs = [run(prompts, case_b), run(prompts, lambda i, j, k: (i * j + k) % 3 < 2, judge=OTHER)]
        found.append(agree(logs, bootstrap=50)["pairs"][0])
    assert found[0]["dimensions"]["attribute"] == found[1]["dimensions"]["attribute"]
    assert found[0]["criteria"]["attribute.color"] != found[1]["criteria"]["attribute.color"]


def test_judges_are_named_by_model_or_name():
    prompts = prompt_set([prompt(i, "Style") for i in range(3)])
    shapes = {"id": "0" * 12, "name": "shapes", "spec": {"kind": "shapes"}}
    found = agree([run(prompts, case_b), run(prompts, case_b, judge=shapes)], bootstrap=5)
    assert found["judges"] == [
        {"run": "runs/made", "judge": "none", "judge_id": JUDGE["id"], "judged": 12},
        {"run": "runs/made", "judge": "shapes", "judge_id": "0" * 12, "judged": 12},
    ]


def test_three_judges_with_gaps():
    # the third has judged half; alpha is that of the matrix with gaps
    from unigenbench.statistics import krippendorff_alpha

    prompts = prompt_set([prompt(i, "Style") for i in range(12)])
    answers = np.array([[(i * k + i) % 3 == 0 for i in range(12)] for k in (1, 2, 4)], float)
    answers[2, 6:] = np.nan
    logs = [run(prompts, lambda i, j, k, a=a: int(a[i]), images=1) for a in answers[:2]]
    half = [judgement(prompts.prompts[i], 0, [int(answers[2, i])]) for i in range(6)]
    found = agree([*logs, log(prompts, half, images=1)], bootstrap=20)
    assert found["krippendorff_alpha"] == pytest.approx(krippendorff_alpha(answers))


def test_one_run_is_no_agreement():
    with pytest.raises(InputError, match="two or more"):
        agree([run(prompt_set([prompt(0, "Style")]), case_b)])


def test_a_biased_judge_is_corrected_to_the_truth():
    # truth: 2 of 5 images; the judge says yes to 9 of 10 true ones and to 2 of 10 others. 200 prompts, trusted on 100
    prompts = prompt_set([prompt(i, "Style") for i in range(200)])

    def truth(i, j, k):
        return int(i % 5 < 2)

    def cheap(i, j, k):
        return int((i // 5) % 10 < 9) if truth(i, j, k) else int((i // 5) % 10 < 2)

    whole = run(prompts, cheap, images=1)
    part = run(prompt_set(prompts.prompts[:100]), truth, images=1, judge=OTHER)
    entry = corrected(whole, part, bootstrap=500)["dimensions"]["style"]
    # 40 of 200 in each tenth: rate = 0.4 * 0.9 + 0.6 * 0.2 = 0.48
    assert entry["rate"] == pytest.approx(0.48)
    assert entry["sensitivity"] == pytest.approx(0.9)
    assert entry["specificity"] == pytest.approx(0.8)
    assert entry["corrected"] == pytest.approx(0.4)
    assert entry["ci"][0] < 0.4 < entry["ci"][1]
    assert entry["refused"] is None


def test_a_corrected_dimension_pools_its_criteria():
    # of 40 prompts a half is good; the judge says yes to 9 of 10 good ones and to 1 of 10 others, in both criteria
    prompts = prompt_set([prompt(i, "Attribute - Color", "Attribute - Size") for i in range(40)])
    whole = run(prompts, lambda i, j, k: i % 2 ^ (i // 2 % 10 == 0), images=1)
    trusted = run(prompts, lambda i, j, k: i % 2, images=1, judge=OTHER)
    found = corrected(whole, trusted, bootstrap=50)
    for entry in (found["overall"]["all"], found["dimensions"]["attribute"], found["criteria"]["attribute.size"]):
        assert (entry["rate"], entry["sensitivity"], entry["specificity"]) == (0.5, 0.9, 0.9)
        assert entry["corrected"] == pytest.approx(0.5)


def test_a_corrected_rate_stays_a_share():
    # yes to 5 of 8 good images of the part and to all of the rest: the formula alone says 0.875 / 0.625
    prompts = prompt_set([prompt(i, "Style") for i in range(24)])
    whole = run(prompts, lambda i, j, k: i >= 3 and i != 8, images=1)
    trusted = run(prompt_set(prompts.prompts[:9]), lambda i, j, k: i < 8, images=1, judge=OTHER)
    entry = corrected(whole, trusted, bootstrap=200)["dimensions"]["style"]
    assert entry["corrected"] == entry["ci"][1] == 1
    assert 0 < entry["ci"][0] < 1


def test_a_judge_that_guesses_is_not_corrected():
    prompts = prompt_set([prompt(i, "Style") for i in range(40)])
    whole = run(prompts, lambda i, j, k: i % 2, images=1)
    trusted = run(prompts, lambda i, j, k: i // 2 % 2, images=1, judge=OTHER)
    found = corrected(whole, trusted, bootstrap=20)
    assert found["dimensions"]["style"]["corrected"] is None
    assert "too poorly" in found["dimensions"]["style"]["refused"]
    assert found["dimensions"]["text"]["refused"] == "no shared test points of both verdicts"


def test_ranks_of_models_by_hand():
    # three models; the second judge exchanges two of them: of three pairs two agree, (2 - 1) / 3
    prompts = prompt_set([prompt(i, "Style") for i in range(10)])
    scores = {"a": (2, 3), "b": (5, 4), "c": (8, 2)}
    logs = [
        run(prompts, lambda i, j, k, s=pair[place]: int(i < s), images=1, judge=judge, folder={"root": name})
        for judge, place in ((JUDGE, 0), (OTHER, 1))
        for name, pair in scores.items()
    ]
    found = rank_agreement(logs)
    assert found["judges"] == [JUDGE["id"], OTHER["id"]]
    assert found["models"]["b"] == [0.5, 0.4]
    assert found["kendall_tau"] == pytest.approx((1 - 2) / 3)
    with pytest.raises(InputError, match="runs of 1 judges"):
        rank_agreement(logs[:3])
    # an order needs two models that both have judged
    assert rank_agreement([*logs[:2], *logs[3:5]])["kendall_tau"] == 1
    with pytest.raises(InputError, match="1 folders of images judged by both; an order needs two"):
        rank_agreement([*logs[:2], *logs[4:]])
