"""One row of a prompt file: its number, its text, and the JSON object that sorts it and lists its test points."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from unigenbench.errors import InputError
from unigenbench.prompts.notes import Notes
from unigenbench.prompts.schema import KEYS, Keys
from unigenbench.taxonomy import criterion_of, fold_structure, fold_subject, fold_subtheme, fold_theme
from unigenbench.types import Language, Point, Prompt

QUOTED = re.compile(r"""["“‘「『《]|(?<![A-Za-z0-9])'[^']+'""")
"""Where words are quoted; an apostrophe within a word quotes nothing."""
INDEX = re.compile("[0-9]{1,18}")
"""A prompt's number, below 10^18."""


class Columns(NamedTuple):
    """Names of the columns of a file."""

    prompt: str
    points: str
    language: Language | None
    """None where the names do not say"""


class Row(NamedTuple):
    """A row that could be read."""

    line: int
    """where it begins, 1-based"""
    prompt: Prompt
    language: Language
    """of the keys of its object"""


class _Source(NamedTuple):
    """Where a row comes from, and where its problems go."""

    line: int
    columns: Columns
    notes: Notes
    strict: bool
    """mend nothing"""

    def error(self, what: str) -> None:
        self.notes.error(self.line, what)

    def warning(self, what: str) -> None:
        self.notes.warning(self.line, what)


def read_row(
    cells: Mapping[str, str], line: int, columns: Columns, language: Language | None, notes: Notes, *, strict: bool
) -> Row | None:
    """The prompt of a row; None where it cannot be used, which the notes then say.

    Args:
        cells: by the names of their columns.
        language: of the header or of earlier rows, None where neither says.
        strict: mend nothing.
    """
    source = _Source(line, columns, notes, strict)
    index, text = cells["index"], cells[columns.prompt]
    if not INDEX.fullmatch(index):
        source.error(f"index: '{_short(index)}' is no number; write 0, 1, 2 …")
        return None
    if not text.strip():
        source.error(f"{columns.prompt}: is empty")
        return None
    content = _object(source, cells[columns.points])
    keys = None if content is None else _keys(source, content, language)
    if content is None or keys is None:
        return None
    points = _points(source, text, content, KEYS[keys])
    sorting = _sorting(source, content, KEYS[keys])
    return None if points is None else Row(line, Prompt(int(index), text, *sorting, points), keys)


def _object(source: _Source, text: str) -> dict[str, Any] | None:
    """The object of a row, mended if that helps and is allowed."""
    column = source.columns.points
    try:
        content = _loads(text)
    except (ValueError, RecursionError) as error:
        mended = insert_commas(text)
        if source.strict or mended is None:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            source.error(f"{column}: not JSON ({why})")
            return None
        source.notes.repair(
            source.line, f"{column}: a comma was missing between two strings, and was put in; mend the file"
        )
        content = mended
    if not isinstance(content, dict):
        source.error(f"{column}: is a {type(content).__name__}, not an object with keys")
        return None
    if half := _half_character(content):
        source.error(f"{column}: holds half a character ({half}); write the whole one")
        return None
    return content


def _loads(text: str) -> Any:
    """JSON; a key that is there twice is an error, as only one of its values could be used."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"key '{twice}' is there twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def insert_commas(text: str) -> Any:
    """The JSON value that a text becomes with commas between neighbouring strings; None where that is not enough."""
    # strings are consumed whole, so that no quote is taken for the wrong end of one
    mended = re.sub(r'("(?:[^"\\]|\\.)*")(\s*(?="))?', lambda m: m[1] if m[2] is None else f"{m[1]},{m[2]}", text)
    try:
        return _loads(mended)
    except (ValueError, RecursionError):
        return None


def _half_character(content: Mapping[str, Any]) -> str | None:
    r"""A surrogate without its other half, which JSON can write and no file can hold: for example \ud83d."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return None


def _keys(source: _Source, content: Mapping[str, Any], expected: Language | None) -> Language | None:
    """The language of the row's keys; None where needed ones are missing or they are not those of the file."""
    language: Language = "zh" if KEYS["zh"].points in content else "en"
    keys, column = KEYS[language], source.columns.points
    missing = [key for key in keys if key not in content]
    needed = [key for key in (keys.points, keys.descriptions) if key in missing]
    if needed:
        source.error(f"{column}: no key '{needed[0]}'; its keys are {_short(', '.join(content))}")
        return None
    if language != (expected or language):
        source.error(f"{column}: its keys are '{language}', those of other rows or the header not")
        return None
    if missing:
        source.warning(f"{column}: no key {', '.join(map(repr, missing))}; left empty")
    foreign = [key for key in content if key not in keys]
    if foreign:
        source.warning(f"{column}: unknown key {_short(', '.join(map(repr, foreign)))}; not read")
    return language


def _points(source: _Source, text: str, content: Mapping[str, Any], keys: Keys) -> tuple[Point, ...] | None:
    labels, descriptions = content[keys.points], content[keys.descriptions]
    for key, values in ((keys.points, labels), (keys.descriptions, descriptions)):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            source.error(f"{key}: {_short(repr(values))} is not a list of strings")
            return None
    if len(labels) != len(descriptions):
        source.error(f"{len(labels)} in {keys.points} but {len(descriptions)} in {keys.descriptions}")
        return None
    if not labels:
        source.error(f"{keys.points}: is empty; a prompt needs a test point")
        return None
    pairs, counts = list(zip(labels, descriptions, strict=True)), Counter(labels)
    points = [_point(source, text, label, description, counts[label]) for label, description in pairs]
    for pair, count in Counter(pairs).items():
        if count > 1:
            source.warning(f"{keys.points}: '{pair[0]}' is there {count} times with one description")
    return None if None in points else tuple(point for point in points if point is not None)


def _point(source: _Source, text: str, label: str, description: str, count: int) -> Point | None:
    """One test point; `count` says how often its label is there."""
    try:
        criterion = criterion_of(label).id
    except InputError as error:
        source.error(str(error))
        return None
    flags = set()
    if not description.strip():
        flags.add("empty_description")
        source.warning(f"'{label}' has an empty description; the judge will not be told what it means")
    if criterion == "text" and not QUOTED.search(f"{text} {description}"):
        flags.add("ungrounded")
        source.warning(f"'{label}' is tested but no words are quoted; an image without words may pass")
    if count > 1:
        flags.add("duplicate_label")
    return Point(criterion, label, description, frozenset(flags))


def _sorting(source: _Source, content: Mapping[str, Any], keys: Keys) -> tuple[str, str, str, str]:
    """Theme, sub-theme, subject and structure under their canonical names; unknown ones as they are written."""
    written = [str(content.get(key, "")) for key in keys[:4]]
    theme = fold_theme(written[0]) or written[0]
    folded = (theme, fold_subtheme(theme, written[1]), fold_subject(written[2]), fold_structure(written[3]))
    known = (fold_theme(written[0]), *folded[1:])
    for key, label, name in zip(keys, written, known, strict=False):
        if name is None and label:
            source.warning(f"{key}: '{_short(label)}' is not known; counted under that name")
    theme, subtheme, subject, structure = (name or label for name, label in zip(folded, written, strict=True))
    return theme, subtheme, subject, structure


def _short(text: str, length: int = 300) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
