"""Which part of an image the model sees, and in which size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2ialign.rng import generator

RULES = {
    "center": "centre square, Lanczos, v1",
    "random": "square anywhere by row, Lanczos, v1",
    "bucket": "centre of the bucket's ratio, Lanczos, v1",
}
"""What is done to an image by each kind of crop; part of the cache's key."""
CENTER = (0.5, 0.5)


def crop_place(row: int) -> tuple[float, float]:
    """Where the square of a row's images lies, drawn by the row alone; (across, down) as `to_pixels` takes it."""
    across, down = torch.rand(2, generator=generator("crop", row), dtype=torch.float64).tolist()
    return across, down


def to_pixels(
    image: Image.Image,
    size: int | tuple[int, int],
    place: tuple[float, float] = CENTER,
    *,
    mirrored: bool = False,
) -> tuple[Tensor, tuple[int, ...]]:
    """The largest part of an RGB image that has the shape of `size`, resized with antialiasing to it.

    Args:
        size: side of a square, or (width, height), in px.
        place: where the part lies, (across, down) from 0 at the left and the top to 1 at the other end.
        mirrored: left for right; it is the same part of the image.

    Returns:
        pixels [3, H, W] in [-1, 1], and (original height, width, crop top, left, target height, width): the size of the
        file after its rotation flag, and what is kept, in px of the resized image.
    """
    width, height = image.size
    target = (size, size) if isinstance(size, int) else size
    kept = (min(width, height * target[0] / target[1]), min(height, width * target[1] / target[0]))
    left, top = (width - kept[0]) * place[0], (height - kept[1]) * place[1]
    # resizing straight from the box, not the whole image first: a long strip would become huge
    part = image.resize(target, Image.Resampling.LANCZOS, box=(left, top, left + kept[0], top + kept[1]))
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 127.5 - 1
    if mirrored:
        pixels, left = pixels.flip(-1), width - kept[0] - left
    across, down = target[0] / kept[0], target[1] / kept[1]
    return pixels, (height, width, round(top * down), round(left * across), target[1], target[0])
