"""Geometry of the report's line charts: numbers in, SVG coordinates out. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unigenbench.formatting import with_minus

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 56, 370, 10, 180
"""The plot area inside the chart, in SVG units."""
MAX_POINTS = 300
"""Longer series are averaged down to this many points."""


class Tick(NamedTuple):
    position: float
    label: str


class Line(NamedTuple):
    label: str
    raw: str
    """Points of every step, as SVG's polyline takes them."""
    smooth: str
    """Points of the trailing mean."""
    last: str
    """The trailing mean at the end, as text."""
    band: str = ""
    """Corners of the area between the interval's ends, as SVG's polygon takes them; empty where there is none."""


class Guide(NamedTuple):
    position: float
    label: str


class Chart(NamedTuple):
    title: str
    note: str
    lines: list[Line]
    guides: list[Guide]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and up to window - 1 before it. [n]"""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def line_chart(
    title: str,
    note: str,
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    guides: Mapping[str, float] | None = None,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Chart:
    """A chart of series over optimizer steps, each drawn faintly and as a trailing mean over a twentieth of the run.

    Args:
        title: what is shown.
        note: how to read it, one line.
        steps: [n], ascending
        series: label -> values; values that are not finite are left out. [n] each
        guides: label -> value of a horizontal line that must be visible.
        bands: label of a series -> ends of the interval of each value. [n] each
    """
    guides = guides or {}
    areas = {label: _area(np.asarray(steps, float), np.asarray(ends, float)) for label, ends in (bands or {}).items()}
    curves = {label: _curve(np.asarray(steps, float), np.asarray(values, float)) for label, values in series.items()}
    low, high = _value_range(
        [(raw, smooth) for _, raw, smooth in curves.values()],
        [*guides.values(), *(float(end) for _, ends in areas.values() for end in ends)],
    )
    first, last = float(steps[0]), float(steps[-1])
    heights = ticks(low, high)

    def place(x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(
            f"{_scale(a, first, last, LEFT, RIGHT):.1f},{_scale(b, low, high, BOTTOM, TOP):.1f}"
            for a, b in zip(x, y, strict=True)
        )

    lines = [
        Line(
            label,
            place(x, raw),
            place(x, smooth),
            number(smooth[-1]) if len(smooth) else "–",
            place(*areas[label]) if label in areas else "",
        )
        for label, (x, raw, smooth) in curves.items()
    ]
    return Chart(
        title,
        note,
        lines,
        [Guide(_scale(value, low, high, BOTTOM, TOP), label) for label, value in guides.items()],
        [Tick(_scale(value, first, last, LEFT, RIGHT), f"{value:.0f}") for value in step_ticks(first, last)],
        [
            Tick(_scale(value, low, high, BOTTOM, TOP), label)
            for value, label in zip(heights, numbers(heights), strict=True)
        ],
    )


def _curve(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(step, value, trailing mean), finite and thinned out. [points] each"""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    smooth = trailing_mean(values, max(1, len(values) // 20))
    if len(values) <= MAX_POINTS:
        return steps, values, smooth
    edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)[:-1]
    sizes = np.diff([*edges, len(values)])
    thin = (np.add.reduceat(array, edges) / sizes for array in (steps, values, smooth))
    return tuple(thin)  # type: ignore[return-value]


def _area(steps: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the area between the ends: the low ones forwards, the high ones back. [n], [n, 2] -> [2 m] each"""
    finite = np.isfinite(ends).all(1)
    steps, (low, high) = steps[finite], ends[finite].T
    return np.concatenate([steps, steps[::-1]]), np.concatenate([low, high[::-1]])


def _value_range(curves: list[tuple[np.ndarray, np.ndarray]], guides: list[float]) -> tuple[float, float]:
    """What the y axis shows: all of the means and guides, and the raw values but for their farthest 2 %."""
    shown = [*guides]
    for raw, smooth in curves:
        if len(raw):
            shown += [float(np.quantile(raw, 0.01)), float(np.quantile(raw, 0.99)), smooth.min(), smooth.max()]
    if not shown:
        return 0.0, 1.0
    low, high = min(shown), max(shown)
    if high - low <= 1e-6 * abs(high):  # constant but for rounding
        low = high = (low + high) / 2
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _scale(value: float, low: float, high: float, to_low: float, to_high: float) -> float:
    share = 0.5 if high == low else (value - low) / (high - low)
    return to_low + share * (to_high - to_low)


def ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Round numbers inside [low, high], 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def step_ticks(first: float, last: float) -> list[float]:
    """Round steps with room for their labels, and the last step."""
    room = 0.12 * (last - first)
    return [*(step for step in ticks(first, last) if step % 1 == 0 and step < last - room), last]


def numbers(values: Sequence[float]) -> list[str]:
    """Numbers at the precision that tells them apart."""
    written = ([number(value, digits) for value in values] for digits in range(3, 16))
    return next((labels for labels in written if len(set(labels)) == len(values)), [str(value) for value in values])


def number(value: float, digits: int = 3) -> str:
    """A number at the precision a reader can use, in significant digits."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    return with_minus(f"{value:.{digits}g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.{digits - 2}e}")
