"""What a judge's reply says: a verdict for each test point, or the reason why it cannot be read.

Two readers. "robust" finds the answer in what models really write and never guesses: no padding, no rounding.
"official" is the rule of the official script (first match of each tag, one Python literal in it) and counts as its
scores do, except that what makes that script stop is a failure here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from unigenbench.protocol.values import (
    AMBIGUOUS,
    LONGEST_LITERAL,
    NOT_LITERAL,
    FoundObject,
    as_text,
    read_value,
    top_level_objects,
    without_fence,
)

Mode = Literal["robust", "official"]
Reason = Literal["empty", "no_answer", "unreadable", "wrong_length", "bad_value", "not_counted"]
REASONS: tuple[Reason, ...] = ("empty", "no_answer", "unreadable", "wrong_length", "bad_value", "not_counted")
"""no text; no score in it; a score that is no list; another number of verdicts; a verdict that is neither 0 nor 1; a
reply that the official scores leave out (official mode only)."""

_WORDS = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "是": 1, "否": 0}
_SEPARATORS = re.compile(r"[\s,，、;；\[\]［］【】()（）\"'“”‘’]+")
_FULL_WIDTH = str.maketrans("０１", "01")
_THOUGHT = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_SCORE = re.compile(r"<score>([^<]*)</score>", re.IGNORECASE)
_UNCLOSED_SCORE = re.compile(r"<score>\s*(\[[^\[\]<]*\])[\s`]*\Z", re.IGNORECASE)
_ANALYSIS = re.compile(r"<(/?)analysis>", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:final |my )?(?:answer|score|verdict|result|output)s?\W*|(?:答案|评分|得分|结果)\W*", re.IGNORECASE
)
"""What may stand before an answer on its line, as in "Final answer: ..."."""
_AROUND = " \t`*.。"
"""Marks that may surround an answer on its line."""
_LINE = 80
"""Characters of a line that are looked at before and after an answer."""
_TRIED = 8
"""Places from which the list of analyses is tried, where strings in it quote the tag; and answers that are tried."""


@dataclass(frozen=True)
class Parsed:
    """A reply that could be read."""

    verdicts: tuple[int, ...]
    """0 or 1 for each test point, in order"""
    analyses: tuple[str, ...] = ()
    """what the judge says of each test point; the raw text as one where it cannot be told apart"""
    note: str = ""
    """"analysis_missing", "analysis_unparsed" or "analysis_length" where the analyses are not as asked for"""


@dataclass(frozen=True)
class ParseFailure:
    """A reply that cannot be read."""

    reason: Reason
    detail: str = ""
    """what was seen, for a reader"""


class _Span(NamedTuple):
    """Where something stands in a text."""

    start: int
    end: int


class _Unreadable(Exception):
    """Carries the failure out of the depth of a reader."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.failure = ParseFailure(reason, detail)


def parse(text: str, n: int, mode: Mode = "robust") -> Parsed | ParseFailure:
    """The verdicts of a reply.

    Args:
        text: all that the judge wrote.
        n: how many test points it was asked about, at least 1.
        mode: "robust", or "official" for the rules of the official script.

    Raises:
        ValueError: n is not positive.
    """
    if n < 1:
        raise ValueError(f"a reply is about at least 1 test point, not {n}")
    try:
        if not text.strip():
            raise _Unreadable("empty", "the reply is empty")
        return _official(text, n) if mode == "official" else _robust(text, n)
    except _Unreadable as error:
        return error.failure


def _robust(text: str, n: int) -> Parsed:
    text = _without_thought(text)
    whole = read_value(without_fence(text))
    if isinstance(whole, dict) and (found := _from_object(whole, n)):
        return found
    objects = list(top_level_objects(text))
    if found := _from_tags(text, n, objects):
        return found
    for item in reversed(objects):
        if _is_answer(text, _Span(item.start, item.end)) and (found := _from_object(item.value, n)):
            return found
    raise _Unreadable("no_answer", f"neither <score> nor a list of checks in {_short(text)}")


