"""What a Shapes picture contains: coloured shapes of two sizes on a plain background."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

CANVAS = 64
"""Side of a picture in px; positions and radii are in the same px."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 45),
    "orange": (245, 140, 25),
    "yellow": (240, 225, 50),
    "green": (45, 165, 70),
    "cyan": (65, 205, 215),
    "blue": (45, 85, 215),
    "purple": (140, 50, 185),
    "pink": (240, 105, 180),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "cream": (250, 225, 175),
    "black": (25, 25, 25),
    "navy": (25, 40, 100),
}
DARK_BACKGROUNDS = ("black", "navy")
RADII: dict[str, float] = {"small": 8.0, "large": 13.0}
SIZES = tuple(RADII)
MAX_THINGS = 4

Relation = Literal["left of", "right of", "above", "below"]
OPPOSITE: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATION_MARGIN = 6.0
"""A relation holds when the two centres are at least this many px apart along its axis."""

_BORDER = 2.0
_GAP = 3.0


@dataclass(frozen=True)
class Thing:
    """One shape; (x, y) is the centre of its bounding box in px, x to the right and y down, in [0, 64]."""

    shape: str
    color: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """A background and the things on it."""

    background: str
    things: tuple[Thing, ...]


def relates(subject: Thing, relation: str, target: Thing) -> bool:
    """True where `subject` is `relation` (for example "left of") `target` by at least RELATION_MARGIN px.

    Raises:
        ValueError: the relation is not one of the four.
    """
    if relation not in OPPOSITE:
        raise ValueError(f"unknown relation {relation!r}; the relations are {', '.join(OPPOSITE)}")
    axis = "x" if relation in ("left of", "right of") else "y"
    distance = getattr(target, axis) - getattr(subject, axis)
    return (distance if relation in ("left of", "above") else -distance) >= RELATION_MARGIN


def apart(first: Thing, second: Thing) -> bool:
    """True where the bounding boxes of the two things keep the gap that every sampled scene keeps."""
    reach = RADII[first.size] + RADII[second.size] + _GAP
    return max(abs(first.x - second.x), abs(first.y - second.y)) >= reach


def sample_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """A random valid scene: nothing overlaps, everything is inside the canvas.

    Scenes come in kinds (all things alike, one colour, one shape, two groups, free), so that every caption family
    finds scenes that it can describe.

    Args:
        rng: the only source of randomness.
        things: how many things, 1 to 4; None draws 1 to 4 with two things most often, as most captions are of two.

    Raises:
        ValueError: `things` is outside 1 to 4.
    """
    if things is None:
        things = int(rng.choice(4, p=(0.2, 0.45, 0.22, 0.13))) + 1
    if not 1 <= things <= MAX_THINGS:
        raise ValueError(f"a scene has 1 to {MAX_THINGS} things, not {things}")
    kinds = _sample_kinds(rng, things)
    sizes = _sample_sizes(rng, things)
    places = _sample_places(rng, sizes)
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return Scene(
        background,
        tuple(
            Thing(shape, color, size, x, y) for (color, shape), size, (x, y) in zip(kinds, sizes, places, strict=True)
        ),
    )


_KINDS, _SHARES = ("alike", "one color", "one shape", "two groups", "free"), (0.2, 0.12, 0.12, 0.16, 0.4)


def _sample_kinds(rng: np.random.Generator, things: int) -> list[tuple[str, str]]:
    """(colour, shape) of each thing."""
    kind = _KINDS[rng.choice(len(_KINDS), p=_SHARES)]
    if things == 2 and kind in ("alike", "two groups") and rng.random() < 0.6:
        kind = "free"
    every = [(color, shape) for color in COLORS for shape in SHAPES]
    first = every[rng.integers(len(every))]
    if kind == "alike":
        return [first] * things
    if kind == "one color":
        same = [one for one in every if one[0] == first[0]]
        return [same[i] for i in rng.permutation(len(same))[:things]]
    if kind == "one shape":
        same = [one for one in every if one[1] == first[1]]
        return [same[i] for i in rng.permutation(len(same))[:things]]
    if kind == "two groups" and things > 1:
        one, two = (every[i] for i in rng.permutation(len(every))[:2])
        ones = int(rng.integers(1, things))
        return [one] * ones + [two] * (things - ones)
    return [every[i] for i in rng.permutation(len(every))[:things]]


def _sample_sizes(rng: np.random.Generator, things: int) -> list[str]:
    if rng.random() < 0.4:
        return [SIZES[rng.integers(len(SIZES))]] * things
    return [SIZES[index] for index in rng.integers(len(SIZES), size=things)]


def _sample_places(rng: np.random.Generator, sizes: list[str]) -> list[tuple[float, float]]:
    """Centres that keep the gap: rejection first, a jittered 2 x 2 grid when that finds no room."""
    radii = [RADII[size] for size in sizes]
    for _ in range(6):
        places: list[tuple[float, float]] = []
        for i, radius in enumerate(radii):
            low, high = radius + _BORDER, CANVAS - radius - _BORDER
            for x, y in rng.uniform(low, high, (12, 2)).tolist():
                for (px, py), other in zip(places, radii, strict=False):
                    if abs(x - px) < radius + other + _GAP > abs(y - py):
                        break
                else:
                    places.append((x, y))
                    break
            if len(places) <= i:
                break
        if len(places) == len(sizes):
            return places
    cells = rng.permutation(4)[: len(sizes)]
    jitter = rng.uniform(-1.0, 1.0, (len(sizes), 2))
    return [
        (float(16.5 + 31 * (cell % 2) + dx), float(16.5 + 31 * (cell // 2) + dy))
        for cell, (dx, dy) in zip(cells, jitter, strict=True)
    ]
