"""An independent verifier, to check `verify` by: it draws what it believes to see and compares with the picture.

Analysis by synthesis: onto a plain background it adds one thing after the other, each time the template (shape, color,
size, place) that explains most of the squared difference between drawing and picture; then it moves, scales and tints
each thing a little, beside the others, until the drawing is nearest. With `verify` it shares the world's definition of
shapes, colors and sizes, and nothing else: it segments nothing.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from PIL import Image

from t2ialign.shapes.render import coverage, pixels_of
from t2ialign.shapes.scene import BACKGROUNDS, CANVAS, COLORS, MAX_THINGS, RADII, SHAPES, Scene, Thing
from t2ialign.shapes.verify import Unreadable

_FIRST_RADII = (7.5, 8.5, 9.5, 10.5, 11.5, 12.5, 13.5)  # also between the world's 8 and 13, as a model may draw it
_TEMPLATES = tuple((shape, radius) for shape in SHAPES for radius in _FIRST_RADII)
_SEARCHED = MAX_THINGS + 3  # more than a scene holds, so that too many are noticed
_LEAST_GAIN = 20 * 119.0**2  # squared RGB distance that a thing must explain: 20 px of the palette's least contrast
_LEAST_LIKENESS = 0.4  # gain / largest possible gain
_OVERLAP = 0.3  # largest share of a new thing that may lie on those found before
_STEPS = (0.5, 0.25)  # px by which places and radii are refined
_RADII = (6.5, 15.0)  # px: what a thing's radius may be
_SPLIT_RADIUS = sum(RADII.values()) / 2
_PATCH = 7  # px: side of the patch over which drawing and picture are compared
_OFF = 40.0  # largest mean RGB distance between the two over a patch outside of all things
_MISFIT = 0.4  # largest difference around a thing, as a share of what the thing itself makes
_TOUCH = 1.5  # px by which each of two things is widened to see whether they touch
_COLOR_OFF = 90.0  # largest RGB distance of a thing's fitted color from the palette's
_COLOR_NAMES, _COLOR_VALUES = tuple(COLORS), np.array(list(COLORS.values()), np.float32)
_BACKGROUND_NAMES, _BACKGROUND_VALUES = tuple(BACKGROUNDS), np.array(list(BACKGROUNDS.values()), np.float32)


@dataclass(frozen=True)
class _Figure:
    """A thing as it is drawn."""

    shape: str
    x: float
    y: float
    radius: float
    color: np.ndarray
    """RGB. [3] float32"""


def match(image: Image.Image) -> Scene | Unreadable:
    """The scene whose drawing is nearest to the picture, things ordered from top to bottom; Unreadable where it is far.

    Args:
        image: any mode and size; another size than 64 x 64 px is resized first.
    """
    pixels = pixels_of(image)
    name, background = _background(pixels)
    figures: list[_Figure] = []
    while len(figures) < _SEARCHED:
        found = _search(pixels, background, figures)
        if found is None:
            break
        figures.append(found)
        for i, figure in enumerate(figures):
            figures[i] = _refine(figure, pixels, _draw(background, figures[:i] + figures[i + 1 :]))
    reason = _why_unreadable(pixels, background, figures)
    if reason is not None:
        return Unreadable(reason)
    things = sorted((_thing(figure) for figure in figures), key=lambda thing: (thing.y, thing.x))
    return Scene(name, tuple(things))


def _background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The named background that most pixels are near to, and what color it has here."""
    distances = np.linalg.norm(pixels[:, :, None] - _BACKGROUND_VALUES, axis=-1)
    best = int(np.minimum(distances, 80.0).sum((0, 1)).argmin())
    near = pixels[distances[..., best] < 60.0]
    return _BACKGROUND_NAMES[best], np.median(near, axis=0) if len(near) else _BACKGROUND_VALUES[best]


def _draw(background: np.ndarray, figures: list[_Figure]) -> np.ndarray:
    drawn = np.empty((CANVAS, CANVAS, 3), np.float32)
    drawn[:] = background
    for figure in figures:
        cover = _cover(figure)[..., None]
        drawn += cover * (figure.color - drawn)
    return drawn


