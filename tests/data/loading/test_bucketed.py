"""Batches of images of several shapes: one bucket each, the same however they are cut, stored or shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from own_data import PlainBackbone, write_csv, write_image

from t2ialign.data.base import Cache
from t2ialign.data.buckets import find_buckets
from t2ialign.data.encoding import shards as shards_module
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.framing import to_pixels
from t2ialign.data.images import open_image
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches
from t2ialign.types import Batch

CPU = torch.device("cpu")
NOTHING_STORED = Cache(latents=False, text=False)
SIZES = [(64, 64), (100, 60), (40, 80)]
"""Of the images of every third pair; buckets 64 x 64, 80 x 48 and 32 x 64 of 64 px in steps of 16."""
PAIRS = 16
COUNTS = [6, 5, 5]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for row in range(PAIRS):
        width, height = SIZES[row % 3]
        write_image(tmp_path / f"{row}_w.png", 2 * row, (width, height))
        write_image(tmp_path / f"{row}_l.png", 2 * row + 1, (width + 4, height))  # a little wider than the other
        rows.append([f"prompt {row}", f"{row}_w.png", f"{row}_l.png"])
    return write_csv(tmp_path / "pairs.csv", ["prompt", "chosen", "rejected"], rows)


@pytest.fixture
def encoded(table: Path, backbone: PlainBackbone) -> Callable[..., Encoded]:
    def build(cache: Cache | None = None, **settings) -> Encoded:
        source = PairData(path=table).open()
        return encode(
            source,
            backbone,  # type: ignore[arg-type]
            resolution=64,
            folder=table.parent / "cache",
            device=CPU,
            cache=cache,
            crop="bucket",
            buckets=find_buckets(source, 64, 16),
            **settings,
        )

    return build


def first(count: int, encoded: Encoded, **settings) -> list[Batch]:
    return list(islice(Batches(encoded, **{"seed": 3, "micro_batch": 2, **settings}), count))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.geometry, other.geometry)  # type: ignore[arg-type]
        assert torch.equal(one.cond.tokens, other.cond.tokens)


def test_a_micro_batch_has_one_bucket_and_its_shape(encoded: Callable[..., Encoded]):
    shapes = {0: (8, 8), 1: (6, 10), 2: (8, 4)}
    for batch in first(40, encoded()):
        (bucket,) = {row % 3 for row in batch.rows.tolist()}
        assert batch.latents.shape == (2, 2, 3, *shapes[bucket])


def test_every_example_is_seen_and_those_that_fill_no_micro_batch_come_with_the_next_epoch(
    encoded: Callable[..., Encoded],
):
    data = encoded()
    seen: Counter[int] = Counter()
    for epochs in (1, 2, 3):
        groups = sum(epochs * count // 2 for count in COUNTS)
        seen = Counter(row for batch in first(groups, data) for row in batch.rows.tolist())
        for bucket, count in enumerate(COUNTS):
            visits = [seen[row] for row in range(bucket, PAIRS, 3)]
            assert sum(visits) == epochs * count // 2 * 2  # all but the remainder
            assert set(visits) <= {epochs - 1, epochs}
    assert sorted(seen.values()) == [2, 2, *[3] * 14]  # one of each odd bucket is still to come


def test_sizes_crops_and_targets_are_those_of_each_image(encoded: Callable[..., Encoded], table: Path):
    for batch in first(24, encoded()):
        assert batch.geometry is not None
        for row, geometry in zip(batch.rows.tolist(), batch.geometry, strict=True):
            width, height = SIZES[row % 3]
            across, down = [(64, 64), (80, 48), (32, 64)][row % 3]
            for view, extra in enumerate((0, 4)):
                # resized until it covers the bucket, and what is over cut off on both sides
                factor = max(across / (width + extra), down / height)
                left, top = (round(((width + extra) * factor - across) / 2), round((height * factor - down) / 2))
                assert geometry[view].tolist() == [height, width + extra, top, left, down, across]


def test_the_images_are_those_parts(encoded: Callable[..., Encoded], table: Path):
    data = encoded()
    pixels, _ = to_pixels(open_image(table.parent / "4_w.png"), (80, 48))
    assert pixels.shape == (3, 48, 80)
    expected = torch.nn.functional.avg_pool2d(pixels, 8)
    torch.testing.assert_close(data[[4]].posterior.mean[0, 0], expected)


@pytest.mark.parametrize("cache", [NOTHING_STORED, Cache(text=False), Cache(latents=False)])
def test_stored_equals_encoded_in_each_step(encoded: Callable[..., Encoded], cache: Cache):
    settings = {"flip": 0.5}
    assert_same(first(20, encoded(cache, flips=True), **settings), first(20, encoded(flips=True), **settings))


def test_workers_ranks_and_restarts_change_nothing(encoded: Callable[..., Encoded]):
    data = encoded()
    whole = first(24, data)
    assert_same(first(24, data, workers=2), whole)
    assert_same(first(10, data, cursor=28), whole[14:])
    ranks = [first(12, data, world_size=2, rank=rank) for rank in (0, 1)]
    assert_same([batch for pair in zip(*ranks, strict=True) for batch in pair], whole)


def test_the_order_depends_on_seed_and_epoch(encoded: Callable[..., Encoded]):
    data = encoded()
    once = [batch.rows.tolist() for batch in first(8, data)]
    assert [batch.rows.tolist() for batch in first(8, data)] == once
    assert [batch.rows.tolist() for batch in first(8, data, seed=4)] != once
    assert [batch.rows.tolist() for batch in first(8, data, cursor=16)] != once


def test_examples_that_repeat_in_an_epoch_repeat_in_their_bucket(encoded: Callable[..., Encoded]):
    indices = [0, 0, 0, 1, 1, 4, 2, 5]
    seen = Counter(
        row for batch in first(8, encoded(), micro_batch=1, epoch_indices=indices) for row in batch.rows.tolist()
    )
    assert seen == Counter(indices)


def test_each_bucket_is_stored_by_itself_and_nothing_is_encoded_twice(
    encoded: Callable[..., Encoded], backbone: PlainBackbone, table: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards_module, "ROWS", 2)
    encoded()
    assert backbone.images_encoded == 2 * PAIRS
    folders = list(table.parent.glob("cache/latents-*"))
    assert sorted(len(list(folder.glob("*.safetensors"))) for folder in folders) == [3, 3, 3]
    encoded()
    assert backbone.images_encoded == 2 * PAIRS
    lost = sorted(folders[1].glob("*.safetensors"))[1]
    lost.unlink()
    again = encoded()
    assert backbone.images_encoded == 2 * PAIRS + 4  # two pairs
    assert_same(first(12, again), first(12, encoded(NOTHING_STORED)))


def test_two_processes_store_half_each(
    encoded: Callable[..., Encoded], backbone: PlainBackbone, monkeypatch: pytest.MonkeyPatch
):
    encoded(rank=0, world_size=2)
    half = backbone.images_encoded
    assert 0 < half < 2 * PAIRS
    both = encoded(rank=1, world_size=2)
    assert backbone.images_encoded == 2 * PAIRS
    assert_same(first(12, both), first(12, encoded(NOTHING_STORED)))


def test_images_enlarged_into_their_bucket_are_warned_of(
    tmp_path: Path, backbone: PlainBackbone, caplog: pytest.LogCaptureFixture
):
    write_image(tmp_path / "a.png", size=(40, 24))  # into 80 x 48: by 2
    write_image(tmp_path / "b.png", size=(35, 21))  # by 2.3
    path = write_csv(tmp_path / "t.csv", ["prompt", "chosen", "rejected"], [["f", "a.png", "b.png"]])
    source = PairData(path=path).open()
    encode(
        source,
        backbone,  # type: ignore[arg-type]
        resolution=64,
        folder=tmp_path / "cache",
        device=CPU,
        crop="bucket",
        buckets=find_buckets(source, 64, 16),
    )
    assert "1 of 2 images are enlarged by more than 2 to 64 px (the smallest side is 21 px)" in caplog.text


def test_buckets_without_the_crop_and_the_crop_without_buckets_are_refused(table: Path, backbone: PlainBackbone):
    source = PairData(path=table).open()
    with pytest.raises(ValueError, match="crop is 'bucket', buckets are missing"):
        encode(source, backbone, resolution=64, folder=table.parent, device=CPU, crop="bucket")  # type: ignore[arg-type]
