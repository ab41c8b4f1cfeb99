"""Which images of a group are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def regular_pairs(places: Sequence[int], partners: int | None, generator: torch.Generator) -> list[tuple[int, int]]:
    """Pairs (low, high) in which each place has as many partners: a circulant graph on a random order of the places.

    With an odd number of partners and of places one place has one partner less.

    Args:
        places: which images of the group there are.
        partners: of each place; all others where it has no more, or if None.
    """
    count = len(places)
    if partners is None or partners >= count - 1:
        return [(low, high) for low in places for high in places if low < high]
    order = [places[place] for place in torch.randperm(count, generator=generator).tolist()]
    steps = [(at, step) for step in range(1, partners // 2 + 1) for at in range(count)]
    if partners % 2:
        steps += [(at, count // 2) for at in range(count // 2)]
    ends = [(order[at], order[(at + step) % count]) for at, step in steps]
    return sorted((min(pair), max(pair)) for pair in ends)


def pair_count(images: int, partners: int | None) -> int:
    """Pairs of a group in which each image has as many partners, or all others if None."""
    return images * (images - 1 if partners is None else partners) // 2
