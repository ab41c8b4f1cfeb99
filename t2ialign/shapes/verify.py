"""Reads a picture back into a scene, and judges a prompt's constraints on it; numpy only, about 2 ms a picture."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from t2ialign.shapes.caption import constraints
from t2ialign.shapes.constraint import Constraint, holds
from t2ialign.shapes.render import AREA, coverage, pixels_of
from t2ialign.shapes.scene import BACKGROUNDS, CANVAS, COLORS, RADII, SHAPES, Scene, Thing

_CONTRAST = (
    55.0  # RGB distance from the background at which a pixel belongs to a thing; the least of the palette is 119
)
_DUST = 12  # px: smaller spots are ignored
_LEAST = 60  # px: from here on a spot is a thing; spots in between make the picture unreadable
_MISFIT = 0.25  # largest difference between a thing and the best template, as a share of the thing's area
_RADII = (6.5, 15.0)  # px: what a thing's radius may be; the world's own are 8 and 13
_MIXED = 0.35  # largest share of a thing's pixels that may have another color
_BACKGROUND_ERROR = 60.0  # largest RGB distance of the background from the nearest named one
_COLOR_ERROR = 90.0  # the same for a thing's color
_UNEVEN = 0.15  # largest share of border pixels that differ from the background
_SPLIT_RADIUS = float(np.mean(list(RADII.values())))
_COLOR_NAMES, _COLOR_VALUES = tuple(COLORS), np.array(list(COLORS.values()), np.float32)
_BACKGROUND_NAMES, _BACKGROUND_VALUES = tuple(BACKGROUNDS), np.array(list(BACKGROUNDS.values()), np.float32)


@dataclass(frozen=True)
class Unreadable:
    """A picture in which no scene can be read, and why."""

    reason: str


class Verdict(NamedTuple):
    """Whether one constraint of a prompt holds."""

    constraint: Constraint
    right: bool

    @property
    def criterion(self) -> str:
        return self.constraint.criterion


@dataclass(frozen=True)
class Verdicts:
    """The judgement of one picture: a verdict for each constraint, all wrong where the picture is unreadable."""

    verdicts: tuple[Verdict, ...]
    seen: Scene | Unreadable

    @property
    def all_right(self) -> bool:
        return all(verdict.right for verdict in self.verdicts)

    @property
    def share(self) -> float:
        """Share of the constraints that hold, in [0, 1]."""
        return sum(verdict.right for verdict in self.verdicts) / len(self.verdicts)


def verify(prompt: str | tuple[Constraint, ...], image: Image.Image | Scene | Unreadable) -> Verdicts:
    """Judges every constraint of a prompt on a picture.

    Args:
        prompt: a caption of Shapes, or its constraints.
        image: a picture of any size, or what `read` saw in it.

    Raises:
        ValueError: the prompt is not a caption of Shapes, or it is empty.
    """
    stated = constraints(prompt) if isinstance(prompt, str) else prompt
    if not stated:
        raise ValueError("no constraints to verify; pass a caption of Shapes or at least one Constraint")
    seen = read(image) if isinstance(image, Image.Image) else image
    return Verdicts(
        tuple(Verdict(constraint, isinstance(seen, Scene) and holds(constraint, seen)) for constraint in stated), seen
    )


def read(image: Image.Image) -> Scene | Unreadable:
    """The scene in a picture, things ordered from top to bottom; Unreadable where it is none of this world.

    Args:
        image: any mode and size; another size than 64 x 64 px is resized first.
    """
    pixels = pixels_of(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    background = np.median(border, axis=0)
    name, error = _nearest(background, _BACKGROUND_VALUES)
    if error > _BACKGROUND_ERROR:
        return Unreadable(f"the background {_rgb(background)} is none of {', '.join(BACKGROUNDS)}")
    if np.mean(np.linalg.norm(border - background, axis=1) > _CONTRAST) > _UNEVEN:
        return Unreadable("the border is not of one color")
    things = []
    regions = _regions(np.linalg.norm(pixels - background, axis=2) > _CONTRAST)
    for rows, columns in regions:
        if len(rows) <= _DUST:
            continue
        if len(rows) < _LEAST:
            return Unreadable(f"a fragment of {len(rows)} px is no thing")
        thing = _read_thing(pixels, background, rows, columns)
        if isinstance(thing, Unreadable):
            return thing
        things.append(thing)
    if sum(len(rows) for rows, _ in regions if len(rows) <= _DUST) > 3 * _DUST:
        return Unreadable("too many specks")
    return Scene(_BACKGROUND_NAMES[name], tuple(sorted(things, key=lambda thing: (thing.y, thing.x))))


def _read_thing(
    pixels: np.ndarray, background: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> Thing | Unreadable:
    inside = pixels[rows, columns]
    contrast = np.linalg.norm(inside - background, axis=1)
    core = inside[contrast > 0.75 * np.quantile(contrast, 0.9)]
    color = np.median(core, axis=0)
    name, error = _nearest(color, _COLOR_VALUES)
    if error > _COLOR_ERROR:
        return Unreadable(f"the color {_rgb(color)} is none of {', '.join(COLORS)}")
    if np.mean(np.linalg.norm(core - color, axis=1) > 60) > _MIXED:
        return Unreadable(f"a thing of several colors around {_rgb(color)}")
    window = (
        max(0, int(columns.min()) - 2), max(0, int(rows.min()) - 2),
        min(CANVAS, int(columns.max()) + 3), min(CANVAS, int(rows.max()) + 3),
    )  # fmt: skip
    left, top, right, bottom = window
    direction = color - background
    mask = np.zeros((bottom - top, right - left), bool)
    mask[rows - top, columns - left] = True
    mask = _dilated(mask)  # antialiased edges, but nothing of a neighbour
    alpha = ((pixels[top:bottom, left:right] - background) @ direction / (direction @ direction)).clip(0, 1) * mask
    shape, radius, x, y, misfit = _fit(alpha, window)
    if misfit > _MISFIT:
        return Unreadable(f"a {_COLOR_NAMES[name]} thing is no known shape (best guess {shape}, misfit {misfit:.2f})")
    if not _is_known_size(radius):
        return Unreadable(f"a {_COLOR_NAMES[name]} {shape} of radius {radius:.1f} px is of no known size")
    return Thing(shape, _COLOR_NAMES[name], "large" if radius > _SPLIT_RADIUS else "small", x, y)


def _fit(alpha: np.ndarray, window: tuple[int, int, int, int]) -> tuple[str, float, float, float, float]:
    """The template nearest to a soft mask [H, W]: (shape, radius, x, y, misfit as a share of the area).

    Templates of a known size come before the others: a small diamond with soft corners is as near to a circle that is
    smaller than any.
    """
    area = float(alpha.sum())
    x = float(alpha.sum(0) @ (np.arange(window[0], window[2]) + 0.5)) / area
    centroid = float(alpha.sum(1) @ (np.arange(window[1], window[3]) + 0.5)) / area
    best = ("", 0.0, 0.0, 0.0, np.inf)
    for shape in SHAPES:
        radius = (area / AREA[shape]) ** 0.5
        y = (
            centroid - radius / 3 if shape == "triangle" else centroid
        )  # a triangle's centroid is below its box's centre
        misfit = float(abs(coverage(shape, x, y, radius, window) - alpha).sum()) / area
        if (_is_known_size(radius), -misfit) > (_is_known_size(best[1]), -best[-1]):
            best = (shape, radius, x, y, misfit)
    return best


def _is_known_size(radius: float) -> bool:
    return _RADII[0] <= radius <= _RADII[1]


def _regions(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, columns) of each 4-connected region, by joining runs of neighbouring rows."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    parent = list(range(len(runs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above, first = 0, 0
    for i, (row, start, stop) in enumerate(runs):
        if i and runs[i - 1][0] != row:
            above, first = first, i
        for j in range(above, first):
            if runs[j][0] == row - 1 and runs[j][1] < stop and start < runs[j][2]:
                parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(runs)):
        groups.setdefault(root(i), []).append(i)
    return [
        (
            np.concatenate([np.full(runs[i][2] - runs[i][1], runs[i][0]) for i in group]),
            np.concatenate([np.arange(runs[i][1], runs[i][2]) for i in group]),
        )
        for group in groups.values()
    ]


def _dilated(mask: np.ndarray) -> np.ndarray:
    """The mask and the four neighbours of its pixels."""
    dilated = mask.copy()
    dilated[1:] |= mask[:-1]
    dilated[:-1] |= mask[1:]
    dilated[:, 1:] |= mask[:, :-1]
    dilated[:, :-1] |= mask[:, 1:]
    return dilated


def _nearest(color: np.ndarray, palette: np.ndarray) -> tuple[int, float]:
    distances = np.linalg.norm(palette - color, axis=1)
    return int(distances.argmin()), float(distances.min())


def _rgb(color: np.ndarray) -> str:
    return f"rgb({', '.join(str(round(float(channel))) for channel in color)})"
