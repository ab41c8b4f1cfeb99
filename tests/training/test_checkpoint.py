"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from t2ialign.errors import TryAgainError
from t2ialign.storage import atomic
from t2ialign.training import checkpoint
from t2ialign.training.checkpoint import MANIFEST, STATE, Damaged

TENSORS = {
    "trained": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5], dtype=torch.bfloat16)},
    "optimizer": {"0.step": torch.tensor(3.0), "0.exp_avg": torch.randn(2, 3)},
}


def saved(folder: Path, step: int = 3) -> Path:
    path = folder / checkpoint.name(step)
    checkpoint.save(path, TENSORS, {"step": step, "identity": {"data": "d"}})
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_comes_back(tmp_path: Path):
    path = saved(tmp_path)
    assert checkpoint.verify(path) is None
    found = checkpoint.load(path)
    assert found.state == {"step": 3, "identity": {"data": "d"}}
    assert {stem: set(group) for stem, group in found.tensors.items()} == {k: set(v) for k, v in TENSORS.items()}
    for stem, group in TENSORS.items():
        for name, tensor in group.items():
            assert torch.equal(found.tensors[stem][name], tensor)
            assert found.tensors[stem][name].dtype == tensor.dtype
    assert sorted(p.name for p in path.iterdir()) == [MANIFEST, "optimizer.safetensors", STATE, "trained.safetensors"]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "no manifest": (lambda path: (path / MANIFEST).unlink(), "has no manifest.json"),
    "empty manifest": (lambda path: (path / MANIFEST).write_text(""), "manifest.json is not JSON"),
    "half a manifest": (lambda path: shorten(path / MANIFEST), "manifest.json is not JSON"),
    "manifest of another kind": (lambda path: (path / MANIFEST).write_text("[1]"), "manifest.json is not"),
    "manifest that lists nothing": (lambda path: (path / MANIFEST).write_text("{}"), "manifest.json is not"),
    "manifest in no encoding": (lambda path: (path / MANIFEST).write_bytes(b"\xff\x00{"), "manifest.json is not JSON"),
    "truncated weights": (lambda path: shorten(path / "trained.safetensors"), "trained.safetensors has "),
    "flipped byte in weights": (
        lambda path: flip(path / "trained.safetensors", -3),
        "trained.safetensors has changed since it was saved",
    ),
    "flipped byte in a header": (
        lambda path: flip(path / "optimizer.safetensors", 20),
        "optimizer.safetensors has changed since it was saved",
    ),
    "flipped byte in the state": (lambda path: flip(path / STATE, 5), "state.json has changed since it was saved"),
    "missing weights": (lambda path: (path / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "missing state": (lambda path: (path / STATE).unlink(), "state.json is missing"),
    "empty folder": (lambda path: [p.unlink() for p in path.iterdir()], "has no manifest.json"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_torn_checkpoint_is_named_and_passed_over(tmp_path: Path, kind: str):
    older, newer = saved(tmp_path, 10), saved(tmp_path, 20)
    damage, reason = DAMAGES[kind]
    damage(newer)
    reported: list[Damaged] = []
    assert checkpoint.newest(tmp_path, reported.append) == older
    assert [damaged.folder for damaged in reported] == [newer]
    assert reason in reported[0].reason


def test_every_single_flipped_byte_is_seen(tmp_path: Path):
    path = saved(tmp_path)
    whole = contents(path)
    for name, data in whole.items():
        for place in range(0, len(data), max(1, len(data) // 40)):
            flip(path / name, place)
            assert checkpoint.verify(path) is not None or json.loads((path / MANIFEST).read_text()) == json.loads(
                whole[MANIFEST]
            ), (name, place)
            (path / name).write_bytes(data)


def test_only_torn_checkpoints_are_none(tmp_path: Path):
    for step in (10, 20):
        (saved(tmp_path, step) / MANIFEST).unlink()
    reported: list[Damaged] = []
    assert checkpoint.newest(tmp_path, reported.append) is None
    assert len(reported) == 2
    assert checkpoint.newest(tmp_path / "nowhere", reported.append) is None


def test_a_killed_save_is_no_checkpoint_and_is_swept_away(tmp_path: Path):
    whole = saved(tmp_path, 10)
    (tmp_path / ".step-000020.partial").mkdir()
    (tmp_path / ".step-000020.partial" / "trained.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path, pytest.fail) == whole
    checkpoint.prune(tmp_path, whole, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]


def test_the_newest_are_kept_by_number_and_what_is_newer_than_the_run_goes(tmp_path: Path):
    for step in (1, 2, 999_999, 1_000_000):
        saved(tmp_path, step)
    assert checkpoint.newest(tmp_path, pytest.fail) == tmp_path / "step-1000000"
    # the run went back to step 999,999 because the one after it was damaged, and has saved again
    checkpoint.prune(tmp_path, tmp_path / "step-999999", keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-999999"]


NO_SPACE = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
)


@pytest.mark.parametrize("error", NO_SPACE, ids=["ENOSPC", "EDQUOT", "safetensors"])
@pytest.mark.parametrize("where", ["weights", "sync", "rename"])
def test_a_full_disk_leaves_what_was_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
):
    saved(tmp_path, 10)
    before = contents(tmp_path)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        if where == "weights":
            patch.setattr(checkpoint, "save_file", fail)
        elif where == "sync":
            patch.setattr(atomic, "sync", fail)
        else:
            patch.setattr(Path, "rename", fail)
        with pytest.raises(TryAgainError, match=r"step-000020: the disk is full \(\d+ MiB free\).*same command again"):
            saved(tmp_path, 20)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010"]


def test_another_failure_is_not_called_a_full_disk_and_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(PermissionError):
        saved(tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_byte_is_on_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    saved(tmp_path)
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {MANIFEST, STATE, "trained.safetensors", "optimizer.safetensors", ".step-000003.partial"} <= set(before)
    assert after == [tmp_path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_really_full_disk_leaves_what_was_there(small_disk: Path):
    whole = saved(small_disk, 10)
    before = contents(small_disk)
    for size in (30_000, 60_000, 64_000):  # fails in the weights, or later in the small files
        large = {"trained": {"a": torch.zeros(size)}, "optimizer": {"b": torch.zeros(60_000)}}
        with pytest.raises(TryAgainError, match="the disk is full"):
            checkpoint.save(small_disk / "step-000020", large, {"step": 20})
        assert contents(small_disk) == before
    checkpoint.save(small_disk / "step-000020", {"trained": {"a": torch.zeros(100)}}, {"step": 20})
    assert checkpoint.verify(whole) is None
    assert checkpoint.newest(small_disk, pytest.fail) == small_disk / "step-000020"
