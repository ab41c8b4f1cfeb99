"""Finding dimensions, criteria and categories by what a prompt file or a user writes."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from unigenbench.errors import InputError
from unigenbench.taxonomy.categories import STRUCTURES, SUBJECTS, THEMES, Label, Theme
from unigenbench.taxonomy.criteria import CRITERIA, DIMENSIONS, Criterion, Dimension

LONGEST_LABEL = 120
"""Characters of an unknown label that are compared and shown."""


def _key(label: str) -> str:
    """A label without the differences that say nothing: case, blanks."""
    return " ".join(label.casefold().split())


def _names(labels: tuple[Label, ...] | tuple[Theme, ...]) -> dict[str, str]:
    """{any spelling: canonical English name}"""
    return {_key(text): label.name for label in labels for text in (label.name, label.name_zh, *label.variants)}


_THEMES = _names(THEMES)
_SUBTHEMES = {theme.name: _names(theme.subthemes) for theme in THEMES}
_SUBJECTS = _names(SUBJECTS)
_STRUCTURES = _names(STRUCTURES)
_CRITERIA = {_key(name): criterion for criterion in CRITERIA for name in (criterion.name, criterion.name_zh)}


def fold_theme(label: str) -> str | None:
    """The canonical name of a theme in either language; None where there is no such theme."""
    return _THEMES.get(_key(label))


def fold_subtheme(theme: str, label: str) -> str | None:
    """The canonical name of a sub-theme of a theme, also where the label repeats the theme before a hyphen."""
    names = _SUBTHEMES.get(theme, {})
    before, _, after = label.partition("-")
    return names.get(_key(label)) or (names.get(_key(after)) if fold_theme(before) == theme else None)


def fold_subject(label: str) -> str | None:
    """The canonical name of a subject; None where there is no such subject."""
    return _SUBJECTS.get(_key(label))


def fold_structure(label: str) -> str | None:
    """The canonical name of a sentence structure; None where there is no such structure."""
    return _STRUCTURES.get(_key(label))


def criterion_of(label: str) -> Criterion:
    """The criterion of a prompt file's label, in either language.

    Raises:
        InputError: there is no such criterion.
    """
    found = _CRITERIA.get(_key(label))
    if found is None:
        shown = label if len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL]}..."
        near = get_close_matches(_key(shown), _CRITERIA, n=1)
        hint = f"; did you mean '{_CRITERIA[near[0]].name}'?" if near else "; `unigenbench taxonomy` lists the labels"
        raise InputError(f"'{shown}' is no criterion{hint}")
    return found


def find_dimension(text: str) -> Dimension:
    """The dimension of an id or a name, in either language.

    Raises:
        InputError: there is no such dimension.
    """
    for dimension in DIMENSIONS:
        if _key(text) in map(_key, (dimension.id, dimension.name, dimension.name_zh)):
            return dimension
    raise InputError(f"'{text}' is no dimension; give one of {', '.join(dimension.id for dimension in DIMENSIONS)}")


def as_mapping() -> dict[str, list[dict[str, Any]]]:
    """All of it, ready for JSON: dimensions, themes, subjects, structures."""
    return {
        "dimensions": [
            {**dimension._asdict(), "criteria": [criterion._asdict() for criterion in dimension.criteria]}
            for dimension in DIMENSIONS
        ],
        "themes": [
            {**theme._asdict(), "subthemes": [subtheme._asdict() for subtheme in theme.subthemes]} for theme in THEMES
        ],
        "subjects": [label._asdict() for label in SUBJECTS],
        "structures": [label._asdict() for label in STRUCTURES],
    }
