"""Data sets of the Hugging Face hub, taken from its local cache or downloaded; and mirrors of a data set."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from t2ialign.data.tables.parts import SHARD_SUFFIXES, split_of
from t2ialign.errors import EnvironmentProblem, InputError

logger = logging.getLogger(__name__)

HUB = re.compile(r"hf:/+(?:datasets/)?([A-Za-z0-9][\w.-]*/[\w.-]+?)(?:@([\w./-]+))?")
REMOVED = {"yuvalkirstain/pickapic_v1", "yuvalkirstain/pickapic_v2"}
"""Ids that the hub no longer has (github.com/yuvalkirstain/PickScore/issues/36)."""


class Place(NamedTuple):
    """A data set on disk."""

    path: Path
    words: str = ""
    """Where it came from, if it was asked for by another name."""


def find_data(
    path: Path | str, mirrors: Sequence[str], revision: str | None, split: str | None, shards: int | None
) -> Place:
    """Where a data set lies: the first of a path and its mirrors that is there.

    Args:
        path: file, folder, file:///folder, or hf://owner/name with an optional @revision.
        mirrors: the same, or owner/name.
        revision: of hub data sets that name none.
        split, shards: of a hub data set only these are downloaded.

    Raises:
        InputError: none is there.
        EnvironmentProblem: none is there, and a hub data set could not be reached.
    """
    problems: list[InputError | EnvironmentProblem] = []
    for number, name in enumerate([str(path), *mirrors]):
        try:
            found = _find(name, revision, split, shards, is_mirror=number > 0)
        except (InputError, EnvironmentProblem) as error:
            problems.append(error)
            continue
        if number:
            logger.warning("%s: not found; its mirror %s is used", path, name)
            return found._replace(words=f"mirror {name}" + (f", {found.words}" if found.words else ""))
        return found
    if len(problems) == 1:
        raise problems[0]
    tried = "".join(f"\n  {problem}" for problem in problems)
    kind = next((type(problem) for problem in problems if isinstance(problem, EnvironmentProblem)), InputError)
    raise kind(f"{path}: neither it nor a mirror is there (data.path, data.mirrors):{tried}")


def _find(name: str, revision: str | None, split: str | None, shards: int | None, *, is_mirror: bool) -> Place:
    if name.startswith("file:/"):
        return Place(_existing(Path(unquote(urlparse(name).path))))
    hub = HUB.fullmatch(name)
    if hub is None and is_mirror and not Path(name).exists():
        hub = HUB.fullmatch(f"hf://{name}")
    if hub is not None:
        return _hub_folder(hub[1], hub[2] or revision, split, shards)
    return Place(_existing(Path(name)))


def _existing(path: Path) -> Path:
    try:
        is_there = path.is_file() or path.is_dir()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        hub = "; a data set of the hub is written hf://owner/name" if HUB.fullmatch(f"hf://{path}") else ""
        raise InputError(f"{path}: no such file or folder (data.path){hub if not path.suffix else ''}")
    return path


def _hub_folder(name: str, revision: str | None, split: str | None, shards: int | None) -> Place:
    """A hub data set's folder in the local cache; what is missing there is downloaded unless the hub is offline."""
    import huggingface_hub  # slow to import

    try:
        files = huggingface_hub.HfApi().list_repo_files(name, revision=revision, repo_type="dataset")
        wanted = _wanted(files, split, shards)
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=wanted, max_workers=4
        )
    except Exception as error:  # the network's errors have no common base
        if getattr(getattr(error, "response", None), "status_code", 500) < 500:
            raise _refused(name, revision, error) from error
        folder = _cached(name, revision, error)
    path = Path(folder)
    return Place(path, f"hub data set {name}, revision {path.name[:12]}")


def _cached(name: str, revision: str | None, error: Exception) -> str:
    """The folder in the local cache of a data set that the hub could not be asked for."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        reason = str(error).strip().splitlines()
        raise EnvironmentProblem(
            f"hf://{name}: not in the local cache, and the hub cannot be reached "
            f"({reason[0][:200] if reason else type(error).__name__}); check the connection (and HF_HUB_OFFLINE), or "
            "give a folder, or data.mirrors"
        ) from error


def _refused(name: str, revision: str | None, error: Exception) -> InputError | EnvironmentProblem:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return EnvironmentProblem(
            f"hf://{name}: needs a login and an accepted licence; accept it at https://huggingface.co/datasets/{name}, "
            "run `hf auth login`, then the same command again"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"hf://{name}: has no revision '{revision}'; set data.revision to another, or leave it out")
    gone = (
        "was removed from the hub"
        if name in REMOVED
        else "no such data set on the hub (or it is private: `hf auth login`)"
    )
    return InputError(f"hf://{name}: {gone}; give a copy of your own, or name one: data.mirrors=[owner/name]")


def _wanted(files: list[str], split: str | None, shards: int | None) -> list[str]:
    """The files of a repository to download: of tables those of the split, and of these the first so many."""
    tables = sorted(file for file in files if file.endswith(SHARD_SUFFIXES))
    others = [file for file in files if file not in tables]
    if split is not None:
        named = [file for file in tables if split in (split_of(Path(file).stem), split_of(Path(file).parent.name))]
        tables = named or tables
    return [*others, *tables[:shards]]
