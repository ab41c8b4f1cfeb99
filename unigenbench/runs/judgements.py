"""Lines of judgements.jsonl: one image, judged once, a line each; the last line of a key counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError
from unigenbench.types import Judgement, Status, Usage

NOT_A_JUDGEMENT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a damaged line raises."""
ERROR_CHARACTERS = 400
"""of an error that a later start remembers"""


class LastJudgement(NamedTuple):
    """How a key was judged last, and of what: another image or prompt is another question."""

    image_sha256: str
    prompt_sha256: str
    status: Status
    parse_attempts: int
    error: str
    """shortened"""

    def matches(self, image_sha256: str, prompt_sha256: str) -> bool:
        """Whether image and prompt are still the same."""
        return (self.image_sha256, self.prompt_sha256) == (image_sha256, prompt_sha256)

    @classmethod
    def from_judgement(cls, judgement: Judgement) -> LastJudgement:
        """The part of a judgement that a later start needs."""
        return cls(
            judgement.image_sha256,
            judgement.prompt_sha256,
            judgement.status,
            judgement.parse_attempts,
            judgement.error[:ERROR_CHARACTERS],
        )


def last_judgements(path: Path) -> dict[tuple[str, str], LastJudgement]:
    """The last line of each (key, judge id) of a judgements.jsonl, in short; empty where there is no file."""
    return {(line.key, line.judge_id): LastJudgement.from_judgement(line) for line in read_judgements(path)}


def to_line(judgement: Judgement) -> str:
    """One line of judgements.jsonl, without the line feed."""
    return json.dumps(asdict(judgement), ensure_ascii=False)


def from_fields(fields: Mapping[str, Any]) -> Judgement:
    """The inverse of `to_line`, after JSON.

    Raises:
        KeyError, TypeError: a field is missing, unknown, or of another type.
    """
    tuples = {name: tuple(fields[name]) if fields[name] is not None else None for name in _ITEMS}
    judgement = Judgement(**{**fields, **tuples, "usage": Usage(**fields["usage"])})
    for kind, names in _TYPES.items():
        for name in names:
            _check_type(name, getattr(judgement, name), kind)
    for name, kind in _ITEMS.items():
        for item in getattr(judgement, name) or ():
            _check_type(name, item, kind)
    for name, count in vars(judgement.usage).items():
        _check_type(f"usage.{name}", count, int)
    return judgement


_TYPES = {
    str: ("key", "judge_id", "image_sha256", "prompt_sha256", "status", "raw", "parse_note", "error", "created"),
    int: ("prompt_index", "image_index", "attempts", "parse_attempts"),
}
_ITEMS: dict[str, type | tuple[type, ...]] = {"verdicts": object, "analyses": str, "probabilities": (int, float)}


def _check_type(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: {str(value)[:40]!r} is of another type")


def read_judgements(path: Path) -> Iterator[Judgement]:
    """Every line in order, none where there is no file. A last line without line feed was cut by a kill: left out.

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
            except NOT_A_JUDGEMENT as error:
                raise DataError(
                    f"{path}:{number}: no judgement ({error!r}); delete the line, and `unigenbench judge` asks again"
                ) from error


def newest(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Judgement]:
    """The last line of each (key, judge id)."""
    return {(judgement.key, judgement.judge_id): judgement for judgement in judgements}
