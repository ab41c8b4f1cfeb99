"""Files of a run folder on disks that refuse: one message, and what was there before stays whole."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import judgement, manifest, prompt_set

from unigenbench.errors import BenchError, InputError, ServerError, TryAgainError
from unigenbench.runs.cache import ReplyCache
from unigenbench.runs.files import LineLog, archive_folder, atomic_write, lock_folder, write_together
from unigenbench.runs.store import RunStore

REFUSALS = {
    errno.ENOSPC: TryAgainError,
    errno.EDQUOT: TryAgainError,
    errno.EROFS: ServerError,
    errno.EACCES: ServerError,
    errno.EPERM: ServerError,
    errno.EIO: InputError,
}


def refuse(number: int) -> Callable[..., None]:
    """Raises as the operating system does."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize(("number", "kind"), REFUSALS.items(), ids=[errno.errorcode[number] for number in REFUSALS])
@pytest.mark.parametrize("operation", ["fsync", "mkdir", "replace", "open", "rename"])
def test_what_the_system_refuses_is_one_message_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int, kind: type[BenchError]
):
    run = tmp_path / "run"
    with RunStore(run, manifest(), prompt_set(1, tmp_path)) as store:
        store.append(judgement("en/0/0/0"))
    before = (run / "run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(*(os, "fsync") if operation == "fsync" else (Path, operation), refuse(number))
        with pytest.raises(kind, match=str(tmp_path)):
            archive_folder(run) if operation == "rename" else RunStore(run, manifest(), prompt_set(1, tmp_path))
    assert (run / "run.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.partial"))
    with RunStore(run, manifest(), prompt_set(1, tmp_path)) as store:
        assert len(store.last) == 1  # and the folder is not locked


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize("operation", ["fsync", "open"])
def test_of_files_that_belong_together_all_are_written_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, fails_at: int
):
    files = {tmp_path / name: name for name in ("a", "b")}
    (tmp_path / "a").write_text("before")
    calls, whole = 0, getattr(*((os, "fsync") if operation == "fsync" else (Path, "open")))

    def full(*args, **options):
        nonlocal calls
        calls += 1
        return refuse(errno.ENOSPC)() if calls == fails_at else whole(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*(os, "fsync") if operation == "fsync" else (Path, "open"), full)
        with pytest.raises(TryAgainError, match=f"{'ab'[fails_at - 1]}: the disk is full"):
            write_together(files)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
    write_together(files)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_cache_on_a_full_disk_asks_for_space_wherever_sqlite_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: Full(path))
    with pytest.raises(TryAgainError, match=r"replies\.sqlite: database or disk is full; free some space"):
        ReplyCache(tmp_path / "replies.sqlite")


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"file(/run)?: a file stands where a folder is needed"):
            RunStore(run, manifest(), prompt_set(1, tmp_path))
    with pytest.raises(InputError, match=r"replies\.sqlite: a file stands"):
        ReplyCache(tmp_path / "file" / "replies.sqlite")
    with pytest.raises(InputError, match="x: a file stands"):
        atomic_write(tmp_path / "file" / "x", "text")


def test_a_folder_is_free_again_after_release(tmp_path: Path):
    lock = lock_folder(tmp_path)
    with pytest.raises(TryAgainError, match=f"in use by process {os.getpid()} on "):
        lock_folder(tmp_path)
    lock.release()
    lock_folder(tmp_path).release()


@given(st.lists(st.text(st.characters(exclude_characters="\n"))), st.binary())
def test_lines_survive_and_a_partial_one_is_truncated(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], partial: bytes
):
    path = tmp_path_factory.mktemp("log") / "lines"
    for line in lines:
        log = LineLog(path)
        log.append(line)
        log.close()
    with path.open("ab") as file:
        file.write(partial.replace(b"\n", b""))
    log = LineLog(path)
    log.append("last")
    log.close()
    written = [*lines, "last"]
    assert path.read_bytes() == b"".join(line.encode(errors="backslashreplace") + b"\n" for line in written)
