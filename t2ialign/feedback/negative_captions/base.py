"""Negative captions: their four kinds, who writes them, and which texts are none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from t2ialign.feedback.negative_captions.words import FILLERS, NEAR_SYNONYMS

Kind = Literal["content", "attribute", "relation", "context"]
KINDS: Mapping[Kind, str] = {
    "content": "another object, animal or person in the place of one that is named",
    "attribute": "another color, size, shape, material, number, age or mood of something that is named",
    "relation": "another position of one thing to another, another movement or posture, or who does what to whom",
    "context": "another place, time of day, season, weather, background or medium of the picture",
}
"""The principles of TPO: content, attribute, spatial or dynamic relation, context."""

Outcome = Literal["written", "inapplicable", "unchanged", "near_synonym", "malformed", "failed"]
"""written: a negative caption; inapplicable: the prompt states nothing of the kind; unchanged and near_synonym: not
another meaning; malformed: not one caption of about the same length; failed: no answer, to be asked for again."""

MAX_GROWTH = 2.0
"""A caption more than so many times as long, and by more than MAX_ADDED_WORDS, is another text, not another caption."""
MAX_ADDED_WORDS = 8
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Answer(NamedTuple):
    """What became of a question."""

    outcome: Outcome
    text: str
    """The negative caption; otherwise what was answered, or what went wrong."""


class Editor(Protocol):
    """Writes negative captions."""

    fingerprint: str
    """Changes with anything that changes its answers."""
    concurrency: int
    """Questions it may be asked at once."""

    def __call__(self, prompt: str, kind: Kind, seed: int) -> Answer:
        """The prompt with one thing of the kind changed; the same seed gives the same, as far as the editor can."""
        ...


def judged(prompt: str, text: str) -> Answer:
    """A changed prompt, or why it is none."""
    if not text.strip() or "\n" in text.strip():
        return Answer("malformed", text)
    before, after = _WORD.findall(prompt.casefold()), _WORD.findall(text.casefold())
    if before == after:
        return Answer("unchanged", text)
    if len(after) > MAX_GROWTH * len(before) and len(after) > len(before) + MAX_ADDED_WORDS:
        return Answer("malformed", text)
    if _meaning(before) == _meaning(after):
        return Answer("near_synonym", text)
    return Answer("written", text.strip())


def _meaning(words: list[str]) -> list[str]:
    """The words that say something, each as the first of its near-synonyms."""
    return [_FIRST.get(word, word) for word in words if word not in FILLERS]


def near_synonyms(one: str, other: str) -> bool:
    """Whether two words mean nearly the same."""
    return _FIRST.get(one, one) == _FIRST.get(other, other)


def _first_of_each() -> dict[str, str]:
    """Word -> first of its near-synonyms, of regular plurals too."""
    found = {word: group[0] for group in NEAR_SYNONYMS for word in group}
    return {**{f"{word}s": f"{first}s" for word, first in found.items()}, **found}


_FIRST = _first_of_each()
