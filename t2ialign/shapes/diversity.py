"""How varied pictures are in what neither their prompts nor the taste speak of.

That is: where things are (unless a prompt relates places), and their colors and shapes where a prompt leaves them open.
Sizes and backgrounds are no part of it, for taste is about them. The spread of an attribute is the entropy of its
values over all things in the pictures of a caption family, divided by the logarithm of the number of values: 1 where
all values are equally frequent, 0 where there is but one; and of that the mean over families, weighted by their
prompts. Diversity is the mean of the three spreads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t2ialign.shapes.caption import constraints, family_of
from t2ialign.shapes.constraint import Constraint
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.scene import CANVAS, COLORS, RADII, SHAPES, Scene, Thing

GRID = 4
"""Places are told apart on a grid of this side, laid over the room that a thing of its size has: large things must keep
further from the border, and would seem less spread in pixels."""
VALUES = {"place": GRID * GRID, "color": len(COLORS), "shape": len(SHAPES)}
"""Attribute -> how many values it has."""
_FAMILY = {name: number for number, name in enumerate(FAMILIES)}
_COLOR = {name: number for number, name in enumerate(COLORS)}
_SHAPE = {name: number for number, name in enumerate(SHAPES)}


class Tally(NamedTuple):
    """What was drawn of one attribute, prompt by prompt."""

    counts: np.ndarray
    """Things with each value, at the prompt's family; none where the prompt states it. [N, families, values]"""
    asked: np.ndarray
    """1 at the prompt's family where the attribute is left open. [N, families]"""


class Ratio(NamedTuple):
    """Diversity of one set of pictures over another's, with a 95 % interval."""

    mean: float
    low: float
    high: float


def open_attributes(stated: Sequence[Constraint]) -> list[str]:
    """The attributes of VALUES that the constraints leave open; a color or shape that is only excluded is left open."""
    positive = [c for c in stated if c.kind != "absent"]
    closed = {
        "place": any(c.kind == "relation" for c in positive),
        "color": any(c.subject.color or c.target.color for c in positive),
        "shape": any(c.subject.shape or c.target.shape for c in positive),
    }
    return [attribute for attribute in VALUES if not closed[attribute]]


def value(thing: Thing, attribute: str) -> int:
    """The thing's value of an attribute, in [0, VALUES[attribute])."""
    if attribute == "color":
        return _COLOR[thing.color]
    if attribute == "shape":
        return _SHAPE[thing.shape]
    column, row = (_cell(place, RADII[thing.size]) for place in (thing.x, thing.y))
    return GRID * row + column


def _cell(place: float, radius: float) -> int:
    share = (place - radius) / (CANVAS - 2 * radius)
    return min(GRID - 1, max(0, int(GRID * share)))


def tally(prompts: Sequence[str], scenes: Sequence[Scene | None]) -> dict[str, Tally]:
    """Counts of every attribute, by attribute.

    Args:
        prompts: captions of Shapes.
        scenes: what was seen in the picture of each; None for an unreadable one, which adds nothing.
    """
    n = len(prompts)
    tallies = {
        attribute: Tally(np.zeros((n, len(FAMILIES), values)), np.zeros((n, len(FAMILIES))))
        for attribute, values in VALUES.items()
    }
    for i, (prompt, scene) in enumerate(zip(prompts, scenes, strict=True)):
        family = _FAMILY[family_of(prompt)]
        for attribute in open_attributes(constraints(prompt)):
            counts, asked = tallies[attribute]
            asked[i, family] = 1
            for thing in scene.things if scene is not None else ():
                counts[i, family, value(thing, attribute)] += 1
    return tallies


def spread(one: Tally, weights: np.ndarray) -> np.ndarray:
    """The attribute's spread, in [0, 1], where prompt i counts weights[:, i] times. [R, N] -> [R]"""
    n, families, values = one.counts.shape
    totals = (weights @ one.counts.reshape(n, -1)).reshape(-1, families, values)
    things = totals.sum(-1, keepdims=True)
    shares = totals / np.maximum(things, 1)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1) / np.log(values)
    prompts = (weights @ one.asked) * (things[..., 0] > 0)
    return (entropy * prompts).sum(-1) / np.maximum(prompts.sum(-1), 1)


def spreads(tallies: dict[str, Tally], weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The spread of each attribute and, as `diversity`, their mean. [R, N] -> [R] each; default: weights of 1."""
    if weights is None:
        weights = np.ones((1, len(next(iter(tallies.values())).asked)))
    found = {attribute: spread(one, weights) for attribute, one in tallies.items()}
    return {"diversity": np.mean(list(found.values()), axis=0), **found}


def ratios(
    base: dict[str, Tally], other: dict[str, Tally], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Ratio | None]:
    """Each spread of `other` over that of `base`, of the same prompts; intervals resample the prompts.

    None for an attribute that base does not vary at all.
    """
    n = len(next(iter(base.values())).asked)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    drawn_base, drawn_other = spreads(base, weights), spreads(other, weights)
    whole_base, whole_other = spreads(base), spreads(other)
    return {
        name: _ratio(float(whole_base[name][0]), float(whole_other[name][0]), drawn_base[name], drawn_other[name])
        for name in whole_base
    }


def _ratio(base: float, other: float, drawn_base: np.ndarray, drawn_other: np.ndarray) -> Ratio | None:
    if base == 0:
        return None
    usable = drawn_base > 0
    low, high = np.quantile(drawn_other[usable] / drawn_base[usable], (0.025, 0.975))
    return Ratio(other / base, float(low), float(high))
