"""Images: opened safely whatever their format, and made into pixels of one size."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from t2ialign.data.base import StoredImage
from t2ialign.errors import DataError
from t2ialign.storage.atomic import atomic_write, link_or_copy

RULE = "centre square, Lanczos, v1"
"""What `to_pixels` does to an image; part of the cache's key."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Pixels(NamedTuple):
    """An image as the VAE takes it, and what was done to get it."""

    values: Tensor
    """[3, H, W] in [-1, 1]"""
    original: tuple[int, int]
    """(height, width) of the file, after its rotation flag."""
    crop: tuple[int, int]
    """(top, left) of what is kept, in px of the resized image."""


def open_image(image: Path | bytes | StoredImage) -> Image.Image:
    """The image as RGB: rotated as its camera meant it, transparency over white, 16 bits brought to 8.

    Raises:
        DataError: missing, not an image, truncated, or larger than Pillow's limit against decompression bombs.
    """
    content = image if isinstance(image, (bytes, Path)) else image.read()
    try:
        with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as opened:
            _refuse_bomb(opened)
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise DataError("no such image") from None
    except Image.UnidentifiedImageError:
        raise DataError("not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        # what Pillow's decoders raise on damaged files
        raise DataError(f"damaged or unreadable image ({error})") from None


def _refuse_bomb(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"too large: {image.width} x {image.height} px, the limit is {limit:,} px in all; make it smaller"
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale; convert("RGB") would clip it to white
        grey = np.asarray(image, dtype=np.int64)
        image = Image.fromarray((grey.clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise DataError("holds floating-point pixels of unknown range; save it with 8 bits a channel")
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, resolution: int) -> Pixels:
    """The centre square of an RGB image, resized with antialiasing to resolution x resolution."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # resizing straight from the box, not the whole image first: a long strip would become huge
    square = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    values = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1
    scale = resolution / side
    return Pixels(values, (height, width), (round(top * scale), round(left * scale)))


def image_key(image: Path | bytes | StoredImage, origin: str) -> Path | bytes:
    """What an image is recognised by: its file's path, or a digest of the bytes that a table holds.

    Raises:
        DataError: the table holds none.
    """
    if isinstance(image, Path):
        return image
    try:
        content = image if isinstance(image, bytes) else image.read()
    except DataError as error:
        raise DataError(f"{origin}: {image}: {error}") from None
    return hashlib.sha256(content).digest()


def adopt_image(image: Path | bytes | StoredImage, folder: Path, number: int, origin: str) -> str:
    """Brings an image into a folder under a number, as a link, a copy, or the bytes that a table holds; its name.

    Raises:
        DataError: the bytes are no image.
    """
    if isinstance(image, Path):
        name = f"{number}{image.suffix.lower()}"
        if not (folder / name).is_file():
            link_or_copy(image, folder / name)
        return name
    content = image if isinstance(image, bytes) else image.read()
    try:
        with Image.open(BytesIO(content)) as opened:
            name = f"{number}.{(opened.format or 'png').lower()}"
    except OSError:
        raise DataError(f"{origin}: {image} is not an image that can be read") from None
    with atomic_write(folder / name) as partial:
        partial.write_bytes(content)
    return name
