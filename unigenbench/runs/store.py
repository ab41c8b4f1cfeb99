"""The run folder: what was asked, of which images, and every judgement, one line each, never rewritten."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError, InputError, TryAgainError
from unigenbench.prompts import from_json, to_json
from unigenbench.types import Judgement, PromptSet, RunLog, Status, Usage

SCHEMA_VERSION = 1
MANIFEST = "run.json"
PROMPTS = "prompts.json"
JUDGEMENTS = "judgements.jsonl"
REPLIES = "replies.sqlite"
LOCK = "lock"
LEARNT = ("run_id", "created", "served_model", "dropped_fields", "warnings")
"""Fields of run.json that a later start keeps."""
SYNC_LINES = 64
SYNC_SECONDS = 1.0


class Past(NamedTuple):
    """How a key was judged last, and what it was then: a changed image or prompt is another question."""

    image_sha256: str
    prompt_sha256: str
    status: Status
    parse_attempts: int

    def is_about(self, image_sha256: str, prompt_sha256: str) -> bool:
        """Whether image and prompt are still the same."""
        return (self.image_sha256, self.prompt_sha256) == (image_sha256, prompt_sha256)

    @classmethod
    def of(cls, judgement: Judgement) -> Past:
        return cls(judgement.image_sha256, judgement.prompt_sha256, judgement.status, judgement.parse_attempts)


def recall(path: Path) -> dict[tuple[str, str], Past]:
    """The last line of each (key, judge id) of a judgements.jsonl, in short; nothing where there is none."""
    return {(judgement.key, judgement.judge_id): Past.of(judgement) for judgement in read_judgements(path)}


def to_line(judgement: Judgement) -> str:
    """One line of judgements.jsonl, without its end."""
    return json.dumps(asdict(judgement), ensure_ascii=False)


def from_fields(fields: Mapping[str, Any]) -> Judgement:
    """Back from the JSON of `to_line`.

    Raises:
        KeyError, TypeError: a field is missing, unknown, or of another kind.
    """
    lists = ("verdicts", "analyses", "probabilities")
    tuples = {name: tuple(fields[name]) if fields[name] is not None else None for name in lists}
    return Judgement(**{**fields, **tuples, "usage": Usage(**fields["usage"])})


def read_judgements(path: Path) -> Iterator[Judgement]:
    """Every line in order, none where there is no file. A last line without its end was cut by a kill and is left out.

    Raises:
        DataError: another line is damaged.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield from_fields(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}:{number}: no judgement ({error!r}); delete the line, and `unigenbench judge` asks again"
                ) from error


def newest(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Judgement]:
    """The last line of each (key, judge id)."""
    return {(judgement.key, judgement.judge_id): judgement for judgement in judgements}


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
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); restore it, or judge into another folder") from error
    if version > SCHEMA_VERSION:
        raise DataError(f"{file}: schema_version {version}; this program knows {SCHEMA_VERSION}; use a newer one")
    return manifest


def _read_prompts(path: Path) -> PromptSet:
    file = path / PROMPTS
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: missing or damaged ({error!r}); restore it, or judge into another folder") from error


