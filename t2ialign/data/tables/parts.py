"""What a folder of tables holds: which files are one table, and which are other splits of the data set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from t2ialign.data.account import OTHER_SPLIT, Problem
from t2ialign.data.tables.table import listed
from t2ialign.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl")
SHARD_SUFFIXES = (".parquet", ".arrow", ".tar")
"""Endings of files of which several may be one table."""
SUFFIXES = (*TEXT_SUFFIXES, ".json", *SHARD_SUFFIXES)
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
"""Names of a data set's parts, with which names of files and folders begin."""
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)")


class Parts(NamedTuple):
    """The files of one table."""

    files: list[Path]
    split: str | None
    layout: str
    """How the folder is laid out, in words; empty where it is only files."""
    others: tuple[Problem, ...] = ()
    """Files of other splits."""


Splits = dict[str | None, list[Path]]
"""Files of each split; None for those of no named one."""


def find_parts(folder: Path, split: str | None = None, shards: int | None = None) -> Parts | None:
    """The files of a folder's table, or None if it holds no tables.

    Args:
        split: which part of the data set, where the folder holds several.
        shards: how many of its files, in order; default: all.

    Raises:
        DataError: it holds several tables or splits, so that one must be named, or lacks some of its shards.
    """
    found, layout = _splits(folder)
    if not found:
        return None
    known = sorted(name for name in found if name is not None)
    what = "shards" if _suffixes(found) & {*SHARD_SUFFIXES} else "tables"
    if split is None and len(known) > 1:
        raise DataError(f"{folder}: holds {what} of several splits ({listed(known)}); set data.split to one of them")
    if split is not None and split not in known:
        raise DataError(f"{folder}: data.split is '{split}'; it holds {what} of {listed(known) or 'no named split'}")
    files = found[split] if split is not None else [file for part in found.values() for file in part]
    if what == "tables" and len(files) > 1:
        raise DataError(f"{folder}: holds {len(files)} tables ({listed(p.name for p in files)}); set data.path to one")
    chosen = _whole(files, shards)
    others = [file for part in found.values() for file in part if file not in chosen]
    name = split or (known[0] if known and None not in found else None)
    return Parts(chosen, name, layout, tuple(Problem(str(file), OTHER_SPLIT) for file in others))


def _splits(folder: Path) -> tuple[Splits, str]:
    """The files of each split, and how the folder is laid out."""
    saved = _saved(folder)
    if saved:
        return saved, "a folder that `datasets` saved"
    listed_files = _of_readme(folder)
    if listed_files:
        return listed_files, "a hub data set (README.md)"
    found: Splits = {}
    for place in _places(folder):
        for file in _tables(place):
            found.setdefault(split_of(file.stem) or split_of(place.name if place != folder else ""), []).append(file)
    metadata = all(file.stem.lower() == "metadata" for files in found.values() for file in files)
    if len(_suffixes(found) & {*SHARD_SUFFIXES}) > 0 and len(_suffixes(found)) > 1:
        raise DataError(
            f"{folder}: holds tables of several kinds ({listed(sorted(_suffixes(found)))}); set data.path to one"
        )
    return found, "an imagefolder" if found and metadata else ""


def _suffixes(found: Splits) -> set[str]:
    return {file.suffix.lower() for files in found.values() for file in files}


def _places(folder: Path) -> list[Path]:
    """Where the tables of a folder may lie: in it, or else in data/ and in folders of splits."""
    if _tables(folder):
        return [folder]
    roots = [folder, folder / "data", folder / "default"]
    inside = [path for root in roots if root.is_dir() for path in sorted(root.iterdir()) if path.is_dir()]
    return [*roots[1:], *(path for path in inside if split_of(path.name) is not None)]


def _tables(folder: Path) -> list[Path]:
    """The tables in a folder; .json files only where there is no other, as programs keep their records in such."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in (*TEXT_SUFFIXES, *SHARD_SUFFIXES)]
    return found or [path for path in files if path.suffix.lower() == ".json" and _holds_array(path)]


def _holds_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def split_of(name: str) -> str | None:
    """The split that a name begins with: `test` of test-00000-of-00001, `validation_unique` of that."""
    first = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    if first not in SPLITS:
        return None
    return re.sub(r"[-_.]?\d+$", "", _NUMBERED.split(name.lower(), maxsplit=1)[0])


def _saved(folder: Path) -> Splits:
    from t2ialign.data.tables.arrow import saved_files  # pyarrow is slow to import

    files = saved_files(folder)
    if files is not None:
        return {None: files}
    path = folder / "dataset_dict.json"
    if not path.is_file():
        return {}
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["splits"]
        found = {str(name): saved_files(folder / name) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not the dataset_dict.json of saved splits; save the data set again") from None
    missing = next((name for name, files in found.items() if files is None), None)
    if missing is not None:
        raise DataError(f"{folder / missing}: has no state.json, though {path.name} names this split; copy it whole")
    return {name: files for name, files in found.items() if files}


def _of_readme(folder: Path) -> Splits:
    """The files of each split as the head of a hub repository's README names them; of its default subset."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    head = re.match(r"\ufeff?---\s*\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        content = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        content = None
    subsets = content.get("configs") if isinstance(content, dict) else None
    subsets = [subset for subset in subsets if isinstance(subset, dict)] if isinstance(subsets, list) else []
    first = next((subset for subset in subsets if subset.get("default")), subsets[0] if subsets else {})
    found: Splits = {}
    for entry in _entries(first.get("data_files")):
        patterns = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        files = sorted({file for pattern in patterns for file in folder.glob(str(pattern)) if file.is_file()})
        if files:
            found[str(entry["split"])] = [file for file in files if file.suffix.lower() in SUFFIXES]
    return {name: files for name, files in found.items() if files}


def _entries(data_files: Any) -> Iterable[dict[str, Any]]:
    if isinstance(data_files, str):
        return [{"split": "train", "path": data_files}]
    entries = data_files if isinstance(data_files, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and {"split", "path"} <= entry.keys()]


def _whole(files: list[Path], shards: int | None) -> list[Path]:
    """The first so many files, none missing.

    Raises:
        DataError: their names say that there are more.
    """
    chosen = files[:shards]
    numbers = [match for file in chosen if (match := _NUMBERED.search(file.stem))]
    if len(numbers) != len(chosen) or not chosen:
        return chosen
    total = int(numbers[0][2]) if shards is None else min(shards, int(numbers[0][2]))
    present = {int(number[1]) for number in numbers}
    missing = [place for place in range(total) if place not in present] if len({n[2] for n in numbers}) == 1 else []
    if missing:
        fewer = f", or set data.shards={missing[0]} for those before it" if missing[0] else ""
        raise DataError(
            f"{chosen[0].parent}: has {len(chosen)} of {total} shards like {chosen[0].name}; number {missing[0]} is "
            f"missing: get the others{fewer}"
        )
    return chosen
