"""The run folder: what was asked, of which images, and every judgement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigenbench.errors import BenchError, DataError, InputError
from unigenbench.prompts import from_json, to_json
from unigenbench.runs.files import LineLog, atomic_write, disk_errors, lock_folder
from unigenbench.runs.judgements import LastJudgement, newest, read_judgements, to_line
from unigenbench.runs.ledger import LEDGER, Ledger, Spending
from unigenbench.types import Judgement, PromptSet, RunLog

SCHEMA_VERSION = 1
MANIFEST = "run.json"
PROMPTS = "prompts.json"
JUDGEMENTS = "judgements.jsonl"
REPLIES = "replies.sqlite"
KEPT_FIELDS = ("run_id", "created", "served_model", "dropped_fields", "warnings")
"""Fields of run.json that a later start keeps."""

MANIFEST_FIELDS = (
    ("dataset", "sha256", str),
    ("judge", "id", str),
    ("judge", "spec", dict),
    ("rubric", "id", str),
    ("images", "per_prompt", int),
)
"""(section, field, type) of run.json without which a folder cannot be resumed."""


def open_log(path: Path) -> RunLog:
    """A run folder, read; the newest judgement of each key, in the order in which their keys were first judged.

    Raises:
        InputError: the folder is no run folder.
        DataError: one of its files is damaged, or of a newer version.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise InputError(f"{path}: no run folder ({MANIFEST} is not there); make one with `unigenbench judge`")
    judge = manifest["judge"]["id"]
    judgements = (judgement for judgement in read_judgements(path / JUDGEMENTS) if judgement.judge_id == judge)
    return RunLog(path, manifest, _read_prompts(path), tuple(newest(judgements).values()))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """run.json of a folder; None where there is none.

    Raises:
        DataError: it is damaged, or of a newer version.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["schema_version"])
        if version > SCHEMA_VERSION:
            raise DataError(f"{file}: schema_version {version}; this program knows {SCHEMA_VERSION}; use a newer one")
        check_manifest(manifest)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(f"{file}: damaged ({error!r}); restore it, or judge into another folder") from error
    return manifest


def check_manifest(manifest: Any) -> None:
    """Checks the fields that everything relies on.

    Raises:
        KeyError, TypeError: one is missing, or of another type.
    """
    for section, name, kind in MANIFEST_FIELDS:
        if not isinstance(manifest[section][name], kind):
            raise TypeError(f"{section}.{name} is {str(manifest[section][name])[:40]!r}")


def _read_prompts(path: Path) -> PromptSet:
    file = path / PROMPTS
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, BenchError) as error:
        raise DataError(f"{file}: missing or damaged ({error!r}); restore it, or judge into another folder") from error


class RunStore:
    """A run folder, open for judging by one process.

    Use as a context manager; on exit what was written is forced to disk and the folder is unlocked.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], prompts: PromptSet):
        """Makes the folder, or resumes it.

        Raises:
            InputError: the folder holds another run: other prompts, another judge, or more than is asked now.
            TryAgainError: another process judges into it.
            DataError: one of its files is damaged.
        """
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.last: dict[tuple[str, str], LastJudgement] = {}
        """by (key, judge id)"""
        self._lock = lock_folder(path)
        try:
            self.manifest = self._write_manifest(manifest, prompts)
            before = self._read_judgements()
            self.ledger = Ledger(path / LEDGER, before)
            """what all calls took, earlier starts included"""
            self._log = LineLog(path / JUDGEMENTS)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._log.close()
            self.ledger.close()
        finally:
            self._lock.release()

    def append(self, judgement: Judgement) -> None:
        """Adds one judgement; it survives a kill at once, and a power cut a second later.

        Raises:
            TryAgainError: the disk is full.
        """
        self._log.append(to_line(judgement))
        self.last[judgement.key, judgement.judge_id] = LastJudgement.from_judgement(judgement)

    def update(self, **fields: Any) -> None:
        """Changes fields of run.json, whole or not at all."""
        self.manifest |= fields
        atomic_write(self.path / MANIFEST, json.dumps(self.manifest, ensure_ascii=False, indent=1) + "\n")

    def _read_judgements(self) -> Spending:
        """What the judgements so far took."""
        spent = Spending()
        for judgement in read_judgements(self.path / JUDGEMENTS):
            self.last[judgement.key, judgement.judge_id] = LastJudgement.from_judgement(judgement)
            usage, requests = spent.usage + judgement.usage, spent.requests + judgement.attempts
            spent = spent._replace(usage=usage, requests=requests)
        return spent

    def _write_manifest(self, manifest: dict[str, Any], prompts: PromptSet) -> dict[str, Any]:
        """Writes the manifest and the prompts, after a check that a folder in use is for the same run."""
        old = read_manifest(self.path)
        if old is None:
            if (self.path / JUDGEMENTS).exists():
                raise DataError(f"{self.path}: {JUDGEMENTS} without {MANIFEST}; judge into another folder")
            written = manifest
        else:
            _check_same_run(self.path, old, manifest, _read_prompts(self.path), prompts)
            written = manifest | {name: old[name] for name in KEPT_FIELDS if name in old}
        content = json.dumps(to_json(prompts), ensure_ascii=False, indent=1)
        atomic_write(self.path / PROMPTS, content + "\n")
        atomic_write(self.path / MANIFEST, json.dumps(written, ensure_ascii=False, indent=1) + "\n")
        return written


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All that a run may not change, by name."""
    judge, rubric = manifest["judge"]["spec"], manifest["rubric"]
    return {
        "prompts": manifest["dataset"]["sha256"][:12],
        **{f"rubric.{key}": value for key, value in rubric.items()},
        **{f"judge.{key}": value for key, value in judge.items()},
    }


def _check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any], held: PromptSet, wanted: PromptSet) -> None:
    """A folder may grow (more prompts, more images per prompt) but neither shrink nor change what is measured."""
    other = "give another --run, or --fresh, which keeps the old folder under another name"
    was, now = _identity(old), _identity(new)
    for key in {**was, **now}:
        if was.get(key) != now.get(key):
            raise InputError(
                f"{path / MANIFEST}: {key}: the run was made with {was.get(key)!r}, now it is {now.get(key)!r}; {other}"
            )
    lost = {prompt.index for prompt in held.prompts} - {prompt.index for prompt in wanted.prompts}
    if lost:
        raise InputError(
            f"{path / MANIFEST}: selection: the run has {len(held.prompts)} prompts, {len(lost)} of which are not "
            f"chosen now, for example {min(lost)}; choose at least those, or {other}"
        )
    was, now = old["images"]["per_prompt"], new["images"]["per_prompt"]
    if now < was:
        raise InputError(f"{path / MANIFEST}: images per prompt: the run has {was}, now it is {now}; {other}")
