"""A data set of negative captions: by the exact rules of Shapes, counted, resumed, and read as training data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from captioned import image_table, rows_of

from t2ialign.data.kinds.labelled import LabelledData
from t2ialign.data.kinds.text_pairs import TextPairData
from t2ialign.errors import DataError, InputError, TryAgainError
from t2ialign.feedback.negative_captions.base import KINDS, Answer, Kind, judged
from t2ialign.feedback.negative_captions.shapes import PERTURBED, ShapesEditor
from t2ialign.feedback.negative_captions.write import describe, perturb_images
from t2ialign.shapes.caption import PERTURBATIONS, constraints, perturbations
from t2ialign.shapes.caption import prompts as shapes_prompts


class Told:
    """An editor that answers as it is told, and counts what it is asked."""

    concurrency = 1

    def __init__(self, answer, fingerprint: str = "told"):
        self.answer, self.fingerprint = answer, fingerprint
        self.asked: list[tuple[str, str]] = []

    def __call__(self, prompt: str, kind: Kind, seed: int) -> Answer:
        self.asked.append((prompt, kind))
        return self.answer(prompt, kind)


def test_the_kinds_cover_every_perturbation_of_shapes_once():
    assert sorted(change for changes in PERTURBED.values() for change in changes) == sorted(PERTURBATIONS)


def test_every_negative_caption_of_shapes_states_something_else_and_is_of_its_kind():
    editor = ShapesEditor()
    for prompt in shapes_prompts("train", 64, seed=0):
        for kind in KINDS:
            answer = editor(prompt, kind, seed=1)
            allowed = set(perturbations(prompt)) & set(PERTURBED[kind])
            assert answer.outcome == ("written" if allowed else "inapplicable")
            if allowed:
                assert set(constraints(answer.text)) != set(constraints(prompt))


def test_another_language_than_that_of_shapes_is_told():
    with pytest.raises(DataError, match=r"'a photo of a dog' is not a caption of Shapes; .* --by english"):
        ShapesEditor()("a photo of a dog", "content", 0)


def test_the_table_is_what_text_pairs_and_labelled_read(tmp_path: Path):
    prompts = shapes_prompts("train", 24, seed=0)
    done = perturb_images(image_table(tmp_path / "in", prompts), tmp_path / "out", ShapesEditor(), per_image=2)
    rows = rows_of(done.table)
    totals = done.totals
    assert (totals.images, totals.covered + totals.left_out, totals.rows) == (24, 24, len(rows))
    assert totals.asked == sum(totals.outcomes.values())
    assert totals.outcomes["written"] == len(rows)
    assert totals.kinds == Counter(row["kind"] for row in rows)
    assert max(Counter(row["image"] for row in rows).values()) == 2
    assert len({(row["image"], row["kind"]) for row in rows}) == len(rows)
    source = TextPairData(path=tmp_path / "out").open()
    assert [source[i].prompts for i in range(len(source))] == [(row["prompt"], row["mismatched"]) for row in rows]
    liked = LabelledData(path=tmp_path / "out").open()
    assert len(liked) == 2 * len(rows)
    number = prompts.index(rows[0]["prompt"])
    assert (tmp_path / "out" / rows[0]["image"]).read_bytes() == (tmp_path / "in" / f"{number}.png").read_bytes()


def test_of_pairs_the_preferred_images_are_taken_and_once(tmp_path: Path):
    image_table(tmp_path / "in", ["a red circle", "a red circle", "a red circle"])
    (tmp_path / "in" / "images.csv").unlink()
    pairs = tmp_path / "in" / "pairs.csv"
    pairs.write_text("prompt,chosen,rejected\na red circle,0.png,1.png\na red circle,0.png,2.png\n")
    done = perturb_images(pairs, tmp_path / "out", ShapesEditor())
    assert (done.totals.images, done.totals.rows) == (1, 1)


def test_what_is_no_negative_caption_is_counted_and_never_written(tmp_path: Path):
    texts = {"a red car": "A red car.", "a red dog": "a crimson dog", "a red hat": "a blue hat", "a red cup": ""}
    editor = Told(lambda prompt, kind: judged(prompt, texts[prompt]))
    done = perturb_images(image_table(tmp_path / "in", list(texts)), tmp_path / "out", editor, kinds=["attribute"])
    assert [row["mismatched"] for row in rows_of(done.table)] == ["a blue hat"]
    outcomes = {"written": 1, "inapplicable": 0, "unchanged": 1, "near_synonym": 1, "malformed": 1, "failed": 0}
    assert done.totals.outcomes == outcomes
    assert describe(done).splitlines()[:2] == [
        "4 images: 1 with a negative caption, 3 left out",
        "4 questions: 1 written, 0 inapplicable, 1 unchanged, 1 near synonym, 1 malformed, 0 failed",
    ]


def test_another_kind_is_tried_where_one_gives_nothing(tmp_path: Path):
    editor = Told(lambda p, kind: Answer("written", "a cat") if kind == "context" else Answer("inapplicable", ""))
    done = perturb_images(image_table(tmp_path / "in", ["a dog"]), tmp_path / "out", editor)
    assert done.totals.kinds == {"context": 1}
    assert len(editor.asked) == done.totals.asked <= 4


def test_the_kinds_come_about_equally_often(tmp_path: Path):
    table = image_table(tmp_path / "in", [f"prompt {i}" for i in range(60)])
    done = perturb_images(table, tmp_path / "out", Told(lambda p, kind: Answer("written", f"other {p} {kind}")))
    # 60 draws of 4 kinds: 15 each, standard deviation 3.4; within 4 of them
    assert all(1 < done.totals.kinds[kind] < 29 for kind in KINDS)


def test_too_many_failures_write_nothing_and_the_same_call_asks_for_those_alone(tmp_path: Path):
    table = image_table(tmp_path / "in", ["a dog", "a cow", "a pig", "a hen"])
    bad = {"a pig"}
    editor = Told(lambda p, kind: Answer("failed", "HTTP 500") if p in bad else Answer("written", f"not {p}"))
    with pytest.raises(TryAgainError, match=r"1 of 4 questions have no answer, at most 5% may fail; .* HTTP 500"):
        perturb_images(table, tmp_path / "out", editor, kinds=["content"])
    assert not (tmp_path / "out" / "text_pairs.csv").exists()
    bad.clear()
    editor.asked.clear()
    done = perturb_images(table, tmp_path / "out", editor, kinds=["content"])
    assert editor.asked == [("a pig", "content")]
    assert done.totals.rows == 4


def test_a_server_that_is_gone_ends_the_run_and_the_answers_before_are_kept(tmp_path: Path):
    table = image_table(tmp_path / "in", [f"a dog {i}" for i in range(50)])
    editor = Told(lambda p, kind: Answer("written", "a cat") if len(editor.asked) <= 5 else Answer("failed", "gone"))
    with pytest.raises(TryAgainError, match="30 questions in a row have no answer, the last: gone"):
        perturb_images(table, tmp_path / "out", editor)
    assert len(editor.asked) == 35  # one a prompt: a failure is not covered up by another kind
    assert len((tmp_path / "out" / ".answers.journal").read_text().splitlines()) == 5


def test_a_few_failures_are_counted_and_left_out(tmp_path: Path):
    table = image_table(tmp_path / "in", ["a dog", "a cow"])
    editor = Told(lambda p, kind: Answer("failed", "no") if p == "a cow" else Answer("written", "a cat"))
    done = perturb_images(table, tmp_path / "out", editor, kinds=["content"], max_failed=0.5)
    assert (done.totals.outcomes["failed"], done.totals.left_out) == (1, 1)
    assert [row["prompt"] for row in rows_of(done.table)] == ["a dog"]


def test_a_stop_loses_no_answer_and_a_torn_line_is_dropped(tmp_path: Path):
    table = image_table(tmp_path / "in", ["a dog", "a cow", "a pig"])

    def stops(prompt: str, kind: Kind) -> Answer:
        if prompt == "a pig":
            raise KeyboardInterrupt
        return Answer("written", f"not {prompt}")

    with pytest.raises(KeyboardInterrupt):
        perturb_images(table, tmp_path / "out", Told(stops), kinds=["content"])
    with (tmp_path / "out" / ".answers.journal").open("a") as file:
        file.write('{"prompt": "a p')
    again = Told(lambda p, kind: Answer("written", f"not {p}"))
    perturb_images(table, tmp_path / "out", again, kinds=["content"])
    assert again.asked == [("a pig", "content")]


def test_a_finished_folder_says_so_and_other_settings_are_refused(tmp_path: Path):
    table = image_table(tmp_path / "in", ["a red circle"])
    perturb_images(table, tmp_path / "out", ShapesEditor())
    assert perturb_images(table, tmp_path / "out", ShapesEditor()).was_finished
    with pytest.raises(InputError, match="was built with seed 0, not 1"):
        perturb_images(table, tmp_path / "out", ShapesEditor(), seed=1)
    with pytest.raises(InputError, match="was built with editor"):
        perturb_images(table, tmp_path / "out", Told(lambda p, k: Answer("written", "x")))
    (tmp_path / "out" / "perturb.json").write_text("{")
    with pytest.raises(DataError, match="not the record of a finished folder"):
        perturb_images(table, tmp_path / "out", ShapesEditor())


def test_nothing_to_change_at_all_is_told(tmp_path: Path):
    table = image_table(tmp_path / "in", ["a dog"])
    with pytest.raises(DataError, match="for any of 1 prompts; 4 inapplicable"):
        perturb_images(table, tmp_path / "out", Told(lambda p, k: Answer("inapplicable", "")))


@pytest.mark.parametrize("kinds", [[], ["colour"], ["content", "content"]])
def test_kinds_are_checked(kinds: list, tmp_path: Path):
    with pytest.raises(InputError, match="give each of content, attribute, relation, context at most once"):
        perturb_images(tmp_path, tmp_path / "out", ShapesEditor(), kinds=kinds)


def test_images_inside_a_table_are_written_out_and_equal_ones_once(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_table(tmp_path / "in", ["a red circle"])
    content = (tmp_path / "in" / "0.png").read_bytes()
    table = pa.table({"jpg": [content] * 2, "prompt": ["a red circle"] * 2})
    pq.write_table(table, tmp_path / "images.parquet")
    done = perturb_images(tmp_path / "images.parquet", tmp_path / "out", ShapesEditor())
    assert (tmp_path / "out" / rows_of(done.table)[0]["image"]).read_bytes() == content
    assert json.loads((tmp_path / "out" / "perturb.json").read_text())["totals"]["rows"] == 1
