"""Prompt files in the schema of UniGenBench: read, mend, check, choose from, keep.

A file is a CSV with an index, a prompt, and a JSON object that sorts the prompt and lists its test points. Column names
may end in the category (_en, _zh, _en_long, _zh_long); the object's keys are English or Chinese.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError, InputError
from unigenbench.taxonomy import (
    DIMENSION_OF,
    criterion_of,
    find_dimension,
    fold_structure,
    fold_subject,
    fold_subtheme,
    fold_theme,
)
from unigenbench.types import Language, Point, Problem, Prompt, PromptSet, Repair, Severity

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"
SHIPPED = {"suite_en": "suite 1", "suite_zh": "suite 1", "shapes": "shapes 1"}
"""Our own prompt files, by name, with their versions."""
OFFICIAL = {
    "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459": "en",
    "5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253": "en_long",
    "7ff2d2131e68e6182f43a28ecf03d070f7735788f3c5420db3f83141492e8cb3": "zh",
    "6e281a5781878584db932a3bfd16dc51afb195566eb7a30c17fb9c09fd3b1776": "zh_long",
}
"""SHA-256 of the official files as of 2025-10-01 (version v1), with their categories."""
SUFFIXES: dict[str, Language | None] = {"_en_long": "en", "_zh_long": "zh", "_en": "en", "_zh": "zh", "": None}
"""Endings of the column names, with the language they stand for."""
QUOTED = re.compile(r"""["“‘「『《]|(?<![A-Za-z0-9])'[^']+'""")
"""Where words are quoted; an apostrophe within a word quotes nothing."""
BLIND = frozenset({"empty_description", "ungrounded"})
"""Flags of test points that cannot be judged as they should."""
SHOWN = 20
"""Things that a message lists before it only counts."""


class Keys(NamedTuple):
    """Keys of the JSON object of a row."""

    theme: str
    subtheme: str
    subject: str
    structure: str
    points: str
    descriptions: str


KEYS: dict[Language, Keys] = {
    "en": Keys(
        "Primary Categories",
        "Secondary Categories",
        "Subjects",
        "Sentence Structure",
        "Testpoints",
        "Testpoint Description",
    ),
    "zh": Keys("一级垂类", "二级垂类", "主体", "句式", "考点", "考点对应描述"),
}


class _Columns(NamedTuple):
    prompt: str
    points: str
    language: Language | None
    """None where the names do not say."""


def read_prompts(path: Path | str, *, strict: bool = False) -> PromptSet:
    """The prompts of a file, or of a shipped set by its name: suite_en, suite_zh, shapes.

    What was mended is recorded, and warned of like all else that is odd but can be used.

    Args:
        strict: mend nothing; a row of broken JSON is an error.

    Raises:
        InputError: there is no such file, or it cannot be used; the message names the first fault.
    """
    reading = _Reading(_locate(path), strict)
    errors = reading.found("error")
    if errors or reading.prompts is None:
        more = f" ({len(errors) - 1} more; see them all with `unigenbench validate`)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
    for repair in reading.repairs:
        logger.warning("%s:%d: %s", reading.path, repair.line, repair.what)
    others = len(reading.found("warning")) - len(reading.repairs)
    if others:
        logger.warning("%s: %d remarks; `unigenbench validate` lists them", reading.path, others)
    return reading.prompts


class Examined(NamedTuple):
    """A prompt file, checked."""

    prompts: PromptSet | None
    """None where there is an error"""
    problems: list[Problem]
    """in the order of lines, file-wide ones last"""


def examine_prompts(path: Path | str, *, strict: bool = False) -> Examined:
    """A file as `read_prompts` reads it, with all that is wrong with it.

    Raises:
        InputError: there is no such file.
    """
    reading = _Reading(_locate(path), strict)
    return Examined(reading.prompts, reading.problems)


def validate_prompts(path: Path | str, *, strict: bool = False) -> list[Problem]:
    """All that is wrong with a prompt file.

    Raises:
        InputError: there is no such file.
    """
    return examine_prompts(path, strict=strict).problems


def _locate(path: Path | str) -> Path:
    shipped = DATA / f"{path}.csv"
    if str(path) in SHIPPED and shipped.is_file() and not Path(path).is_file():
        return shipped
    if not Path(path).is_file():
        raise InputError(f"{path}: no such prompt file; give a CSV, or one of {', '.join(SHIPPED)}")
    return Path(path)


