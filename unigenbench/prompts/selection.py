"""Parts of a prompt set: by number, named subset, theme or dimension."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from unigenbench.errors import InputError, listed_of
from unigenbench.prompts.schema import DATA
from unigenbench.taxonomy import DIMENSION_OF, find_dimension, fold_theme
from unigenbench.types import Prompt, PromptSet

FLAWED = frozenset({"empty_description", "ungrounded"})
"""Flags of test points that cannot be judged as they should."""


def subsets() -> dict[str, tuple[int, ...]]:
    """Named choices of indices of the official prompt files."""
    content = json.loads((DATA / "subsets.json").read_text(encoding="utf-8"))
    return {name: tuple(subset["indices"]) for name, subset in content.items()}


def parse_indices(text: str) -> tuple[range, ...]:
    """The numbers of `0-99,120` as ranges, in order and apart; however many numbers they hold, they take no memory.

    Raises:
        InputError: not such a list.
    """
    found: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise InputError(f"indices '{text}': '{part}' is neither a number nor a range; write 0-99,120")
        found.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return merge_ranges(found)


def merge_ranges(numbers: Iterable[range] | Iterable[int]) -> tuple[range, ...]:
    """Numbers, or ranges of them, as ascending ranges that neither overlap nor touch."""
    ranges = [one if isinstance(one, range) else range(one, one + 1) for one in numbers]
    merged: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if merged and one.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, one.stop))
        else:
            merged.append(one)
    return tuple(merged)


def select(
    prompts: PromptSet,
    *,
    limit: int | None = None,
    indices: Iterable[range] | Iterable[int] | None = None,
    subset: str | None = None,
    theme: str | None = None,
    dimension: str | None = None,
    exclude_flagged: bool = False,
) -> PromptSet:
    """A part of a prompt set, which says in words how it was chosen; the set itself where nothing is asked.

    Args:
        limit: the first so many, of what the others leave.
        indices: numbers, or ranges of them as `parse_indices` returns.
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
        kept, words = _by_index(prompts, kept, merge_ranges(known[subset]), f"subset {subset}"), [*words, subset]
    if indices is not None:
        wanted = merge_ranges(indices)
        kept, words = _by_index(prompts, kept, wanted, "indices"), [*words, f"indices {_as_text(wanted)}"]
    if theme is not None:
        name = fold_theme(theme) or theme
        kept, words = [prompt for prompt in kept if prompt.theme == name], [*words, f"theme {name}"]
    if dimension is not None:
        column = find_dimension(dimension)
        kept = [prompt for prompt in kept if any(DIMENSION_OF[point.criterion] == column for point in prompt.points)]
        words.append(f"dimension {column.name}")
    if exclude_flagged:
        kept = [prompt for prompt in kept if not any(point.flags & FLAWED for point in prompt.points)]
        words.append("without flagged test points")
    if limit is not None:
        kept, words = kept[:limit], [*words, f"first {limit}"]
    if not kept:
        raise InputError(f"{prompts.path}: no prompt is left of: {', '.join(words)}; ask for less")
    return replace(prompts, prompts=tuple(kept), selection=", ".join(words) or None)


def _by_index(prompts: PromptSet, kept: list[Prompt], wanted: Sequence[range], what: str) -> list[Prompt]:
    present = {prompt.index for prompt in prompts.prompts}
    missing = sum(map(len, wanted)) - sum(_holds(wanted, index) for index in present)
    if missing:
        names = (number for one in wanted for number in one if number not in present)
        raise InputError(f"{prompts.path}: {what}: {listed_of(names, missing)} not in the file; leave them out")
    return [prompt for prompt in kept if _holds(wanted, prompt.index)]


def _holds(ranges: Sequence[range], number: int) -> bool:
    return any(number in one for one in ranges)


def _as_text(ranges: Sequence[range]) -> str:
    """`0-3, 7` of 0, 1, 2, 3, 7."""
    return ", ".join(str(one.start) if len(one) == 1 else f"{one.start}-{one.stop - 1}" for one in ranges)