@lru_cache(maxsize=1)
def _spectra() -> tuple[np.ndarray, np.ndarray]:
    """Conjugate spectra of a and a^2, a being each template's coverage around pixel (0, 0). [T, 1, 64, 33] each"""
    middle = CANVAS // 2 + 0.5
    covers = np.stack([coverage(shape, middle, middle, radius) for shape, radius in _TEMPLATES])[:, None]
    covers = np.roll(covers, (-(CANVAS // 2), -(CANVAS // 2)), axis=(2, 3))
    first, second = (np.conj(np.fft.rfft2(power)).astype(np.complex64) for power in (covers, covers**2))
    return first, second


@lru_cache(maxsize=1)
def _inside() -> np.ndarray:
    """Where each template lies within the canvas. [T, 1, 64, 64] bool"""
    inside = np.zeros((len(_TEMPLATES), 1, CANVAS, CANVAS), bool)
    for allowed, (_, radius) in zip(inside, _TEMPLATES, strict=True):
        edge = int(radius)
        allowed[:, edge : CANVAS - edge, edge : CANVAS - edge] = True
    return inside


def _search(pixels: np.ndarray, background: np.ndarray, figures: list[_Figure]) -> _Figure | None:
    """The template that explains most of what the drawing of `figures` leaves unexplained; None where none is like it.

    With drawing r, picture p, color c and coverage a, drawing the template takes sum 2a (p - r)(c - r) - a^2 (c - r)^2
    off the squared difference: two correlations, for all places at once.
    """
    drawn = _draw(background, figures)
    change = _COLOR_VALUES[:, None, None] - drawn  # [8, 64, 64, 3]
    wanted = (2 * change * (pixels - drawn)).sum(-1)
    spent = (change**2).sum(-1)
    covers, squares = _spectra()
    most = _correlate(squares, spent)
    gains = _correlate(covers, wanted) - most
    taken = np.zeros((CANVAS, CANVAS), np.float32)
    for figure in figures:
        taken = np.maximum(taken, _cover(figure))
    areas = np.real(covers[:, :, :1, :1])  # the spectrum at 0 is the sum
    free = _correlate(covers, taken[None]) < _OVERLAP * areas
    gains = np.where(_inside() & free & (gains > _LEAST_LIKENESS * most), gains, 0.0)
    template, color, y, x = np.unravel_index(int(gains.argmax()), gains.shape)
    if gains[template, color, y, x] < _LEAST_GAIN:
        return None
    shape, radius = _TEMPLATES[template]
    return _Figure(shape, float(x) + 0.5, float(y) + 0.5, radius, _COLOR_VALUES[color])


def _correlate(spectra: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Each template laid on each field at every place. [T, 1, 64, 33] x [F, 64, 64] -> [T, F, 64, 64]"""
    return np.fft.irfft2(spectra * np.fft.rfft2(field).astype(np.complex64), s=(CANVAS, CANVAS))


def _refine(figure: _Figure, pixels: np.ndarray, beside: np.ndarray) -> _Figure:
    """The figure moved, scaled and tinted until drawing it over `beside` is nearest to the picture."""
    figure, most = _tint(figure, pixels, beside)
    for step in _STEPS:
        changes = [(name, sign * step) for name in ("x", "y", "radius") for sign in (1, -1)]
        improved = True
        while improved:
            improved = False
            for name, change in changes:
                changed, gain = _tint(replace(figure, **{name: getattr(figure, name) + change}), pixels, beside)
                if gain > most and _RADII[0] - 2 <= changed.radius <= _RADII[1] + 2:
                    figure, most, improved = changed, gain, True
    return figure


def _tint(figure: _Figure, pixels: np.ndarray, beside: np.ndarray) -> tuple[_Figure, float]:
    """The figure in the color that fits best, by least squares, and by how much drawing it over `beside` lessens the
    squared difference."""
    reach = int(figure.radius) + 3
    left, top = max(0, int(figure.x) - reach), max(0, int(figure.y) - reach)
    right, bottom = min(CANVAS, int(figure.x) + reach + 1), min(CANVAS, int(figure.y) + reach + 1)
    cover = coverage(figure.shape, figure.x, figure.y, figure.radius, (left, top, right, bottom))[..., None]
    before, wanted = beside[top:bottom, left:right], pixels[top:bottom, left:right]
    color = (cover * (wanted - before * (1 - cover))).sum((0, 1)) / (cover**2).sum()
    after = before + cover * (color - before)
    return replace(figure, color=color), float(((wanted - before) ** 2).sum() - ((wanted - after) ** 2).sum())


def _thing(figure: _Figure) -> Thing:
    name = _COLOR_NAMES[int(np.linalg.norm(_COLOR_VALUES - figure.color, axis=1).argmin())]
    size = "large" if figure.radius > _SPLIT_RADIUS else "small"
    return Thing(figure.shape, name, size, figure.x, figure.y)


def _why_unreadable(pixels: np.ndarray, background: np.ndarray, figures: list[_Figure]) -> str | None:
    """What is wrong with the picture as one of this world: what no drawing explains, and what no scene may hold."""
    off = np.linalg.norm(pixels - _draw(background, figures), axis=-1)
    rest = off.copy()
    for figure in figures:
        around = _cover(figure, 2.5) > 0
        misfit = float(off[around].sum() / np.linalg.norm(figure.color - background) / _cover(figure).sum())
        if misfit > _MISFIT:
            return f"what is drawn as a {figure.shape} differs from it by {misfit:.2f} of its area"
        if not _RADII[0] <= figure.radius <= _RADII[1]:
            return f"a {figure.shape} of radius {figure.radius:.1f} px is of no known size"
        if np.linalg.norm(_COLOR_VALUES - figure.color, axis=1).min() > _COLOR_OFF:
            return f"a {figure.shape} is of no known color"
        rest[around] = 0.0
    if any(np.minimum(_cover(a, _TOUCH), _cover(b, _TOUCH)).max() > 0.5 for a, b in combinations(figures, 2)):
        return "two things touch"
    worst = float(_patch_means(rest).max())
    return f"a patch outside of all things is off by {worst:.0f}" if worst > _OFF else None


def _cover(figure: _Figure, wider: float = 0.0) -> np.ndarray:
    return coverage(figure.shape, figure.x, figure.y, figure.radius + wider)


def _patch_means(values: np.ndarray) -> np.ndarray:
    """The mean over each whole patch. [64, 64] -> [58, 58]"""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = _PATCH
    return (sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]) / n**2
