"""Numbers about a data set that add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from own_data import write_csv, write_image

from t2ialign.data.inspect.summary import render, summarise
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.prompts import PromptData
from t2ialign.data.kinds.singles import SingleData

HEADER = ["prompt", "image_0", "image_1", "label_0"]


def mixed(folder: Path) -> Path:
    """Three usable rows, a tie, a missing image, a missing prompt, a damaged image, and a label of no meaning."""
    write_image(folder / "a.png", 0, (20, 16))
    write_image(folder / "b.png", 1, (16, 16))
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:60])
    rows = [
        ["a red fox", "a.png", "b.png", 1],
        ["a red fox", "a.png", "b.png", 0],
        ["hen", "a.png", "b.png", 1],
        ["hen", "a.png", "b.png", 0.5],
        ["hen", "none.png", "b.png", 1],
        ["", "a.png", "b.png", 1],
        ["hen", "a.png", "bad.png", 0],
        ["hen", "a.png", "b.png", "left"],
    ]
    return write_csv(folder / "t.csv", HEADER, rows)


def test_all_rows_are_accounted_for(tmp_path: Path):
    summary = summarise(PairData(path=mixed(tmp_path)))
    account = summary.account
    assert (account.rows, account.used, len(account.ties), len(account.problems)) == (8, 3, 1, 4)
    assert summary.prompts == 2
    assert summary.rows_per_prompt == {1: 1, 2: 1}
    assert summary.prompt_words == (1, 3)
    assert summary.sizes == {(20, 16): 3, (16, 16): 3}
    assert summary.first_better == (4, 6)  # labels 1, 0, 1, 1, 1, 0


def test_the_text_says_what_was_understood_and_what_is_wrong(tmp_path: Path):
    text = " ".join(render(summarise(PairData(path=mixed(tmp_path)))).split())
    assert "'label_0' is 1 where 'image_0' is better, 0 where 'image_1' is (Pick-a-Pic's rule)" in text
    assert (
        "8 = 3 usable + 1 tie + 1 image missing + 1 prompt missing + 1 label not understood + 1 image unreadable"
        in text
    )
    assert "the first image is better in 4 of 6 labelled rows (67%)" in text
    assert "label_0 is 'left'" in text


def test_singles_are_summarised_too(pair_table: Callable[..., Path]):
    summary = summarise(SingleData(path=pair_table(3)))
    assert (summary.views, summary.account.rows, summary.account.used, sum(summary.sizes.values())) == (1, 3, 3, 3)


def test_a_table_of_ties_alone_is_summarised_not_refused(tmp_path: Path):
    write_image(tmp_path / "a.png")
    path = write_csv(tmp_path / "t.csv", HEADER, [["hen", "a.png", "a.png", 0.5]])
    assert "1 = 0 usable + 1 tie" in render(summarise(PairData(path=path)))


def test_prompts_alone_are_summarised_without_images(tmp_path: Path):
    (tmp_path / "p.txt").write_text("a red fox\nhen\nhen\n")
    text = " ".join(render(summarise(PromptData(path=tmp_path / "p.txt"))).split())
    assert "p.txt: prompt 'prompt', no images" in text
    assert "3 = 3 usable prompts 2 distinct; rows per prompt: 1 with 1, 1 with 2" in text
    assert "image sizes" not in text


def test_the_buckets_of_usable_rows_are_counted_where_images_go_into_buckets(tmp_path: Path):
    path = mixed(tmp_path)  # its usable rows have an image of 20 x 16 px and a square one
    assert summarise(PairData(path=path)).buckets == ()
    one = " ".join(render(summarise(PairData(path=path, crop="bucket", resolution=512))).split())
    # ratio sqrt(20 / 16) = 1.12; of 512 px there are 1 and 576 / 448 = 1.29
    assert "buckets of 512 px: 512 x 512 px: 3" in one
    both = summarise(PairData(path=path, crop="bucket", bucket_step=32)).buckets
    # in steps of 32: 544 / 480 = 1.133, and 1088 / 960
    assert [(side, buckets.sizes, buckets.counts) for side, buckets in both] == [
        (512, ((544, 480),), [3]),
        (1024, ((1088, 960),), [3]),
    ]
