"""The run folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import judgement, manifest, prompt_set

from unigenbench.errors import DataError, InputError, TryAgainError
from unigenbench.runs.files import archive_folder
from unigenbench.runs.judgements import from_fields, read_judgements, to_line
from unigenbench.runs.store import JUDGEMENTS, RunStore, open_log
from unigenbench.types import Usage


def test_a_judgement_survives_its_line():
    line = judgement("en/0/0/0", analyses=("红色的狗", 'a "quote"'), probabilities=(0.5, 1.0), raw="a\nb\u2028c")
    text = to_line(line)
    assert "\n" not in text
    assert from_fields(json.loads(text)) == line


def test_a_log_gives_the_newest_line_of_each_key(tmp_path: Path):
    with RunStore(tmp_path / "run", manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/0/0/0", "parse_failed"))
        store.append(judgement("en/1/0/0"))
        store.append(judgement("en/0/0/0", image_sha256="new"))
    log = open_log(tmp_path / "run")
    assert [(line.key, line.status, line.image_sha256[:3]) for line in log.judgements] == [
        ("en/0/0/0", "ok", "new"),
        ("en/1/0/0", "ok", "iii"),
    ]
    assert log.prompts == prompt_set(2, tmp_path)


def test_going_on_knows_what_was_judged_and_paid(tmp_path: Path):
    with RunStore(tmp_path, manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/0/0/0", attempts=3))
        store.append(judgement("en/1/0/0", "refused"))
    with RunStore(tmp_path, manifest() | {"run_id": "other"}, prompt_set(2, tmp_path)) as store:
        assert {key: last.status for key, last in store.last.items()} == {
            ("en/0/0/0", "j"): "ok",
            ("en/1/0/0", "j"): "refused",
        }
        spent = store.ledger.spent
        assert (spent.usage, spent.requests) == (Usage(20, 2), 4)
        assert store.manifest["run_id"] == "r"


@pytest.mark.parametrize("cut", [1, 30, 299])
def test_a_torn_last_line_is_left_out_and_cut_away(tmp_path: Path, cut: int):
    with RunStore(tmp_path, manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/0/0/0"))
        store.append(judgement("en/1/0/0"))
    log = tmp_path / JUDGEMENTS
    log.write_bytes(log.read_bytes()[:-cut])
    assert [line.key for line in open_log(tmp_path).judgements] == ["en/0/0/0"]
    with RunStore(tmp_path, manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/1/0/0", raw="again"))
    assert [(line.key, line.raw) for line in read_judgements(log)] == [("en/0/0/0", ""), ("en/1/0/0", "again")]


def test_another_damaged_line_is_named(tmp_path: Path):
    with RunStore(tmp_path, manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/0/0/0"))
        store.append(judgement("en/1/0/0"))
    lines = (tmp_path / JUDGEMENTS).read_text().splitlines(keepends=True)
    (tmp_path / JUDGEMENTS).write_text('{"key": 1}\n' + lines[1])
    with pytest.raises(DataError, match=r"judgements\.jsonl:1: no judgement"):
        open_log(tmp_path)


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"no run folder \(run\.json is not there\)"):
        open_log(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="schema_version 99"):
        open_log(tmp_path)


def test_a_folder_may_grow_but_not_change_what_it_measures(tmp_path: Path):
    with RunStore(tmp_path, manifest(model="a"), prompt_set(2, tmp_path)):
        pass
    with RunStore(tmp_path, manifest(model="a"), prompt_set(3, tmp_path)) as store:
        assert len(open_log(tmp_path).prompts.prompts) == 3
        assert store.manifest["judge"]["spec"] == {"model": "a"}
    with pytest.raises(InputError, match=r"selection: the run has 3 prompts, 1 of which are not chosen now.* 2;"):
        RunStore(tmp_path, manifest(model="a"), prompt_set(2, tmp_path))
    with pytest.raises(InputError, match=r"judge\.model: the run was made with 'a', now it is 'b'"):
        RunStore(tmp_path, manifest(model="b"), prompt_set(3, tmp_path))
    other = manifest(model="a") | {"dataset": {"sha256": "e" * 64}}
    with pytest.raises(InputError, match="prompts: the run was made with 'dddddddddddd', now it is 'eeeeeeeeeeee'"):
        RunStore(tmp_path, other, replace(prompt_set(3, tmp_path), sha256="e" * 64))


def test_a_full_disk_leaves_whole_lines_and_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with RunStore(tmp_path, manifest(), prompt_set(2, tmp_path)) as store:
        store.append(judgement("en/0/0/0"))
        file = store._log._file

        class Full:
            def write(self, content: bytes) -> int:
                if len(content) < 200:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return file.write(content[:100])

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        store._log._file = Full()
        with pytest.raises(TryAgainError, match="the disk is full"):
            store.append(judgement("en/1/0/0"))
        store._log._file = file
        store.append(judgement("en/1/0/0"))
    assert [line.key for line in read_judgements(tmp_path / JUDGEMENTS)] == ["en/0/0/0", "en/1/0/0"]


def test_two_processes_cannot_judge_into_one_folder(tmp_path: Path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\nfrom made_runs import manifest, prompt_set\n"
        "from unigenbench.runs.store import RunStore\n"
        "store = RunStore(Path(sys.argv[1]), manifest(), prompt_set(1, Path(sys.argv[1])))\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    support = Path(__file__).parents[2] / "support"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(support)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TryAgainError, match=f"in use by process {other.pid} on "):
            RunStore(tmp_path, manifest(), prompt_set(1, tmp_path))
        with pytest.raises(TryAgainError, match="in use by process"):
            archive_folder(tmp_path)
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with RunStore(tmp_path, manifest(), prompt_set(1, tmp_path)):  # a killed owner does not keep it
        pass


def test_an_archived_folder_is_kept(tmp_path: Path):
    for _ in range(2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").touch()
        archive_folder(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.old-1", "run.old-2"]
    assert archive_folder(tmp_path / "run") is None
