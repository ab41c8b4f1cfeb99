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
from typing import Any, Literal

Mode = Literal["robust", "official"]
Reason = Literal["empty", "no_answer", "unreadable", "wrong_length", "bad_value", "not_counted"]
REASONS: tuple[Reason, ...] = ("empty", "no_answer", "unreadable", "wrong_length", "bad_value", "not_counted")
"""no text; no score in it; a score that is no list; another number of verdicts; a verdict that is neither 0 nor 1; a
reply that the official scores leave out (official mode only)."""

_WORDS = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "是": 1, "否": 0}
_SEPARATORS = re.compile(r"[\s,，、;；\[\]［］【】()（）\"'“”‘’]+")
_FULL_WIDTH = str.maketrans("０１", "01")
_FENCE = re.compile(r"\A```[\w-]*\s*\n?(.*?)\n?\s*```\Z", re.DOTALL)
_THOUGHT = re.compile(r"\A\s*<(think|thinking|reasoning)>(.*?</\1>)?", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_UNCLOSED_SCORE = re.compile(r"<score>\s*(\[[^\[\]]*\])[\s`]*\Z", re.IGNORECASE)
_NOT_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises on a text that is no literal."""


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
    whole = _literal(_unfenced(text))
    if isinstance(whole, dict) and (found := _from_object(whole, n)):
        return found
    if found := _from_tags(text, n):
        return found
    for value in _objects(text):
        if found := _from_object(value, n):
            return found
    raise _Unreadable("no_answer", f"neither <score> nor a list of checks in {_short(text)}")


def _without_thought(text: str) -> str:
    """The reply after its reasoning, whose own quotations of the format are no answer."""
    if opened := _THOUGHT.match(text):
        if opened[2] is None:
            raise _Unreadable("no_answer", "the reasoning does not end")
        return text[opened.end() :]
    if isinstance(_literal(_unfenced(text)), dict):
        return text
    return text[max((end.end() for end in _END_OF_THOUGHT.finditer(text)), default=0) :]


def _from_tags(text: str, n: int) -> Parsed | None:
    """The last complete answer in tags; None where there is none."""
    score = _last_tag(text, "score")
    if score is None:
        unclosed = _UNCLOSED_SCORE.search(text)
        if unclosed is None:
            return None
        score = unclosed.span(1)
    verdicts = _verdicts(text[slice(*score)], n)
    analyses, note = _analyses(text[: score[0]], n)
    if note == "analysis_missing":
        analyses, note = _analyses(text[score[1] :], n)
    return Parsed(verdicts, analyses, note)


def _last_tag(text: str, tag: str) -> tuple[int, int] | None:
    """Where the body of the last complete <tag>…</tag> begins and ends."""
    ends = [match.start() for match in re.finditer(f"</{tag}>", text, re.IGNORECASE)]
    starts = [match.end() for match in re.finditer(f"<{tag}>", text, re.IGNORECASE) if ends and match.end() <= ends[-1]]
    return (starts[-1], ends[-1]) if starts else None


def _verdicts(body: str, n: int) -> tuple[int, ...]:
    """The verdicts in the body of a score."""
    body = _unfenced(body)
    value = _literal(body)
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
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise _Unreadable("bad_value", f"a verdict is 0 or 1, not {_short(repr(value))}")


def _analyses(text: str, n: int) -> tuple[tuple[str, ...], str]:
    """(what is said of each test point, note); a string may itself quote the opening tag."""
    last = _last_tag(text, "analysis")
    if last is None:
        return (), "analysis_missing"
    starts = [match.end() for match in re.finditer("<analysis>", text, re.IGNORECASE) if match.end() <= last[1]]
    for start in reversed(starts):
        value = _literal(_unfenced(text[start : last[1]]))
        if isinstance(value, list | tuple):
            return tuple(map(str, value)), "" if len(value) == n else "analysis_length"
    body = text[slice(*last)].strip()
    return ((body,) if body else ()), "analysis_unparsed"


def _from_object(value: dict[Any, Any], n: int) -> Parsed | None:
    """The answer in a JSON object: {"checks": [{"id", "evidence", "pass"}, …]} or {"analysis": […], "score": […]}."""
    if isinstance(checks := value.get("checks"), list):
        return _from_checks(checks, n)
    if isinstance(score := value.get("score"), list):
        analysis = value.get("analysis")
        analyses = tuple(map(str, analysis)) if isinstance(analysis, list) else ()
        note = "" if len(analyses) == n else "analysis_length" if analyses else "analysis_missing"
        return Parsed(_checked(score, n), analyses, note)
    return None


def _from_checks(checks: list[Any], n: int) -> Parsed:
    """The answer in a list of checks, whose ids are 1 to n in any order."""
    if not all(isinstance(check, dict) and {"id", "pass"} <= check.keys() for check in checks):
        raise _Unreadable("unreadable", f"a check has an id and a pass: {_short(repr(checks))}")
    by_id = {str(check["id"]): check for check in checks}
    if len(checks) != n or by_id.keys() != {str(number) for number in range(1, n + 1)}:
        raise _Unreadable("wrong_length", f"the ids of the checks are {', '.join(by_id)}, not 1 to {n}")
    ordered = [by_id[str(number)] for number in range(1, n + 1)]
    missing = all("evidence" not in check for check in ordered)
    return Parsed(
        _checked([check["pass"] for check in ordered], n),
        () if missing else tuple(str(check.get("evidence", "")) for check in ordered),
        "analysis_missing" if missing else "",
    )


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a text, the last one first."""
    decoder = json.JSONDecoder()
    for brace in reversed([match.start() for match in re.finditer(r"\{", text)]):
        try:
            value, _ = decoder.raw_decode(text, brace)
        except (ValueError, RecursionError):  # a brace that begins no JSON
            continue
        if isinstance(value, dict):
            yield value


def _literal(body: str) -> Any:
    """The JSON or Python value that the text is; None where it is none (or says null)."""
    try:
        return json.loads(body, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(body.strip())
    except _NOT_LITERAL:
        return None


def _unfenced(body: str) -> str:
    body = body.strip()
    fenced = _FENCE.match(body)
    return fenced[1].strip() if fenced else body


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _official(text: str, n: int) -> Parsed:
    bodies = []
    for tag in ("analysis", "score"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        if found is None:
            raise _Unreadable("no_answer", f"no <{tag}> in {_short(text)}")
        try:
            bodies.append(ast.literal_eval(found[1].strip()))
        except _NOT_LITERAL as error:
            raise _Unreadable("unreadable", f"<{tag}> is no Python literal: {_short(found[1])}") from error
    analysis, score = bodies
    for tag, value in (("analysis", analysis), ("score", score)):
        if not hasattr(value, "__len__"):
            raise _Unreadable("wrong_length", f"<{tag}> is a single value: {_short(repr(value))}")
        if len(value) != n:
            raise _Unreadable("wrong_length", f"<{tag}> has {len(value)} entries for {n} test points")
    return Parsed(_as_official_scores(analysis, score), tuple(map(str, analysis)))


def _as_official_scores(analysis: Any, score: Any) -> tuple[int, ...]:
    """What the official scores count: the answer goes through JSON text and a Python literal, and 1 is what == 1."""
    try:
        kept = ast.literal_eval(json.dumps({"analysis": analysis, "score": score}, ensure_ascii=False))
    except _NOT_LITERAL as error:
        raise _Unreadable("not_counted", f"the official scores skip {_short(repr(score))}: {error}") from error
    return tuple(int(value == 1) for value in kept["score"])
