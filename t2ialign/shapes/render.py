"""Draws a scene: 64 x 64 px RGB, antialiased, with a slight jitter of colours and radii on request."""

import numpy as np
from PIL import Image

from t2ialign.shapes.scene import BACKGROUNDS, CANVAS, COLORS, RADII, Scene

COLOR_JITTER = 8
"""Largest change of a channel, of 255, when a jitter is asked for."""
RADIUS_JITTER = 0.4
"""Largest change of a radius in px."""

AREA: dict[str, float] = {
    "circle": np.pi,
    "square": 3.24,
    "triangle": 2.0,
    "diamond": 2.0,
    "cross": 2.3616,
    "ring": 0.75 * np.pi,
}
"""Area of each shape at radius 1."""


def pixels_of(image: Image.Image) -> np.ndarray:
    """RGB of a picture of any mode and size, brought to the canvas. [64, 64, 3] float32 in [0, 255]"""
    image = image.convert("RGB")
    if image.size != (CANVAS, CANVAS):
        image = image.resize((CANVAS, CANVAS), Image.Resampling.BOX)
    return np.asarray(image, np.float32)


def coverage(
    shape: str, x: float, y: float, radius: float, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Share of each pixel that the shape covers, from its signed distance.

    Args:
        shape: one of SHAPES.
        x: centre of the bounding box in px.
        y: the same, downwards.
        radius: half the side of the bounding box in px (a square's side is 1.8 radii, so that it looks no larger).
        window: (left, top, right, bottom) in px, right and bottom excluded; None is the whole canvas.

    Returns:
        float32 in [0, 1]. [bottom - top, right - left]

    Raises:
        ValueError: the shape is unknown.
    """
    left, top, right, bottom = window or (0, 0, CANVAS, CANVAS)
    u = np.arange(left, right, dtype=np.float32)[None] + (0.5 - x)
    v = np.arange(top, bottom, dtype=np.float32)[:, None] + (0.5 - y)
    match shape:
        case "circle":
            inside = radius - np.sqrt(u * u + v * v)
        case "square":
            inside = 0.9 * radius - np.maximum(abs(u), abs(v))
        case "triangle":
            inside = np.minimum(radius - v, ((v + radius) / 2 - abs(u)) * (2 / np.sqrt(5)))
        case "diamond":
            inside = (radius - abs(u) - abs(v)) / np.sqrt(2)
        case "cross":
            arm = 0.36 * radius
            inside = np.maximum(np.minimum(radius - abs(u), arm - abs(v)), np.minimum(arm - abs(u), radius - abs(v)))
        case "ring":
            distance = np.sqrt(u * u + v * v)
            inside = np.minimum(radius - distance, distance - 0.5 * radius)
        case _:
            raise ValueError(f"unknown shape {shape!r}; the shapes are {', '.join(AREA)}")
    return np.clip(inside + 0.5, 0.0, 1.0).astype(np.float32)


def render(scene: Scene, rng: np.random.Generator | None = None) -> Image.Image:
    """The scene as a picture, 64 x 64 px RGB.

    Args:
        scene: what to draw.
        rng: jitters the colours and radii slightly; None draws them exactly.
    """
    return Image.fromarray(render_array(scene, rng))


def render_array(scene: Scene, rng: np.random.Generator | None = None) -> np.ndarray:
    """`render` as an array, uint8 in [0, 255]. [64, 64, 3]"""
    pixels = np.empty((CANVAS, CANVAS, 3), np.float32)
    pixels[:] = _color(BACKGROUNDS[scene.background], rng)
    for thing in scene.things:
        radius = RADII[thing.size] + (0.0 if rng is None else float(rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)))
        reach = int(radius) + 2
        left, top = max(0, int(thing.x) - reach), max(0, int(thing.y) - reach)
        right, bottom = min(CANVAS, int(thing.x) + reach + 1), min(CANVAS, int(thing.y) + reach + 1)
        covered = coverage(thing.shape, thing.x, thing.y, radius, (left, top, right, bottom))[..., None]
        area = pixels[top:bottom, left:right]
        area += covered * (_color(COLORS[thing.color], rng) - area)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _color(rgb: tuple[int, int, int], rng: np.random.Generator | None) -> np.ndarray:
    color = np.array(rgb, np.float32)
    return color if rng is None else color + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3).astype(np.float32)
