"""JSON and Python values in what a model wrote: read exactly, in linear time, whatever the text."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

NOT_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises on a text that is no literal."""
LONGEST_LITERAL = 200_000
"""Characters up to which a text is read as a Python literal; the parser takes hundreds of bytes for each."""
MOST_FAILURES = 20
"""Braces that begin no JSON, after which a text is searched no further."""


class Ambiguous:
    """Stands for the value of a key that an object has twice."""

    def __repr__(self) -> str:
        return "a key that is there twice"


AMBIGUOUS = Ambiguous()


class FoundObject(NamedTuple):
    """A JSON object in a text."""

    start: int
    end: int
    """text[start:end] is the object"""
    value: dict[str, Any]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        found |= {key: AMBIGUOUS for key, count in counts.items() if count > 1}
    return found


def _exact(number: str) -> Decimal:
    """A number with a point or an exponent as it is written; NaN where its exponent is beyond all computing."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return Decimal("NaN")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_float=_exact, strict=False)


def read_value(text: str) -> Any:
    """The JSON or Python value that a text without blanks around it is; None where it is none (or says null).

    Numbers with a point or an exponent are Decimals in JSON, so that 0.99999999999999999999 is not 1. A key that is
    there twice has the value AMBIGUOUS.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _python_value(text)


def _python_value(text: str) -> Any:
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        tree = ast.parse(text, mode="eval")
        doubled = any(isinstance(node, ast.Dict) and _has_doubles(node) for node in ast.walk(tree))
        return None if doubled else ast.literal_eval(tree)
    except NOT_LITERAL:
        return None


def _has_doubles(node: ast.Dict) -> bool:
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
    return len(set(keys)) < len(keys)


def top_level_objects(text: str) -> Iterator[FoundObject]:
    """JSON objects in a text, in order; not those inside others."""
    failures, place = 0, text.find("{")
    while place >= 0 and failures < MOST_FAILURES:
        try:
            value, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):  # a brace that begins no JSON
            failures, end = failures + 1, place + 1
        else:
            if isinstance(value, dict):
                yield FoundObject(place, end, value)
        place = text.find("{", end)


def as_text(value: Any) -> str:
    """A value in words that any file can hold: half characters, which JSON can escape, become U+FFFD."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_fence(text: str) -> str:
    """The text without blanks around it, and without a code fence around all of it."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```")):
        return text
    inner = text[3:-3]
    first, line_end, rest = inner.partition("\n")
    is_language = all(letter.isalnum() or letter in "-_" for letter in first.strip())
    return (rest if line_end and is_language else inner).strip()
