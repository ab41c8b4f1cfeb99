"""The published rows, and who may stand beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import case_b, prompt, prompt_set, run

from unigenbench.errors import InputError
from unigenbench.scoring.leaderboard import FILE, OPEN_JUDGE, read_board, standing
from unigenbench.scoring.scores import summarise
from unigenbench.taxonomy import CRITERIA, DIMENSIONS

FAIR = {
    "judge": {"name": "gemini:gemini-2.5-pro", "spec": {"kind": "openai", "model": "gemini-2.5-pro"}, "id": "1" * 12},
    "rubric": {"id": "official-gemini", "sha256": "c" * 64},
    "comparable": True,
    "banner": None,
}


def made(prompts: dict | None = None, **manifest):
    """A run that may stand beside the board, but for what is said."""
    every = [prompt(i, *(criterion.name for criterion in CRITERIA[i % 27 : i % 27 + 2])) for i in range(30)]
    whole = prompt_set(every, **{"name": "en", "version": "official v1", **(prompts or {})})
    log = run(whole, case_b, **{**FAIR, **manifest})
    return log, summarise(log, bootstrap=20)


def test_the_board_is_whole():
    board = read_board()
    counts = {category: sum(row.category == category for row in board.rows) for category in board.categories}
    assert counts == {"en": 57, "en_long": 56, "zh": 47, "zh_long": 44, "en_2025_09": 26}
    assert all(list(row.dimensions) == [dimension.id for dimension in DIMENSIONS] for row in board.rows)
    assert all(list(row.criteria) == [criterion.id for criterion in CRITERIA] for row in board.rows if row.criteria)
    assert FILE.stat().st_size < 120_000
    assert "CC BY 4.0" in board.attribution


def test_overall_is_the_mean_of_ten_in_every_row_of_today():
    for row in read_board().rows:
        if row.category != "en_2025_09":  # the first board rounds otherwise in three rows
            assert row.overall == pytest.approx(sum(row.dimensions.values()) / 10, abs=0.0101), row.model


def test_rows_are_as_published():
    rows = {(row.category, row.model): row for row in read_board().rows}
    flux = rows["en", "FLUX.1-dev"]
    assert (flux.overall, flux.dimensions["text"], flux.dimensions["attribute"]) == (60.97, 32.18, 67.20)
    assert (rows["en", "SDXL"].overall, rows["en", "SDXL"].coverage) == (40.22, "512")
    assert rows["zh_long", "GPT-4o-1.5"].overall == 96.12


def test_the_best_model_comes_first():
    found = standing("en")
    assert found.rows[0].model == "GPT-4o-1.5"
    assert found.rows[-1].model == "SDXL"
    with pytest.raises(InputError, match="--category fr: no such table; there are en,"):
        standing("fr")


def test_a_fair_run_gets_its_place():
    log, summary = made()
    found = standing(None, log, summary)
    assert found.reasons == []
    assert len(found.rows) == 57
    own = 100 * summary["overall"]["macro"]
    assert found.own is not None
    assert found.own.overall == own
    assert (found.own.model, found.own.coverage) == ("model (this run)", "100.0%")
    for section, shown in (("dimensions", found.own.dimensions), ("criteria", found.own.criteria)):
        assert shown == {id: pytest.approx(100 * entry["score"]) for id, entry in summary[section].items()}
    assert found.rank == 1 + sum(row.overall > own for row in found.rows)


@pytest.mark.parametrize(
    ("prompts", "manifest", "reason"),
    [
        ({"version": "suite 1"}, {}, "prompts are 'suite 1'"),
        ({"selection": "testmini60"}, {}, r"a part of the prompts \(testmini60\)"),
        ({}, {"rubric": {"id": "native-v1", "sha256": ""}}, "wording 'native-v1'"),
        (
            {},
            {"judge": {"name": "openai:Qwen2.5-VL-7B", "spec": {}, "id": "x"}},
            "judge is openai:Qwen2.5-VL-7B, not .*shut down",
        ),
        ({}, {"folder": {"per_prompt": 1}}, "1 images per prompt"),
        ({}, {"folder": {"per_prompt": 5}}, "80.0% of its images"),
        ({}, {"comparable": False, "banner": "judged twice"}, "judged twice"),
    ],
)
def test_an_unfair_run_is_never_set_beside_the_published_rows(prompts, manifest, reason):
    log, summary = made(prompts, **manifest)
    found = standing("en", log, summary)
    assert found.rows == []
    assert found.rank is None
    assert found.own is not None
    assert re.search(reason, "; ".join(found.reasons))


def test_a_tie_shares_the_better_place():
    log, summary = made()
    second = standing("en").rows[1].overall
    tied = summary | {"overall": summary["overall"] | {"macro": second / 100}}
    found = standing(None, log, tied)
    assert found.own is not None
    assert found.own.overall == second
    assert found.rank == 2


@pytest.mark.parametrize(("judged", "fair"), [(0.99, True), (0.9899, False)])
def test_99_percent_of_the_images_are_enough(judged: float, fair: bool):
    log, summary = made()
    found = standing(None, log, summary | {"coverage": {"share": judged}})
    assert found.reasons == ([] if fair else ["99.0% of its images have verdicts, fewer than 99%"])


@pytest.mark.parametrize(("banner", "reason"), [("judged twice", "judged twice"), (None, "the run says so")])
def test_a_run_that_calls_itself_not_comparable_is_believed(banner: str | None, reason: str):
    log, summary = made(comparable=False, banner=banner)
    assert standing("en", log, summary).reasons == [reason]


def test_a_judge_without_a_name_is_known_by_its_model():
    log, summary = made(judge={"spec": {"model": "gemini-2.5-pro"}, "id": "1" * 12})
    assert standing(None, log, summary).rank is not None
    log, summary = made(judge={"spec": {"model": "another"}, "id": "1" * 12})
    assert standing(None, log, summary).reasons[0].startswith("its judge is another, not ")


def test_a_run_without_verdicts_has_no_place():
    log, _ = made()
    empty = replace(log, judgements=())
    with pytest.raises(InputError, match="runs/made: no image has a verdict"):
        standing("en", empty, summarise(empty, bootstrap=5))


def test_a_run_of_images_in_the_current_folder_is_named_by_its_own():
    log, summary = made(folder={"root": "."})
    found = standing("en", log, summary)
    assert found.own is not None
    assert found.own.model == "made (this run)"


@pytest.mark.parametrize(
    ("judge", "note"),
    [("gemini:gemini-2.5-pro", "2026-12-01 .* another model"), (f"openai:{OPEN_JUDGE}", "imitates gemini.*91 %.*32 B")],
)
def test_a_fair_run_is_told_what_cannot_be_compared(judge, note):
    log, summary = made(judge={"name": judge, "spec": {}, "id": "1" * 12})
    found = standing(None, log, summary)
    assert found.rank is not None
    assert re.search(note, " ".join(found.notes))


def test_another_judge_is_told_which_ones_there_are_and_when_that_was_reported():
    log, summary = made(judge={"name": "openai:Qwen2.5-VL-7B", "spec": {}, "id": "x"})
    [reason] = standing("en", log, summary).reasons
    assert all(text in reason for text in ("gemini-2.5-pro", "2026-11-10", f"{OPEN_JUDGE} behind vLLM"))


def test_a_run_is_not_set_into_the_table_of_other_prompts():
    log, summary = made()
    found = standing("zh", log, summary)
    assert found.rows == []
    assert "its prompts are 'en', the table is of 'zh'" in found.reasons


def test_what_is_missing_must_not_count_as_zero_beside_the_board():
    log, _ = made()
    found = standing("en", log, summarise(log, missing="zero", bootstrap=5))
    assert found.rows == []


def test_the_shipped_file_names_no_prompts():
    assert "prompt_en" not in Path(FILE).read_text(encoding="utf-8")