def _without_thought(text: str) -> str:
    """The reply after its reasoning, whose own quotations of the format are no answer."""
    opened = _THOUGHT.match(text)
    ends = [end.end() for end in _END_OF_THOUGHT.finditer(text)]
    if not ends:
        if opened:
            raise _Unreadable("no_answer", "the reasoning does not end")
        return text
    answer = text[ends[0] :] if opened else text
    if isinstance(read_value(without_fence(answer)), dict):  # whose strings may quote the end of a thought
        return answer
    return text[ends[-1] :]


def _from_tags(text: str, n: int, objects: Sequence[FoundObject]) -> Parsed | None:
    """The last answer in tags; None where there is none. What stands in a JSON object is quoted by it."""
    for score, body in _scores(text):
        if _is_answer(text, score) and not any(item.start < score.start < item.end for item in objects):
            verdicts = _verdicts(body, n)
            analyses, note = _analyses(text[: score.start], n)
            if note == "analysis_missing":
                analyses, note = _analyses(text[score.end :], n)
            return Parsed(verdicts, analyses, note)
    return None


def _scores(text: str) -> Iterator[tuple[_Span, str]]:
    """(place, body) of the scores in a text, the last one first; one that is not closed only where it ends the text."""
    if unclosed := _UNCLOSED_SCORE.search(text):
        yield _Span(unclosed.start(), unclosed.end()), unclosed[1]
    for found in list(_SCORE.finditer(text))[: -_TRIED - 1 : -1]:
        yield _Span(found.start(), found.end()), found[1]


def _is_answer(text: str, span: _Span) -> bool:
    """Whether what stands there answers, and is not quoted: by a sentence on the same line, or by an analysis."""
    before = text[max(0, span.start - _LINE) : span.start].rpartition("\n")[2].strip(_AROUND)
    after = text[span.end : span.end + _LINE].partition("\n")[0].strip(_AROUND)
    begins = not before or before.endswith(">") or _LABEL.fullmatch(before) is not None
    ends = not after or (after.startswith("<") and not after.lower().startswith("</analysis>"))
    return begins and ends and not _within_analysis(text, span.start)


def _within_analysis(text: str, place: int) -> bool:
    is_open = False
    for tag in _ANALYSIS.finditer(text, 0, place):
        is_open = not tag[1]
    return is_open


def _verdicts(body: str, n: int) -> tuple[int, ...]:
    """The verdicts in the body of a score."""
    body = without_fence(body)
    value = read_value(body)
    if value is None:
        value = _tokens(body)
    if isinstance(value, list | tuple):
        return _checked(value, n)
    if isinstance(value, dict):
        raise _Unreadable("unreadable", f"the score is no list: {_short(body)}")
    if n > 1:
        raise _Unreadable("wrong_length", f"one value for {n} test points: {_short(body)}")
    return (_verdict(value),)


def _tokens(body: str) -> list[str]:
    """The words of a list that is neither JSON nor Python; every one of them must be a verdict."""
    words = [word for word in _SEPARATORS.split(body.translate(_FULL_WIDTH)) if word]
    if not words or any(word.lower() not in _WORDS for word in words):
        raise _Unreadable("unreadable", f"the score is no list of 0 and 1: {_short(body)}")
    return words


def _checked(values: Sequence[Any], n: int) -> tuple[int, ...]:
    if len(values) != n:
        raise _Unreadable("wrong_length", f"{len(values)} verdicts for {n} test points")
    return tuple(_verdict(value) for value in values)


def _verdict(value: Any) -> int:
    """0 or 1 of a number, a bool or a word that says one of them exactly."""
    if isinstance(value, str) and (known := _WORDS.get(value.strip().translate(_FULL_WIDTH).lower())) is not None:
        return known
    if isinstance(value, bool | int | Decimal) and value in (0, 1):
        return int(value)
    raise _Unreadable("bad_value", f"a verdict is 0 or 1, not {_short(repr(value))}")


