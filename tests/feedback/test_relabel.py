"""Pairs labelled anew by a reward, with the labels they had."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import DataError, EnvironmentProblem, InputError
from t2ialign.feedback.relabel import describe, relabel_pairs
from t2ialign.rewards.base import PointwiseReward


def grey(images, prompts):
    return [None if image.getpixel((0, 0))[0] == 13 else float(image.getpixel((0, 0))[0]) for image in images]


BRIGHT = PointwiseReward("bright", grey, fingerprint="bright", batch_size=4)
LEVELS = [(200, 100), (50, 90), (70, 70), (13, 40)]
"""Grey of the chosen and of the rejected image: kept, overturned, tied, unscored."""


def table(folder: Path, levels: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    lines = ["prompt,chosen,rejected"]
    for number, pair in enumerate(levels):
        for view, level in zip("wl", pair, strict=True):
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{number}{view}.png")
        lines.append(f"prompt {number},{number}w.png,{number}l.png")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_pair_is_kept_overturned_tied_or_unscored(tmp_path: Path):
    done = relabel_pairs(table(tmp_path / "in", LEVELS), tmp_path / "out", BRIGHT, max_failed=0.2)
    assert done.totals == (4, 1, 1, 1, 1)
    rows = rows_of(done.table)
    assert [(row["prompt"], row["score_chosen"], row["score_rejected"], row["margin"]) for row in rows] == [
        ("prompt 0", "200.0", "100.0", "100.0"),
        ("prompt 1", "90.0", "50.0", "40.0"),
    ]
    assert [row["label_kept"] for row in rows] == ["1", "0"]
    assert (tmp_path / "out" / rows[1]["chosen"]).read_bytes() == (tmp_path / "in" / "1l.png").read_bytes()
    assert "1 labels kept, 1 overturned, 1 tied, 1 without a score; the labels agree in 50.0%" in describe(done)


def test_the_range_of_all_scores_is_kept_and_said_as_smoothed_labels_take_it(tmp_path: Path):
    pairs = table(tmp_path / "in", LEVELS)
    for was_finished in (False, True):
        done = relabel_pairs(pairs, tmp_path / "out", BRIGHT, max_failed=0.2)
        assert done.was_finished is was_finished
        assert done.scores == (40, 200)  # that of the unscored pair's other image too
        assert "scores from 40 to 200; for smoothed labels: objective.score_weight.score_range=160" in describe(done)
    record = json.loads((tmp_path / "out" / "relabel.json").read_text())
    del record["scores"]  # as an earlier version wrote it
    (tmp_path / "out" / "relabel.json").write_text(json.dumps(record))
    before = relabel_pairs(pairs, tmp_path / "out", BRIGHT, max_failed=0.2)
    assert (before.was_finished, before.scores) == (True, None)
    assert "smoothed" not in describe(before)


def test_the_result_is_training_data_with_scores(tmp_path: Path):
    relabel_pairs(table(tmp_path / "in", LEVELS[:2]), tmp_path / "out", BRIGHT)
    source = PairData(path=tmp_path / "out").open()
    assert [source[row].scores for row in range(2)] == [(200.0, 100.0), (90.0, 50.0)]
    curriculum_scores = PairData(path=tmp_path / "out", order="easy_first").curriculum_scores(source)
    assert curriculum_scores == [100.0, 40.0]


def test_images_of_equal_bytes_inside_a_table_are_scored_once(tmp_path: Path):
    table(tmp_path / "in", [(200, 100), (100, 50)])
    a, b, also_b, c = ((tmp_path / "in" / name).read_bytes() for name in ("0w.png", "0l.png", "1w.png", "1l.png"))
    assert b == also_b
    columns = {"prompt": ["p", "p"], "chosen": [a, b], "rejected": [b, c]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    done = relabel_pairs(tmp_path / "pairs.parquet", tmp_path / "out", BRIGHT)
    assert [(row["chosen"], row["rejected"]) for row in rows_of(done.table)] == [
        ("images/0.png", "images/1.png"),
        ("images/1.png", "images/2.png"),
    ]
    assert len((tmp_path / "out" / "images" / "scores.jsonl").read_text().splitlines()) == 3


def test_a_margin_leaves_out_what_is_close(tmp_path: Path):
    done = relabel_pairs(table(tmp_path / "in", LEVELS[:2]), tmp_path / "out", BRIGHT, margin=40)
    assert (done.totals.kept, done.totals.overturned, done.totals.tied) == (1, 0, 1)


def test_the_same_call_says_so_and_another_reward_is_refused(tmp_path: Path):
    pairs = table(tmp_path / "in", LEVELS[:2])
    relabel_pairs(pairs, tmp_path / "out", BRIGHT)
    assert relabel_pairs(pairs, tmp_path / "out", BRIGHT).was_finished
    with pytest.raises(InputError, match=r"was built with margin 0\.0, not 1"):
        relabel_pairs(pairs, tmp_path / "out", BRIGHT, margin=1)
    with pytest.raises(InputError, match="was built with reward 'bright', not 'dark'"):
        relabel_pairs(pairs, tmp_path / "out", PointwiseReward("dark", grey, fingerprint="dark", batch_size=4))


def test_too_many_failures_and_a_reward_without_preference_write_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="could not score 1 of 8 images"):
        relabel_pairs(table(tmp_path / "in", LEVELS), tmp_path / "out", BRIGHT)
    same = PointwiseReward("same", lambda images, prompts: [1.0 for _ in images], fingerprint="same", batch_size=4)
    with pytest.raises(DataError, match="'same' gave 1 to all 8 images, so it prefers none"):
        relabel_pairs(tmp_path / "in" / "pairs.csv", tmp_path / "out", same)
    assert not (tmp_path / "out" / "pairs.csv").exists()


def test_a_curriculum_needs_scores(tmp_path: Path):
    data = PairData(path=table(tmp_path / "in", LEVELS), order="easy_first")
    with pytest.raises(InputError, match=r"pairs\.csv:2: data.order is easy_first, .* data relabel"):
        data.curriculum_scores(data.open())


def test_images_of_a_failed_call_on_another_table_are_not_taken_for_this_ones(tmp_path: Path):
    def gone(images, prompts):
        raise ConnectionError("server gone")

    pairs = table(tmp_path / "in", [(200, 100), (9, 9), (50, 90)])
    with pytest.raises(EnvironmentProblem, match="reward 'bright' raised ConnectionError: server gone"):
        relabel_pairs(pairs, tmp_path / "out", PointwiseReward("bright", gone, fingerprint="bright"))
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join([lines[0], lines[1], lines[3]]) + "\n")
    relabel_pairs(pairs, tmp_path / "out", BRIGHT)
    relabel_pairs(pairs, tmp_path / "fresh", BRIGHT)
    for row, fresh in zip(
        rows_of(tmp_path / "out" / "pairs.csv"), rows_of(tmp_path / "fresh" / "pairs.csv"), strict=True
    ):
        assert row == fresh
        for view in ("chosen", "rejected"):
            assert (tmp_path / "out" / row[view]).read_bytes() == (tmp_path / "fresh" / row[view]).read_bytes()