class RunStore:
    """A run folder, open for judging by one process.

    Use as a context manager; on exit what was written is forced to disk and the folder is free again.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], prompts: PromptSet):
        """Makes the folder, or goes on with it.

        Raises:
            InputError: the folder holds another run: other prompts, another judge, or more than is asked now.
            TryAgainError: another process judges into it.
            DataError: one of its files is damaged.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.past: dict[tuple[str, str], Past] = {}
        """by (key, judge id)"""
        self.usage = Usage()
        self.requests = 0
        """paid for in this folder so far, earlier starts included"""
        self._lock = _lock(path / LOCK)
        try:
            self.manifest = self._settle(manifest, prompts)
            self._cut_torn_line()
            for judgement in read_judgements(path / JUDGEMENTS):
                self._remember(judgement)
            self._file = (path / JUDGEMENTS).open("ab", buffering=0)
        except BaseException:
            self._lock.close()
            raise
        self._unsynced, self._synced_at = 0, time.monotonic()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._sync()
        self._file.close()
        self._lock.close()

    def append(self, judgement: Judgement) -> None:
        """Writes one line, whole or not at all; it survives a kill at once, and a power cut a second later.

        Raises:
            TryAgainError: the disk is full.
        """
        start, rest = self._file.seek(0, os.SEEK_END), to_line(judgement).encode() + b"\n"
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(start)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TryAgainError(
                f"{self.path}: the disk is full; free some space, run the same command again"
            ) from error
        self._remember(judgement)
        self._unsynced += 1
        if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self._sync()

    def update(self, **fields: Any) -> None:
        """Changes fields of run.json, whole or not at all."""
        self.manifest |= fields
        atomic_write(self.path / MANIFEST, json.dumps(self.manifest, ensure_ascii=False, indent=1) + "\n")

    def _remember(self, judgement: Judgement) -> None:
        self.past[judgement.key, judgement.judge_id] = Past.of(judgement)
        self.usage += judgement.usage
        self.requests += judgement.attempts

    def _cut_torn_line(self) -> None:
        """Removes what a kill left of a last line, so that the next one starts on its own."""
        log = self.path / JUDGEMENTS
        if not log.is_file():
            return
        with log.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            end = _last_line_end(file, size)
            if end < size:
                file.truncate(end)

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _settle(self, manifest: dict[str, Any], prompts: PromptSet) -> dict[str, Any]:
        """Writes the manifest and the prompts, after a check that a folder in use is for the same run."""
        old = read_manifest(self.path)
        if old is None:
            if (self.path / JUDGEMENTS).exists():
                raise DataError(f"{self.path}: {JUDGEMENTS} without {MANIFEST}; judge into another folder")
            settled = manifest
        else:
            _check_same_run(self.path, old, manifest, _read_prompts(self.path), prompts)
            settled = manifest | {name: old[name] for name in LEARNT if name in old}
        content = json.dumps(to_json(prompts), ensure_ascii=False, indent=1)
        atomic_write(self.path / PROMPTS, content + "\n")
        atomic_write(self.path / MANIFEST, json.dumps(settled, ensure_ascii=False, indent=1) + "\n")
        return settled


def _check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any], held: PromptSet, wanted: PromptSet) -> None:
    """A folder may grow (more prompts, more images per prompt) but neither shrink nor change what is measured."""
    other = "give another --run, or --fresh, which keeps the old folder under another name"
    pairs = {
        "prompts": (old["dataset"]["sha256"][:12], new["dataset"]["sha256"][:12]),
        "rubric": (old["rubric"], new["rubric"]),
        "judge": (old["judge"]["spec"], new["judge"]["spec"]),
    }
    for name, (was, now) in pairs.items():
        if was != now:
            raise InputError(f"{path / MANIFEST}: {name}: the run was made with {was}, now it is {now}; {other}")
    lost = {prompt.index for prompt in held.prompts} - {prompt.index for prompt in wanted.prompts}
    if lost:
        raise InputError(
            f"{path / MANIFEST}: selection: the run has {len(held.prompts)} prompts, {len(lost)} of which are not "
            f"chosen now, for example {min(lost)}; choose at least those, or {other}"
        )
    was, now = old["images"]["per_prompt"], new["images"]["per_prompt"]
    if now < was:
        raise InputError(f"{path / MANIFEST}: images per prompt: the run has {was}, now it is {now}; {other}")


def _last_line_end(file: Any, size: int, block: int = 1 << 16) -> int:
    """Position after the last line end; 0 where there is none."""
    start = size
    while start > 0:
        start, stop = max(0, start - block), start
        file.seek(start)
        place = file.read(stop - start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
    return 0


def _lock(path: Path) -> Any:
    """Holds the folder until the returned file is closed or the process ends, however it ends.

    Raises:
        TryAgainError: another process holds it.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise TryAgainError(f"{path.parent}: in use by process {owner}; wait for it, or stop it") from error
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def atomic_write(path: Path, text: str) -> None:
    """A file that is there whole or not at all: temporary name, fsync, rename."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def set_aside(path: Path) -> Path | None:
    """Renames a run folder to a free name beside it, as what was paid for is not deleted; None where there is none.

    Raises:
        TryAgainError: another process judges into it.
    """
    if not path.exists():
        return None
    _lock(path / LOCK).close()
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside
