"""Images inside the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from t2ialign.errors import DataError


def data_uri(path: Path, max_side: int = 256) -> str:
    """An image file as a data URI; see `image_uri`.

    Raises:
        DataError: the file is missing or not an image.
    """
    return image_uri(open_rgb(path), max_side)


def open_rgb(path: Path) -> Image.Image:
    """
    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: cannot be shown ({error.strerror or error})") from None


def image_uri(image: Image.Image, max_side: int = 256) -> str:
    """An image as a data URI, no side longer than `max_side` px: PNG where it is small, WebP otherwise."""
    image = image.copy()
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    small = max(image.size) <= 128
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=85)
    return f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