def _analyses(text: str, n: int) -> tuple[tuple[str, ...], str]:
    """(what is said of each test point, note); a string may itself quote the opening tag."""
    tags = [(tag.start(), tag.end(), bool(tag[1])) for tag in _ANALYSIS.finditer(text)]
    last = max((start for start, _, closes in tags if closes), default=-1)
    starts = [end for _, end, closes in tags if not closes and end <= last]
    if not starts:
        return (), "analysis_missing"
    for start in [*starts[: -_TRIED - 1 : -1], starts[0]]:
        value = read_value(without_fence(text[start:last]))
        if isinstance(value, list | tuple):
            return tuple(map(as_text, value)), "" if len(value) == n else "analysis_length"
    body = as_text(text[starts[-1] : last].strip())
    return ((body,) if body else ()), "analysis_unparsed"


def _from_object(value: dict[Any, Any], n: int) -> Parsed | None:
    """The answer in a JSON object: {"checks": [{"id", "evidence", "pass"}, …]} or {"analysis": […], "score": […]}."""
    for key in ("checks", "score"):
        if value.get(key) is AMBIGUOUS:
            raise _Unreadable("unreadable", f"the key '{key}' is there twice")
    if isinstance(checks := value.get("checks"), list):
        return _from_checks(checks, n)
    if isinstance(score := value.get("score"), list):
        analysis = value.get("analysis")
        analyses = tuple(map(as_text, analysis)) if isinstance(analysis, list) else ()
        note = "" if len(analyses) == n else "analysis_length" if analyses else "analysis_missing"
        return Parsed(_checked(score, n), analyses, note)
    return None


def _from_checks(checks: list[Any], n: int) -> Parsed:
    """The answer in a list of checks, whose ids are 1 to n in any order."""
    if not all(isinstance(check, dict) and {"id", "pass"} <= check.keys() for check in checks):
        raise _Unreadable("unreadable", f"a check has an id and a pass: {_short(repr(checks))}")
    by_id = {str(check["id"]): check for check in checks}
    if len(checks) != n or by_id.keys() != {str(number) for number in range(1, n + 1)}:
        raise _Unreadable("wrong_length", f"the ids of the checks are {_short(', '.join(by_id))}, not 1 to {n}")
    ordered = [by_id[str(number)] for number in range(1, n + 1)]
    missing = all("evidence" not in check for check in ordered)
    return Parsed(
        _checked([check["pass"] for check in ordered], n),
        () if missing else tuple(as_text(check.get("evidence", "")) for check in ordered),
        "analysis_missing" if missing else "",
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _official(text: str, n: int) -> Parsed:
    bodies = []
    for tag in ("analysis", "score"):
        body = _first_tag(text, tag)
        if body is None:
            raise _Unreadable("no_answer", f"no <{tag}> in {_short(text)}")
        if len(body) > LONGEST_LITERAL:
            raise _Unreadable("unreadable", f"<{tag}> has {len(body):,} characters: {_short(body)}")
        try:
            bodies.append(ast.literal_eval(body.strip()))
        except NOT_LITERAL as error:
            raise _Unreadable("unreadable", f"<{tag}> is no Python literal: {_short(body)}") from error
    analysis, score = bodies
    for tag, value in (("analysis", analysis), ("score", score)):
        if not hasattr(value, "__len__"):
            raise _Unreadable("wrong_length", f"<{tag}> is a single value: {_short(repr(value))}")
        if len(value) != n:
            raise _Unreadable("wrong_length", f"<{tag}> has {len(value)} entries for {n} test points")
    return Parsed(_as_official_scores(analysis, score), tuple(map(as_text, analysis)))


def _first_tag(text: str, tag: str) -> str | None:
    """The body of the first <tag>, up to the first </tag> after it; None where there is none."""
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", start)
    return text[start + len(tag) + 2 : end] if 0 <= start < end else None


def _as_official_scores(analysis: Any, score: Any) -> tuple[int, ...]:
    """What the official scores count: the answer goes through JSON text and a Python literal, and 1 is what == 1."""
    try:
        kept = ast.literal_eval(json.dumps({"analysis": analysis, "score": score}, ensure_ascii=False))
    except NOT_LITERAL as error:
        raise _Unreadable("not_counted", f"the official scores skip {_short(repr(score))}: {error}") from error
    return tuple(int(value == 1) for value in kept["score"])
