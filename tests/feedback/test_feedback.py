"""Scores of folders and pairs built from them: by hand, stopped anywhere, and through a model."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from t2ialign.data.kinds.lists import ListData
from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import DataError, InputError, TryAgainError
from t2ialign.feedback.build import build_pairs, describe_build, generate_pairs
from t2ialign.feedback.pairing import Pair, Pairing, combine, compare, pair_up
from t2ialign.feedback.pictures import read_pictures
from t2ialign.feedback.scoring import describe_scores, score_folder
from t2ialign.rewards.base import PointwiseReward
from t2ialign.rewards.registry import load_pointwise, load_reward
from t2ialign.storage import journal

CANDIDATES = {"a red circle": [10, 200, 90], 'two "blue", squares': [50, 50, 50], "a cross": [0, 255, 255]}
"""prompt -> grey level of each image; brightness is level / 255"""


def write_folder(folder: Path, candidates: dict[str, list[int]] | None = None) -> Path:
    """A folder as `t2ialign generate` leaves it."""
    folder.mkdir(parents=True)
    rows = []
    for index, (prompt, levels) in enumerate((candidates or CANDIDATES).items()):
        for k, level in enumerate(levels):
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{index}_{k}.png")
            rows.append({"index": index, "k": k, "prompt": prompt, "seed": k, "file": f"{index}_{k}.png"})
    (folder / "generation.json").write_text(json.dumps({"seed": 0, "images": rows}))
    return folder


def reward(function, name: str = "mine", batch_size: int = 2) -> PointwiseReward:
    return PointwiseReward(name, function, fingerprint=name, batch_size=batch_size)


def level(image: Image.Image) -> float:
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return float(pixel[0])


def grey(images, prompts):
    return [level(image) for image in images]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- which images a folder holds


def test_prompts_come_from_the_record_a_table_or_text_files(tmp_path):
    record = write_folder(tmp_path / "record")
    assert read_pictures(record)[3].prompt == 'two "blue", squares'

    table = write_folder(tmp_path / "table")
    (table / "generation.json").unlink()
    (table / "captions.csv").write_text('image,prompt\n1_0.png,"two ""blue"", squares"\n0_0.png,a red circle\n')
    assert [(p.name, p.prompt) for p in read_pictures(table)] == [
        ("1_0.png", 'two "blue", squares'),
        ("0_0.png", "a red circle"),
    ]

    texts = write_folder(tmp_path / "texts", {"x": [1], "y": [2]})
    (texts / "generation.json").unlink()
    (texts / "0_0.txt").write_text("a dog\n")
    (texts / "1_0.txt").write_text("a cat")
    assert [(p.name, p.prompt) for p in read_pictures(texts)] == [("0_0.png", "a dog"), ("1_0.png", "a cat")]


def test_a_scored_folder_of_captions_is_read_the_same_again(tmp_path):
    folder = write_folder(tmp_path / "texts", {"x": [1]})
    (folder / "generation.json").unlink()
    (folder / "0_0.txt").write_text("a dog")
    before = read_pictures(folder)
    score_folder(folder, [reward(grey)])
    assert read_pictures(folder) == before


def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match="no such folder of images"):
        read_pictures(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        read_pictures(tmp_path / "empty")
    folder = write_folder(tmp_path / "images")
    (folder / "0_1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 9 images are missing, the first .*0_1\.png"):
        read_pictures(folder)
    (folder / "generation.json").unlink()
    with pytest.raises(InputError, match="nothing says which prompt belongs to which image"):
        read_pictures(folder)
    (folder / "0_0.txt").write_text("a dog")
    with pytest.raises(DataError, match=r"7 of 8 images have no text file; first 0_2\.png"):
        read_pictures(folder)
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("image,prompt\n0_0.png,x\n")
    with pytest.raises(InputError, match=r"several tables \(a\.csv, b\.csv\)"):
        read_pictures(folder)
    (folder / "generation.json").write_text("{")
    with pytest.raises(DataError, match="not a record of generated images"):
        read_pictures(folder)


def test_a_damaged_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "images")
    content = (folder / "1_1.png").read_bytes()
    (folder / "1_1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"1_1\.png: .*; mend or remove it"):
        score_folder(folder, [reward(grey)])
    assert not (folder / "scores.jsonl").exists()


# --- scores


def test_a_folder_is_scored_with_mean_error_and_coverage(tmp_path):
    folder = write_folder(tmp_path / "images", {"a": [0, 100], "b": [200, 50]})

    def patchy(images, prompts):
        return [None if level(image) == 50 else level(image) for image in images]

    table, summaries = score_folder(folder, [reward(patchy, "patchy"), load_reward("brightness")])
    # prompts a: 0, 100 and b: 200: mean 100; residuals -100 and +100; sqrt(2 / 1 * 20000) / 3 = 200 / 3
    summary = summaries["patchy"]
    assert (summary.mean, summary.scored, summary.failed) == (100.0, 3, 1)
    assert summary.standard_error == pytest.approx(200 / 3)
    assert describe_scores(summaries).splitlines()[0] == (
        "patchy: 100 ± 66.67 (standard error), 0 to 200; 3 of 4 images scored, 1 failed"
    )
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [(row["image"], row["reward"], row["score"]) for row in rows[:4]] == [
        ("0_0.png", "patchy", 0.0),
        ("0_1.png", "patchy", 100.0),
        ("1_0.png", "patchy", 200.0),
        ("1_1.png", "patchy", None),
    ]
    assert len(rows) == 8
    assert not (folder / ".scores.jsonl.journal").exists()


def test_scores_are_not_asked_for_twice_and_failures_are_asked_for_again(tmp_path):
    folder = write_folder(tmp_path / "images")
    asked: Counter[float] = Counter()

    def flaky(images, prompts):
        asked.update(map(level, images))
        return [None if level(image) == 90 and asked[90.0] == 1 else level(image) for image in images]

    first = score_folder(folder, [reward(flaky)]).summaries["mine"]
    assert first.failed == 1
    asked_once = Counter(asked)
    second = score_folder(folder, [reward(flaky)]).summaries["mine"]
    assert second.failed == 0
    assert asked - asked_once == {90.0: 1}


def test_a_changed_image_prompt_or_reward_is_scored_again(tmp_path):
    folder = write_folder(tmp_path / "images", {"a": [10], "b": [20]})
    asked = []

    def count(images, prompts):
        asked.extend(prompts)
        return [level(image) for image in images]

    score_folder(folder, [reward(count)])
    Image.new("RGB", (8, 8), (30, 30, 30)).save(folder / "0_0.png")
    assert score_folder(folder, [reward(count)]).summaries["mine"].high == 30.0
    record = json.loads((folder / "generation.json").read_text())
    record["images"][1]["prompt"] = "c"
    (folder / "generation.json").write_text(json.dumps(record))
    score_folder(folder, [reward(count)])
    assert asked == ["a", "b", "a", "c"]
    score_folder(folder, [PointwiseReward("mine", count, fingerprint="another")])
    assert asked == ["a", "b", "a", "c", "a", "c"]


def test_scores_by_another_reward_stay_while_their_pictures_do(tmp_path):
    folder = write_folder(tmp_path / "images", {"a": [10], "b": [20]})
    score_folder(folder, [reward(grey, "first")])
    Image.new("RGB", (8, 8), (30, 30, 30)).save(folder / "0_0.png")
    table = score_folder(folder, [reward(grey, "second")]).table
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [(row["reward"], row["image"], row["score"]) for row in rows] == [
        ("first", "1_0.png", 20.0),
        ("second", "0_0.png", 30.0),
        ("second", "1_0.png", 20.0),
    ]


def test_an_interrupted_scoring_goes_on_and_a_torn_line_is_dropped(tmp_path):
    folder = write_folder(tmp_path / "images")
    asked = []

    def stops(images, prompts):
        if len(asked) >= 4:
            raise KeyboardInterrupt
        asked.extend(map(level, images))
        return grey(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        score_folder(folder, [reward(stops)])
    assert not (folder / "scores.jsonl").exists()
    journal = folder / ".scores.jsonl.journal"
    with journal.open("a") as file:
        file.write('{"image": "2_0.png", "sco')
    again: list[float] = []

    def goes_on(images, prompts):
        again.extend(map(level, images))
        return grey(images, prompts)

    summary = score_folder(folder, [reward(goes_on)]).summaries["mine"]
    # equal images under one prompt have equal bytes and are scored once: 10, 200, 90, 50, 0, 255
    assert sorted(asked + again) == [0.0, 10.0, 50.0, 90.0, 200.0, 255.0]
    assert (summary.scored, summary.high) == (9, 255.0)


def test_a_damaged_table_of_scores_is_told(tmp_path):
    folder = write_folder(tmp_path / "images")
    (folder / "scores.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"scores\.jsonl:1: not an entry with image, prompt, .*; remove the line"):
        score_folder(folder, [reward(grey)])


def test_a_full_disk_says_try_again_and_leaves_no_table(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "images")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(TryAgainError, match="the disk is full") as caught:
        score_folder(folder, [reward(grey)])
    assert caught.value.exit_code == 75
    assert not (folder / "scores.jsonl").exists()


# --- pairs


def test_best_against_worst_by_hand():
    assert compare([0, 1, 2], [0.5, 0.9, 0.1], "best_worst", seed=0) == [Pair(1, 2, 0.8)]


def test_all_pairs_by_hand():
    # 1 > 0 > 2, the failed image 3 takes no part
    assert compare([0, 1, 2, 3], [0.5, 1.0, 0.25, None], "all", seed=0) == [
        Pair(1, 0, 0.5),
        Pair(1, 2, 0.75),
        Pair(0, 2, 0.25),
    ]


def test_one_scored_image_makes_no_pair():
    assert compare([0, 1], [0.5, None], "best_worst", seed=0) == []


def test_chance_calls_either_of_two_equal_images_chosen_but_always_the_same():
    called = [compare([2 * i, 2 * i + 1], [1.0] * 400, "best_worst", seed=0)[0].chosen % 2 for i in range(200)]
    assert 70 < sum(called) < 130  # 200 fair coins: 100 +- 4 standard deviations of 7.07
    again = [compare([2 * i, 2 * i + 1], [1.0] * 400, "best_worst", seed=0)[0].chosen % 2 for i in range(200)]
    assert called == again


@pytest.mark.parametrize("keep", ["best_worst", "all"])
@pytest.mark.parametrize("ties", ["drop", "keep"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_totals_reconcile_whatever_the_scores(keep, ties, margin):
    generator = random.Random(0)
    for _ in range(50):
        prompts = [f"p{generator.randrange(5)}" for _ in range(12)]
        scores = [generator.choice([None, 0.0, 0.25, 0.5, 1.0]) for _ in prompts]
        pairs, totals = pair_up(prompts, scores, Pairing(keep, margin, ties), seed=0)
        assert totals.images == totals.scored + totals.failed == len(prompts)
        assert totals.prompts == totals.paired + totals.tied + totals.unscored == len(set(prompts))
        assert totals.comparisons == totals.decided + totals.ties
        assert totals.pairs == len(pairs) == totals.decided + (totals.ties if ties == "keep" else 0)
        for pair in pairs:
            better, worse = scores[pair.chosen], scores[pair.rejected]
            assert better is not None
            assert worse is not None
            assert prompts[pair.chosen] == prompts[pair.rejected]
            assert pair.margin == better - worse >= 0
            assert ties == "keep" or pair.margin > margin


def test_several_rewards_are_brought_to_one_scale_first():
    # a: mean 1, sd 1; b: mean 300, sd 100. 0.5 * a + 1 * b in standard deviations: -0.5 + 1, 0.5 - 1
    combined = combine({"a": [0.0, 2.0], "b": [400.0, 200.0]}, {"a": 0.5, "b": 1.0})
    assert combined == [0.5, -0.5]
    assert combine({"a": [0.0, 2.0, None], "b": [400.0, 200.0, 300.0]}, {"a": 1.0, "b": 1.0})[2] is None
    assert combine({"a": [1.0, None, 3.0]}, {"a": -2.0}) == [-2.0, None, -6.0]  # one alone keeps its scale


def test_pairs_from_a_folder_are_written_with_totals_and_read_as_training_data(tmp_path):
    images = write_folder(tmp_path / "images")
    built = build_pairs(tmp_path / "out", [load_reward("brightness")], Pairing(), images=images)
    assert rows_of(built.table) == [
        {
            "prompt": "a red circle",
            "chosen": "images/0_1.png",
            "rejected": "images/0_0.png",
            "score_chosen": repr(200 / 255),
            "score_rejected": repr(10 / 255),
            "margin": repr(200 / 255 - 10 / 255),
        },
        {
            "prompt": "a cross",
            "chosen": rows_of(built.table)[1]["chosen"],
            "rejected": "images/2_0.png",
            "score_chosen": "1.0",
            "score_rejected": "0.0",
            "margin": "1.0",
        },
    ]
    assert rows_of(built.table)[1]["chosen"] in ("images/2_1.png", "images/2_2.png")
    assert describe_build(built).splitlines()[:3] == [
        "9 images: 9 scored, 0 failed",
        "3 prompts: 2 with pairs, 1 only tied, 0 with fewer than two scored images",
        "3 comparisons: 2 decided, 1 tied",
    ]
    assert json.loads((tmp_path / "out" / "build.json").read_text())["totals"] == built.totals._asdict()
    source = PairData.model_validate({"name": "pairs", "path": tmp_path / "out"}).open()
    assert len(source) == 2
    assert source[0].scores == (200 / 255, 10 / 255)


def test_all_pairs_above_a_margin_with_ties_kept_or_dropped(tmp_path):
    images = write_folder(tmp_path / "images")
    brightness = [load_reward("brightness")]
    dropped = build_pairs(tmp_path / "a", brightness, Pairing("all", margin=0.32), images=images).totals
    # a red circle: 190 and 110 of 255 exceed 0.32 * 255 = 81.6, 80 does not; a cross: two of three
    assert (dropped.comparisons, dropped.decided, dropped.ties, dropped.pairs) == (9, 4, 5, 4)
    kept = build_pairs(tmp_path / "b", brightness, Pairing("all", margin=0.32, ties="keep"), images=images).totals
    assert (kept.decided, kept.ties, kept.pairs, kept.tied) == (4, 5, 9, 0)


def test_the_same_call_on_a_finished_folder_says_so_and_other_settings_are_refused(tmp_path):
    images = write_folder(tmp_path / "images")

    def build(pairing=Pairing(), **more):
        return build_pairs(tmp_path / "out", [load_reward("brightness")], pairing, images=images, **more)

    first = build()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    second = build()
    assert not first.was_finished
    assert second.was_finished
    assert second.totals == first.totals
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(InputError, match=r"built with keep 'best_worst', not 'all'; give another folder"):
        build(Pairing("all"))
    with pytest.raises(InputError, match="built with rewards"):
        build_pairs(tmp_path / "out", [load_reward("sharpness")], Pairing(), images=images)
    Image.new("RGB", (8, 8), "red").save(images / "0_0.png")
    with pytest.raises(InputError, match="built with other images"):
        build()


def test_an_overwritten_image_is_adopted_anew(tmp_path):
    images = write_folder(tmp_path / "images")
    brightness = [load_reward("brightness")]
    with pytest.raises(DataError, match="no pairs"):
        build_pairs(tmp_path / "out", brightness, Pairing(margin=5), images=images)
    (images / "0_0.png").unlink()
    Image.new("RGB", (8, 8), "white").save(images / "0_0.png")
    build_pairs(tmp_path / "out", brightness, Pairing(), images=images)
    assert (tmp_path / "out/images/0_0.png").read_bytes() == (images / "0_0.png").read_bytes()


def test_images_of_a_table_may_lie_elsewhere(tmp_path):
    write_folder(tmp_path / "elsewhere", {"a": [10, 90]})
    (tmp_path / "table").mkdir()
    rows = "".join(f"../elsewhere/0_{k}.png,a\n" for k in (0, 1))
    (tmp_path / "table" / "images.csv").write_text("image,prompt\n" + rows)
    built = build_pairs(tmp_path / "out", [load_reward("brightness")], Pairing(), images=tmp_path / "table")
    row = rows_of(built.table)[0]
    assert (row["chosen"], row["rejected"]) == ("images/1_0_1.png", "images/0_0_0.png")
    assert (tmp_path / "out" / row["chosen"]).is_file()


def test_flipped_labels_are_recorded_and_depend_on_seed_and_row_alone(tmp_path):
    prompts = [f"p{i // 2}" for i in range(800)]
    scores = [float(i % 2) for i in range(800)]
    clean, _ = pair_up(prompts, scores, Pairing(), seed=0)
    pairs, totals = pair_up(prompts, scores, Pairing(flip=0.2), seed=0)
    # 400 draws at 0.2: 80 flips, standard deviation 8; within 4 of them
    assert 48 <= totals.flipped == sum(pair.flipped for pair in pairs) <= 112
    for before, after in zip(clean, pairs, strict=True):
        turned = Pair(before.rejected, before.chosen, -before.margin, flipped=True)
        assert after == (turned if after.flipped else before)
    fewer, _ = pair_up(prompts[:100], scores[:100], Pairing(flip=0.2), seed=0)
    assert fewer == pairs[:50]
    more, _ = pair_up(prompts, scores, Pairing(flip=0.4), seed=0)
    assert all(pair.flipped for pair, before in zip(more, pairs, strict=True) if before.flipped)
    assert pair_up(prompts, scores, Pairing(flip=0.2), seed=1)[0] != pairs


def test_a_build_with_flips_says_which_and_is_no_other_build(tmp_path):
    images = write_folder(tmp_path / "images", {f"p{i}": [10 + i, 100 + i] for i in range(20)})
    brightness = [load_reward("brightness")]
    built = build_pairs(tmp_path / "out", brightness, Pairing(flip=0.5), images=images)
    rows = rows_of(built.table)
    assert sum(row["flipped"] == "1" for row in rows) == built.totals.flipped > 0
    assert all((float(row["score_chosen"]) < float(row["score_rejected"])) == (row["flipped"] == "1") for row in rows)
    assert f"20 pairs in {built.table}, {built.totals.flipped} with their label flipped" in describe_build(built)
    with pytest.raises(InputError, match=r"built with flip 0\.5, not None"):
        build_pairs(tmp_path / "out", brightness, Pairing(), images=images)
    assert len(PairData(path=tmp_path / "out").open()) == 20


def test_all_pairs_leave_ranked_groups_that_lists_read(tmp_path):
    images = write_folder(tmp_path / "images")
    built = build_pairs(tmp_path / "out", load_pointwise(["brightness=2"], "test"), Pairing("all"), images=images)
    rows = rows_of(tmp_path / "out" / "ranked" / "ranked.csv")
    assert [(row["image"], row["rank"]) for row in rows[:3]] == [
        ("../images/0_1.png", "1"),
        ("../images/0_2.png", "2"),
        ("../images/0_0.png", "3"),
    ]
    lists = ListData(path=tmp_path / "out" / "ranked", views=3).open()
    # a red circle: three levels; two blue squares: all equal, so none; a cross: 255 twice, once left out
    assert [(lists[i].prompts[0], lists[i].present, lists[i].scores) for i in range(len(lists))] == [
        ("a red circle", 3, (400 / 255, 180 / 255, 20 / 255)),
        ("a cross", 2, (2.0, 0.0, 0.0)),
    ]
    assert len(PairData(path=tmp_path / "out").open()) == built.totals.pairs


def test_nothing_to_pair_is_told_and_nothing_is_written(tmp_path):
    images = write_folder(tmp_path / "images")

    def refused(message, *, function=grey, pairing=Pairing(), folder=images, **more):
        with pytest.raises(DataError, match=message):
            build_pairs(tmp_path / "out", [reward(function)], pairing, images=folder, **more)
        assert not (tmp_path / "out" / "pairs.csv").exists()
        assert not (tmp_path / "out" / "build.json").exists()

    refused("'mine' gave 0.2 to all 9 images, so it prefers none", function=lambda i, p: [0.2 for _ in i])
    singles = write_folder(tmp_path / "singles", {"a": [1], "b": [2]})
    refused("each of 2 prompts has one image", folder=singles)


def test_a_margin_that_nothing_exceeds_is_told(tmp_path):
    images = write_folder(tmp_path / "images")
    with pytest.raises(DataError, match=r"of 3 prompts 3 are tied \(scores differ by no more than margin 2\)"):
        build_pairs(tmp_path / "out", [load_reward("brightness")], Pairing(margin=2), images=images)


def test_too_many_failures_stop_the_build_and_few_are_left_out(tmp_path):
    images = write_folder(tmp_path / "images")

    def patchy(images, prompts):
        return [None if level(image) == 10 else level(image) for image in images]

    mine = [reward(patchy)]
    with pytest.raises(DataError, match=r"could not score 1 of 9 images \(11%, first 0_0\.png\); at most 5% may fail"):
        build_pairs(tmp_path / "out", mine, Pairing(), images=images)
    totals = build_pairs(tmp_path / "out", mine, Pairing(), images=images, max_failed=0.2).totals
    assert (totals.failed, totals.paired) == (1, 2)
    assert rows_of(tmp_path / "out" / "pairs.csv")[0]["rejected"] == "images/0_2.png"


@pytest.mark.parametrize(
    "wrong", [{"margin": -1.0}, {"margin": float("nan")}, {"keep": "best"}, {"ties": "half"}, {"flip": 1.0}]
)
def test_a_pairing_is_checked(wrong):
    with pytest.raises(InputError):
        Pairing(**wrong)


def test_all_pairs_with_flips_are_refused_since_their_ranking_would_ignore_them():
    with pytest.raises(InputError, match=r"keep all, flip 0\.2: the ranking .* use keep best_worst, or flip 0"):
        Pairing("all", flip=0.2)


def test_a_reward_named_twice_or_none_is_refused(tmp_path):
    for rewards in ([], [load_reward("brightness")] * 2):
        with pytest.raises(InputError, match="name at least one, and each once"):
            build_pairs(tmp_path / "out", rewards, Pairing(), images=tmp_path)


def build_slowly(images: Path, out: Path) -> None:
    def slow(batch, prompts):
        time.sleep(0.01)
        return grey(batch, prompts)

    build_pairs(out, [reward(slow, batch_size=3)], Pairing("all"), images=images)


def test_a_build_killed_anywhere_ends_with_the_same_files(tmp_path):
    images = write_folder(tmp_path / "images", {f"prompt {i}": [i, 2 * i, 90, 90] for i in range(20)})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    build_slowly(images, whole)
    seconds = time.monotonic() - start
    generator = random.Random(1)
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=build_slowly, args=(images, killed))
        process.start()
        time.sleep(generator.uniform(0, 0.5) * seconds)
        process.kill()
        process.join()
        for table in ("pairs.csv", "build.json", "images/scores.jsonl"):  # whole, if they are there at all
            if (killed / table).exists():
                assert (killed / table).read_bytes() == (whole / table).read_bytes()
    build_slowly(images, killed)
    for table in ("pairs.csv", "build.json", "images/scores.jsonl"):
        assert (killed / table).read_bytes() == (whole / table).read_bytes()
    assert sorted(os.listdir(killed / "images")) == sorted(os.listdir(whole / "images"))
    assert len(os.listdir(whole / "images")) == 80 + 1


def test_pairs_are_built_from_a_model_and_the_same_again_from_the_same_seed(tmp_path, sd15_folder):
    from t2ialign.config.generation import GenerationConfig
    from t2ialign.models import open_model

    policy, mixture = open_model(str(sd15_folder), family="sd15", loras={}, precision="fp32")

    def build(out: Path, seed: int = 0, images_per_prompt: int = 3):
        return generate_pairs(
            out,
            policy,
            ["a red circle", "a blue square", "a red circle"],
            load_pointwise(["brightness", "sharpness=0.5"], "test"),
            Pairing("all"),
            GenerationConfig(
                guidance_scale=2.0, inference_steps=2, batch=4, images_per_prompt=images_per_prompt, seed=seed
            ),
            weights=mixture,
            description={"model": "tiny"},
        )

    built = build(tmp_path / "a")
    assert (built.totals.prompts, built.totals.images, built.totals.comparisons) == (2, 6, 6)
    assert set(built.summaries) == {"brightness", "sharpness"}
    build(tmp_path / "b")
    assert (tmp_path / "a/pairs.csv").read_bytes() == (tmp_path / "b/pairs.csv").read_bytes()
    assert build(tmp_path / "a").was_finished
    build(tmp_path / "c", seed=1)
    assert (tmp_path / "a/pairs.csv").read_bytes() != (tmp_path / "c/pairs.csv").read_bytes()
    source = PairData.model_validate({"name": "pairs", "path": tmp_path / "a" / "pairs.csv"}).open()
    assert len(source) == built.totals.pairs
    with pytest.raises(InputError, match="a pair needs at least 2 images"):
        build(tmp_path / "d", images_per_prompt=1)