class _Reading:
    """One pass over a file; whatever is wrong is collected, so that reading and checking cannot disagree."""

    def __init__(self, path: Path, strict: bool):
        self.path = path
        self.strict = strict
        self.problems: list[Problem] = []
        self.repairs: list[Repair] = []
        self.language: Language | None = None
        content = path.read_bytes()
        read = list(self._rows(content))
        self._check_whole(read)
        self.prompts = None if self.found("error") else self._as_set(read, sha256(content).hexdigest())

    def found(self, severity: Severity) -> list[Problem]:
        """The problems of one severity."""
        return [problem for problem in self.problems if problem.severity == severity]

    def _add(self, severity: Severity, line: int | None, what: str) -> None:
        self.problems.append(Problem(severity, f"{self.path}:{line}" if line else str(self.path), what))

    def _rows(self, content: bytes) -> Iterator[tuple[int, Prompt]]:
        """(line, prompt) of each row that can be read."""
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            self._add("error", line, f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8")
            return
        if text.startswith("\ufeff"):
            self._add("warning", 1, "begins with a byte order mark; save the file as UTF-8 without it")
        rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
        columns: _Columns | None = None
        header: list[str] = []
        line = 1
        try:
            for row in rows:
                if columns is None:
                    header = row
                    columns = self._columns(header)
                    if columns is None:
                        return
                elif row and len(row) != len(header):
                    self._add("error", line, f"{len(row)} fields, not {len(header)}; check its quotes and commas")
                elif row and (prompt := self._prompt(line, dict(zip(header, row, strict=True)), columns)) is not None:
                    yield line, prompt
                line = rows.line_num + 1
        except csv.Error as error:
            self._add("error", line, f"not CSV ({error}); quote fields that hold quotes or commas")
        if columns is None:
            self._add("error", None, "is empty; give a CSV with a header")

    def _columns(self, header: Sequence[str]) -> _Columns | None:
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            self._add("error", 1, f"column '{twice[0]}' is there twice")
            return None
        for suffix, language in SUFFIXES.items():
            if {"index", f"prompt{suffix}", f"sub_dims{suffix}"} <= set(header):
                self.language = language
                return _Columns(f"prompt{suffix}", f"sub_dims{suffix}", language)
        endings = ", ".join(repr(suffix) for suffix in SUFFIXES if suffix)
        self._add(
            "error",
            1,
            f"its columns are {', '.join(header) or 'none'}; needs index, prompt and sub_dims, "
            f"the last two with the same ending: {endings} or none",
        )
        return None

    def _prompt(self, line: int, row: Mapping[str, str], columns: _Columns) -> Prompt | None:
        text = row[columns.prompt]
        if not re.fullmatch("[0-9]+", row["index"]):
            self._add("error", line, f"index: '{row['index']}' is no number; write 0, 1, 2 …")
            return None
        if not text.strip():
            self._add("error", line, f"{columns.prompt}: is empty")
            return None
        content = self._json(line, row[columns.points], columns.points)
        keys = None if content is None else self._keys(line, content, columns)
        if content is None or keys is None:
            return None
        points = self._points(line, text, content, keys)
        theme, subtheme, subject, structure = self._sorting(line, content, keys)
        return None if points is None else Prompt(int(row["index"]), text, theme, subtheme, subject, structure, points)

    def _json(self, line: int, text: str, column: str) -> dict[str, Any] | None:
        """The object of a row, mended if that helps and is allowed."""
        try:
            content = json.loads(text)
        except ValueError as error:
            mended = insert_commas(text)
            if self.strict or mended is None:
                self._add("error", line, f"{column}: not JSON ({error})")
                return None
            what = f"{column}: a comma was missing between two strings, and was put in; mend the file"
            self.repairs.append(Repair(line, what))
            self._add("warning", line, what)
            content = mended
        if not isinstance(content, dict):
            self._add("error", line, f"{column}: is a {type(content).__name__}, not an object with keys")
            return None
        return content

    def _keys(self, line: int, content: Mapping[str, Any], columns: _Columns) -> Keys | None:
        """The keys of the row's language; missing or foreign ones are reported."""
        language: Language = "zh" if KEYS["zh"].points in content else "en"
        self.language = self.language or language
        keys = KEYS[language]
        missing = [key for key in keys if key not in content]
        needed = [key for key in (keys.points, keys.descriptions) if key in missing]
        if needed:
            self._add("error", line, f"{columns.points}: no key '{needed[0]}'; its keys are {', '.join(content)}")
            return None
        if language != self.language:
            self._add(
                "error", line, f"{columns.points}: its keys are '{language}', those of other rows or the header not"
            )
            return None
        if missing:
            self._add("warning", line, f"{columns.points}: no key {', '.join(map(repr, missing))}; left empty")
        foreign = [key for key in content if key not in keys]
        if foreign:
            self._add("warning", line, f"{columns.points}: unknown key {', '.join(map(repr, foreign))}; not read")
        return keys

    def _points(self, line: int, text: str, content: Mapping[str, Any], keys: Keys) -> tuple[Point, ...] | None:
        labels, descriptions = content[keys.points], content[keys.descriptions]
        for key, values in ((keys.points, labels), (keys.descriptions, descriptions)):
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                self._add("error", line, f"{key}: {values!r} is not a list of strings")
                return None
        if len(labels) != len(descriptions):
            self._add("error", line, f"{len(labels)} in {keys.points} but {len(descriptions)} in {keys.descriptions}")
            return None
        if not labels:
            self._add("error", line, f"{keys.points}: is empty; a prompt needs a test point")
            return None
        pairs = list(zip(labels, descriptions, strict=True))
        points = [self._point(line, text, label, description, labels) for label, description in pairs]
        for pair, count in Counter(pairs).items():
            if count > 1:
                self._add("warning", line, f"{keys.points}: '{pair[0]}' is there {count} times with one description")
        return None if None in points else tuple(point for point in points if point is not None)

    def _point(self, line: int, text: str, label: str, description: str, labels: Sequence[str]) -> Point | None:
        try:
            criterion = criterion_of(label).id
        except InputError as error:
            self._add("error", line, str(error))
            return None
        flags = set()
        if not description.strip():
            flags.add("empty_description")
            self._add("warning", line, f"'{label}' has an empty description; the judge will not be told what it means")
        if criterion == "text" and not QUOTED.search(f"{text} {description}"):
            flags.add("ungrounded")
            self._add("warning", line, f"'{label}' is tested but no words are quoted; an image without words may pass")
        if labels.count(label) > 1:
            flags.add("duplicate_label")
        return Point(criterion, label, description, frozenset(flags))

    def _sorting(self, line: int, content: Mapping[str, Any], keys: Keys) -> tuple[str, str, str, str]:
        """Theme, sub-theme, subject and structure under their canonical names; unknown ones as they are written."""
        written = [str(content.get(key, "")) for key in keys[:4]]
        theme = fold_theme(written[0]) or written[0]
        folded = (theme, fold_subtheme(theme, written[1]), fold_subject(written[2]), fold_structure(written[3]))
        known = (fold_theme(written[0]), *folded[1:])
        for key, label, name in zip(keys, written, known, strict=False):
            if name is None and label:
                self._add("warning", line, f"{key}: '{label}' is not known; counted under that name")
        theme, subtheme, subject, structure = (name or label for name, label in zip(folded, written, strict=True))
        return theme, subtheme, subject, structure

    def _check_whole(self, read: Sequence[tuple[int, Prompt]]) -> None:
        if not read and not self.found("error"):
            self._add("error", None, "holds no prompts")
        seen: dict[int, int] = {}
        texts: dict[str, int] = {}
        for line, prompt in read:
            if prompt.index in seen:
                self._add("error", line, f"index {prompt.index} is that of line {seen[prompt.index]} too")
            if prompt.text in texts:
                self._add("warning", line, f"the prompt is that of line {texts[prompt.text]} too")
            seen.setdefault(prompt.index, line)
            texts.setdefault(prompt.text, line)
        gaps = sorted(set(range(max(seen, default=-1) + 1)) - set(seen))
        if gaps and not self.found("error"):
            self._add("warning", None, f"indices are not 0 to {max(seen)}: {listed(gaps)} missing")

    def _as_set(self, read: Sequence[tuple[int, Prompt]], digest: str) -> PromptSet:
        assert self.language is not None  # some row was read
        name, version = OFFICIAL.get(digest), "official v1"
        if name is None:
            name, version = self.path.stem, _shipped_version(self.path.stem, digest)
        prompts = tuple(prompt for _, prompt in read)
        return PromptSet(name, self.language, prompts, self.path, digest, version, tuple(self.repairs))


def _shipped_version(name: str, digest: str) -> str:
    shipped = DATA / f"{name}.csv"
    if name in SHIPPED and shipped.is_file() and sha256(shipped.read_bytes()).hexdigest() == digest:
        return SHIPPED[name]
    return "unknown"


def insert_commas(text: str) -> dict[str, Any] | None:
    """The JSON object that a text becomes with commas between neighbouring strings; None where that is not enough."""
    # strings are consumed whole, so that no quote is taken for the wrong end of one
    mended = re.sub(r'("(?:[^"\\]|\\.)*")(\s*(?="))?', lambda m: m[1] if m[2] is None else f"{m[1]},{m[2]}", text)
    try:
        return json.loads(mended)
    except ValueError:
        return None


def listed(items: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(map(str, items[:SHOWN]))
    return shown if len(items) <= SHOWN else f"{shown} and {len(items) - SHOWN} more"


def subsets() -> dict[str, tuple[int, ...]]:
    """Named choices of indices of the official prompt files."""
    content = json.loads((DATA / "subsets.json").read_text(encoding="utf-8"))
    return {name: tuple(subset["indices"]) for name, subset in content.items()}


def parse_indices(text: str) -> tuple[int, ...]:
    """The numbers of `0-99,120`, in order.

    Raises:
        InputError: not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise InputError(f"indices '{text}': '{part}' is neither a number nor a range; write 0-99,120")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def select(
    prompts: PromptSet,
    *,
    limit: int | None = None,
    indices: Iterable[int] | None = None,
    subset: str | None = None,
    theme: str | None = None,
    dimension: str | None = None,
    exclude_flagged: bool = False,
) -> PromptSet:
    """A part of a prompt set, which says in words how it was chosen; the set itself where nothing is asked.

    Args:
        limit: the first so many, of what the others leave.
        subset: a name of `subsets()`.
        theme: a name, in either language.
        dimension: an id or a name; prompts with a test point of it are kept whole.
        exclude_flagged: leave out prompts with a test point that has no description or nothing to be checked against.

    Raises:
        InputError: an unknown name or index, or nothing is left.
    """
    kept, words = list(prompts.prompts), [prompts.selection] if prompts.selection else []
    if subset is not None:
        known = subsets()
        if subset not in known:
            raise InputError(f"subset '{subset}' is unknown; there are {', '.join(known)}")
        kept, words = _by_index(prompts, kept, known[subset], f"subset {subset}"), [*words, subset]
    if indices is not None:
        wanted = sorted(set(indices))
        kept, words = _by_index(prompts, kept, wanted, "indices"), [*words, f"indices {_ranges(wanted)}"]
    if theme is not None:
        name = fold_theme(theme) or theme
        kept, words = [prompt for prompt in kept if prompt.theme == name], [*words, f"theme {name}"]
    if dimension is not None:
        column = find_dimension(dimension)
        kept = [prompt for prompt in kept if any(DIMENSION_OF[point.criterion] == column for point in prompt.points)]
        words.append(f"dimension {column.name}")
    if exclude_flagged:
        kept = [prompt for prompt in kept if not any(point.flags & BLIND for point in prompt.points)]
        words.append("without flagged test points")
    if limit is not None:
        kept, words = kept[:limit], [*words, f"first {limit}"]
    if not kept:
        raise InputError(f"{prompts.path}: no prompt is left of: {', '.join(words)}; ask for less")
    return replace(prompts, prompts=tuple(kept), selection=", ".join(words) or None)


def _by_index(prompts: PromptSet, kept: list[Prompt], wanted: Sequence[int], what: str) -> list[Prompt]:
    missing = sorted(set(wanted) - {prompt.index for prompt in prompts.prompts})
    if missing:
        raise InputError(f"{prompts.path}: {what}: {listed(missing)} not in the file; leave them out")
    return [prompt for prompt in kept if prompt.index in set(wanted)]


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3, 7` of 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def prompt_sha256(prompt: Prompt) -> str:
    """Changes with what a judge is told of a prompt: its text, and the labels and descriptions of its test points."""
    told = [prompt.text, [[point.label, point.description] for point in prompt.points]]
    return sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()


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
        return PromptSet(
            **{
                **content,
                "path": Path(content["path"]),
                "repairs": tuple(Repair(**repair) for repair in content["repairs"]),
                "prompts": tuple(_prompt_from_json(prompt) for prompt in content["prompts"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"not a prompt set of a run folder ({error!r}); was it changed by hand?") from error


def _prompt_from_json(content: Mapping[str, Any]) -> Prompt:
    points = tuple(Point(**{**point, "flags": frozenset(point["flags"])}) for point in content["points"])
    return Prompt(**{**content, "flags": frozenset(content["flags"]), "points": points})
