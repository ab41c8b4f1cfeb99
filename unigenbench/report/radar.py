"""Geometry of the radar: scores in, coordinates of an inline SVG out. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from unigenbench.report.scores import Row, Score

WIDTH, HEIGHT = 680, 476
CENTER_X, CENTER_Y, RADIUS = 340.0, 234.0, 188.0
LABEL_GAP = 26.0
FEWEST_AXES = 3
"""With fewer dimensions an outline encloses nothing; the page shows bars."""
RINGS = (0.2, 0.4, 0.6, 0.8, 1.0)


class Axis(NamedTuple):
    """One dimension: a line from the centre, its label, and every run's value as text."""

    id: str
    name: str
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    """SVG's text-anchor"""
    scores: list[Score]


class Vertex(NamedTuple):
    """Where a run's score lies on an axis, and the ends of its interval."""

    x: float
    y: float
    whisker: tuple[float, float, float, float] | None


class Outline(NamedTuple):
    """One run: its line around the centre."""

    path: str
    """SVG path; it is broken where a dimension has no score, since a missing score is not a zero"""
    is_closed: bool
    vertices: list[Vertex]


class Radar(NamedTuple):
    axes: list[Axis]
    rings: list[tuple[float, str]]
    """(share, SVG polygon points)"""
    outlines: list[Outline]


def radar(rows: Sequence[Row]) -> Radar | None:
    """Axes from the top, clockwise, in the order of `rows`; the outermost ring is 100 %.

    None where fewer than FEWEST_AXES rows have a score.
    """
    if sum(row.is_asked for row in rows) < FEWEST_AXES:
        return None
    runs = len(rows[0].scores)
    axes = [_axis(row, place, len(rows)) for place, row in enumerate(rows)]
    rings = [(ring, _points([_at(place, len(rows), ring) for place in range(len(rows))])) for ring in RINGS]
    return Radar(axes, rings, [_outline([row.scores[run] for row in rows]) for run in range(runs)])


def _at(place: int, places: int, share: float, beyond: float = 0.0) -> tuple[float, float]:
    """The point of an axis at a share of the radius, plus `beyond` units outwards."""
    angle = 2 * math.pi * place / places
    distance = RADIUS * share + beyond
    return round(CENTER_X + distance * math.sin(angle), 2), round(CENTER_Y - distance * math.cos(angle), 2)


def _axis(row: Row, place: int, places: int) -> Axis:
    x, y = _at(place, places, 1.0)
    label_x, label_y = _at(place, places, 1.0, LABEL_GAP)
    sideways = math.sin(2 * math.pi * place / places)
    anchor = "middle" if abs(sideways) < 0.1 else "start" if sideways > 0 else "end"
    return Axis(row.id, row.name, x, y, label_x, label_y, anchor, row.scores)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _outline(scores: Sequence[Score]) -> Outline:
    places = len(scores)
    vertices, steps = [], []
    for place, score in enumerate(scores):
        if score.value is None:
            continue
        x, y = _at(place, places, score.value)
        whisker = None
        if score.low is not None and score.high is not None:
            whisker = (*_at(place, places, score.low), *_at(place, places, score.high))
        vertices.append(Vertex(x, y, whisker))
        follows = place > 0 and scores[place - 1].value is not None
        steps.append(f"{'L' if follows else 'M'}{x:g} {y:g}")
    is_closed = len(vertices) == places
    if is_closed:
        steps.append("Z")
    elif vertices and scores[0].value is not None and scores[-1].value is not None:
        steps.append(f"L{vertices[0].x:g} {vertices[0].y:g}")
    return Outline("".join(steps), is_closed, vertices)
