"""Digests are remembered for files that are as they were, and for no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from t2ialign.data.images import ImageDigests
from t2ialign.storage.digest_memory import file_state, recall_digests, remember_digests


@pytest.fixture
def aged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was not changed for an hour, and an empty memory."""
    monkeypatch.setenv("T2IALIGN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    age(path)
    return path


def age(path: Path, seconds: int = 3600) -> None:
    before = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(before, before))


def test_a_file_is_recalled_until_it_changes(aged: Path):
    state = file_state(aged)
    assert recall_digests([state]) == [None]
    remember_digests([(state, "ab")])
    assert recall_digests([state, state._replace(path="other")]) == ["ab", None]
    assert recall_digests([state._replace(size=8), state._replace(changed=0)]) == [None, None]


def test_a_file_that_was_just_changed_is_not_remembered(aged: Path):
    aged.write_bytes(b"another")
    remember_digests([(file_state(aged), "ab")])
    assert recall_digests([file_state(aged)]) == [None]


def test_without_a_place_to_remember_everything_is_hashed(aged: Path, monkeypatch: pytest.MonkeyPatch):
    (aged.parent / "file").write_text("")
    monkeypatch.setenv("T2IALIGN_CACHE", str(aged.parent / "file"))
    remember_digests([(file_state(aged), "ab")])
    assert recall_digests([file_state(aged)]) == [None]
    assert len(ImageDigests()[aged]) == 64


def test_a_second_run_hashes_nothing(aged: Path, monkeypatch: pytest.MonkeyPatch):
    first = ImageDigests()
    first.read(aged)  # on its way into the cache
    digest = first[aged]
    first.add_files([aged])
    monkeypatch.setattr("t2ialign.data.images.file_digest", lambda path: pytest.fail(f"{path} is hashed again"))
    assert ImageDigests()[aged] == digest
