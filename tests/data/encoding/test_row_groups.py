"""Row groups of Parquet are read once by the encoding pass, and once an epoch where rows are shuffled by groups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawings import drawn_pairs, pick_a_pic
from groups_read import count_reads
from own_data import PlainBackbone

from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches, row_groups
from t2ialign.data.loading.sampler import Order, group_permutation

CPU = torch.device("cpu")
FILES, ROWS, GROUP = 3, 60, 7


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """180 pairs in 27 row groups of three files."""
    pairs = drawn_pairs(12)
    for file in range(FILES):
        table = pick_a_pic((pairs * ROWS)[:ROWS], wrapped=False)
        pq.write_table(table, tmp_path / f"train-{file:05d}-of-{FILES:05d}.parquet", row_group_size=GROUP)
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int, str]]:
    """How often each column of a row group is read."""
    return count_reads(monkeypatch)


def test_the_encoding_pass_reads_no_row_group_twice(shards: Path, reads: Counter, tmp_path: Path):
    source = PairData(path=shards).open()
    encode(source, PlainBackbone(), resolution=16, folder=tmp_path / "cache", device=CPU)
    assert len(reads) == FILES * -(-ROWS // GROUP) * 2  # both columns of images
    assert set(reads.values()) == {1}
    reads.clear()
    encode(PairData(path=shards).open(), PlainBackbone(), resolution=16, folder=tmp_path / "cache", device=CPU)
    assert not reads  # what is stored is not read again


@pytest.mark.parametrize("micro_batch", [1, 8])
def test_training_without_a_cache_reads_each_group_once_an_epoch(
    shards: Path, reads: Counter, tmp_path: Path, micro_batch: int
):
    source = PairData(path=shards, shuffle="groups").open()
    encoded = encode(
        source, PlainBackbone(), resolution=16, folder=tmp_path, device=CPU, cache=Cache(latents=False, text=False)
    )
    stream = iter(Batches(encoded, seed=0, micro_batch=micro_batch, row_groups=row_groups(source)))
    reads.clear()
    seen = [row for _ in range(len(source) // micro_batch) for row in next(stream).rows.tolist()]
    assert len(set(seen)) == len(seen) >= len(source) - micro_batch
    assert set(reads.values()) == {1}


def test_rows_of_groups_are_all_seen_and_mixed():
    groups = np.repeat(np.arange(40), 100)
    order = group_permutation(0, 0, 0, groups)
    assert sorted(order.tolist()) == list(range(4000))
    for window in order.reshape(10, 400):  # 4 groups of 100 rows at a time
        assert len(set(groups[window].tolist())) == 4
        assert np.mean(np.abs(np.diff(window)) == 1) < 0.05
    assert group_permutation(0, 0, 1, groups).tolist() != order.tolist()
    assert group_permutation(0, 0, 0, groups).tolist() == order.tolist()


def test_the_position_in_the_stream_is_still_enough_to_go_on():
    groups = [row // 9 for row in range(50)]
    whole = Order([range(50)], seed=1, micro_batch=1, row_groups=groups)
    fours = Order([range(50)], seed=1, micro_batch=4, row_groups=groups)
    assert [whole.group(k).examples[0] for k in range(200)] == [e for k in range(50) for e in fours.group(k).examples]
    stream = fours.groups(cursor=120)
    assert next(stream) == fours.group(30)
