"""Which sizes there are, and which of them each example gets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_data import write_csv, write_image

from t2ialign.data.buckets import MAX_RATIO, Buckets, bucket_sizes, by_bucket, describe_buckets, find_buckets
from t2ialign.data.kinds.lists import ListData
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.errors import DataError, InputError

HEADER = ["prompt", "chosen", "rejected"]


def test_the_sizes_of_sdxl():
    sizes = bucket_sizes(1024, 64)
    # the shorter sides 960, 896, …: 1024^2 / 960 = 1092.3, whole 64s: 1088; at 704 twice the side is less than the area
    longer = [(1088, 960), (1152, 896), (1216, 832), (1344, 768), (1408, 704)]
    assert sizes == [(1024, 1024), *(size for pair in longer for size in (pair, pair[::-1]))]


@given(multiple=st.integers(1, 24), step=st.sampled_from([8, 16, 64]))
def test_no_size_is_larger_than_the_square_nor_longer_than_the_ratio(multiple: int, step: int):
    side = multiple * step
    sizes = bucket_sizes(side, step)
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= side * side
        assert max(width, height) <= MAX_RATIO * min(width, height)
        assert (height, width) in sizes


def test_a_resolution_that_is_no_multiple_of_the_step_is_refused():
    with pytest.raises(
        InputError, match=r"resolution 1000 px is no multiple of data.bucket_step 64; set it to 960 or 1024"
    ):
        bucket_sizes(1000, 64)


def pairs(folder: Path, *sizes: tuple[tuple[int, int], tuple[int, int]]) -> PairData:
    rows = []
    for row, (chosen, rejected) in enumerate(sizes):
        write_image(folder / f"{row}_w.png", row, chosen)
        write_image(folder / f"{row}_l.png", row, rejected)
        rows.append([f"p {row}", f"{row}_w.png", f"{row}_l.png"])
    return PairData(path=write_csv(folder / "pairs.csv", HEADER, rows))


def test_a_pair_goes_by_the_mean_of_its_ratios_whichever_is_chosen(tmp_path: Path):
    square, wide, tall = (32, 32), (64, 32), (32, 64)
    data = pairs(tmp_path, (square, square), (wide, wide), (tall, wide), (square, wide), (wide, square), (tall, tall))
    # sizes of 64 px in steps of 16: 64 x 64, 80 x 48 and 64 x 32, both ways round
    found = find_buckets(data.open(), 64, 16)
    # a tall and a wide one cancel; square and 2 : 1 have the mean ratio sqrt(2) = 1.41, which 80 : 48 = 1.67 is nearest
    assert abs(math.log(math.sqrt(2)) - math.log(80 / 48)) < abs(math.log(math.sqrt(2)))
    assert [found.size(row) for row in range(6)] == [(64, 64), (64, 32), (64, 64), (80, 48), (80, 48), (32, 64)]
    assert found.counts == [2, 2, 1, 1]
    assert found.rows(0).tolist() == [0, 2]
    assert found.places.tolist() == [0, 0, 1, 0, 1, 0]
    assert describe_buckets(found) == "64 x 64 px: 2, 80 x 48 px: 2, 64 x 32 px: 1, 32 x 64 px: 1"


def test_what_is_longer_than_any_bucket_gets_the_longest(tmp_path: Path):
    found = find_buckets(pairs(tmp_path, ((90, 10), (80, 10))).open(), 64, 16)
    assert found.sizes == ((64, 32),)


def test_singles_have_a_bucket_each_and_the_padding_of_lists_does_not_count(tmp_path: Path):
    write_image(tmp_path / "wide.png", size=(64, 32))
    write_image(tmp_path / "tall.png", size=(32, 64))
    table = write_csv(tmp_path / "s.csv", ["prompt", "image"], [["f", "wide.png"], ["g", "tall.png"]])
    found = find_buckets(SingleData(path=table).open(), 64, 16)
    assert [found.size(row) for row in (0, 1)] == [(64, 32), (32, 64)]
    header = ["prompt", "image", "score"]
    rows = [
        ["f", "wide.png", 2],
        ["f", "tall.png", 1],
        ["g", "wide.png", 2],
        ["g", "tall.png", 1],
        ["g", "wide.png", 0],
        ["g", "wide.png", -1],
    ]
    listed = find_buckets(ListData(path=write_csv(tmp_path / "l.csv", header, rows), views=8).open(), 64, 16)
    # the first list has one wide and one tall; with the six repetitions of the tall one that pad it, it would be tall.
    # The second has three wide and one tall: 2 ** (2 / 4) = 1.41, nearest to 80 / 48
    assert [listed.size(row) for row in (0, 1)] == [(64, 64), (80, 48)]


def test_some_examples_keep_their_sizes():
    buckets = Buckets(((64, 64), (80, 48), (48, 80)), np.array([0, 1, 2, 1, 0]))
    some = buckets.chosen([3, 2, 1])
    assert [some.size(row) for row in range(3)] == [(80, 48), (48, 80), (80, 48)]
    assert some.sizes == ((80, 48), (48, 80))
    assert some.digest != buckets.digest == Buckets(buckets.sizes, buckets.of.copy()).digest


def test_the_examples_of_an_epoch_are_dealt_to_their_buckets():
    buckets = Buckets(((64, 64), (80, 48)), np.array([0, 1, 0, 1]))
    assert by_bucket([0, 1, 2, 3, 3, 0], buckets) == [[0, 2, 0], [1, 3, 3]]
    indices = range(4)
    assert by_bucket(indices, Buckets(((64, 64),), np.zeros(4, np.int64)))[0] is indices


def test_images_that_cannot_be_read_are_counted_and_named(tmp_path: Path):
    data = pairs(tmp_path, *[((32, 32), (32, 32))] * 4)
    (tmp_path / "1_l.png").write_bytes(b"no image")
    (tmp_path / "3_w.png").write_bytes((tmp_path / "3_w.png").read_bytes()[:20])
    with pytest.raises(DataError) as caught:
        find_buckets(data.open(), 64, 16)
    message = str(caught.value)
    assert "2 of 4 rows cannot be used; correct them, or set data.on_bad=drop to go on with 2" in message
    assert f"2 x image unreadable, first: {tmp_path / 'pairs.csv'}:3: {tmp_path / '1_l.png'}: not an image" in message
