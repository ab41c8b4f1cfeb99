"""A data set of 200,000 pairs costs no more memory than one of 2,000, and reads nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import bench_data
import pytest
from groups_read import count_reads

from t2ialign.data.loading.loader import Batches


@pytest.mark.slow
def test_two_hundred_thousand_pairs_take_the_memory_of_two_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reads: Counter = count_reads(monkeypatch)
    data = bench_data.write_pairs(tmp_path / "pairs", 200_000)
    settled, most, _ = bench_data.memory_of_encoding(data, tmp_path / "cache")
    assert most < 1.05 * settled
    assert len(reads) == 2 * 200_000 // bench_data.GROUP_ROWS
    assert set(reads.values()) == {1}
    reads.clear()
    encoded = bench_data.encode_pairs(data, tmp_path / "cache", lambda images: pytest.fail("an image is encoded again"))
    stream = iter(Batches(encoded, seed=0, micro_batch=4))
    assert next(stream).latents.shape[:2] == (4, 2)
    assert not reads


def test_the_benchmark_of_data_runs(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_data, "SETTLED", 40)
    data = bench_data.write_pairs(tmp_path / "pairs", 120)
    settled, most, seconds = bench_data.memory_of_encoding(data, tmp_path / "cache")
    assert most >= settled > 0 < seconds
    bench_data.train_phase(data, tmp_path / "cache", batches=5)
    said = capsys.readouterr().out
    assert "first batch after" in said
    assert "shuffled by groups" in said
