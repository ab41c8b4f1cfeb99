"""What the report reads in the folder of a run: names of files, and their content."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from t2ialign.errors import DataError

SUMMARY = "summary.json"
VERDICTS = "verdicts.jsonl"
TRAINING = "training"
"""Folder of the training run inside a folder that holds more than one stage."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none.

    Raises:
        DataError: it is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run the command that wrote it again") from None


def read_json_lines(path: Path) -> list[Any]:
    """The content of each line; none where there is no such file.

    Raises:
        DataError: a line is not JSON.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); run the command that wrote it again") from None
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The sections of a YAML file; empty where there is none.

    Raises:
        DataError: it is not YAML.
    """
    if not path.is_file():
        return {}
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({error})") from None


def flatten(content: Any) -> dict[str, Any]:
    """{dotted key: value} of every leaf of a nested mapping."""
    return dict(_leaves(content, ""))


def _leaves(value: Any, key: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}.{name}" if key else str(name))
