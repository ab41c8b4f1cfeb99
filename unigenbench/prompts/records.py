"""Prompt sets as JSON, as a run folder keeps them, and the digest of what a judge reads of a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from unigenbench.errors import DataError
from unigenbench.types import Point, Prompt, PromptSet, Repair

Record = TypeVar("Record", PromptSet, Prompt, Point)


def prompt_sha256(prompt: Prompt) -> str:
    """Digest of what a judge reads of a prompt: its text, and the labels and descriptions of its test points."""
    content = [prompt.text, [[point.label, point.description] for point in prompt.points]]
    return sha256(json.dumps(content, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def to_json(prompts: PromptSet) -> dict[str, Any]:
    """A prompt set as JSON can hold it."""
    return {
        **{key: value for key, value in vars(prompts).items() if key not in ("prompts", "repairs")},
        "path": str(prompts.path),
        "repairs": [vars(repair) for repair in prompts.repairs],
        "prompts": [
            {
                **vars(prompt),
                "flags": sorted(prompt.flags),
                "points": [{**vars(point), "flags": sorted(point.flags)} for point in prompt.points],
            }
            for prompt in prompts.prompts
        ],
    }


def from_json(content: Mapping[str, Any]) -> PromptSet:
    """The prompt set that `to_json` wrote.

    Raises:
        DataError: it did not.
    """
    try:
        made = PromptSet(
            **{
                **content,
                "path": Path(content["path"]),
                "repairs": tuple(Repair(**repair) for repair in content["repairs"]),
                "prompts": tuple(_prompt_from_json(prompt) for prompt in content["prompts"]),
            }
        )
        return _checked(made)
    except (KeyError, TypeError) as error:
        raise DataError(f"not a prompt set of a run folder ({error!r}); was it changed by hand?") from error


def _prompt_from_json(content: Mapping[str, Any]) -> Prompt:
    points = tuple(_checked(Point(**{**point, "flags": frozenset(point["flags"])})) for point in content["points"])
    return _checked(Prompt(**{**content, "flags": frozenset(content["flags"]), "points": points}))


def _checked(record: Record) -> Record:
    """The record, if what should be a text or a whole number is one.

    Raises:
        TypeError: it is not.
    """
    for field in fields(record):
        kind = {"str": str, "Language": str, "int": int}.get(str(field.type), object)
        if not isinstance(getattr(record, field.name), kind):
            raise TypeError(f"{field.name} is {str(getattr(record, field.name))[:40]!r}")
    return record
