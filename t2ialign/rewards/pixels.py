"""Rewards read off the pixels: no weights, no notion of the prompt. For probes, tests and a first try."""

from __future__ import annotations

import io

import numpy as np
from PIL.Image import Image


def _luma(image: Image) -> np.ndarray:
    """[H, W] in [0, 1]"""
    return np.asarray(image.convert("L"), np.float64) / 255


def brightness(images: list[Image], prompts: list[str]) -> list[float]:
    """Mean luma, in [0, 1]."""
    return [float(_luma(image).mean()) for image in images]


def saturation(images: list[Image], prompts: list[str]) -> list[float]:
    """Mean HSV saturation, in [0, 1]."""
    return [float(np.asarray(image.convert("HSV"), np.float64)[..., 1].mean() / 255) for image in images]


def sharpness(images: list[Image], prompts: list[str]) -> list[float | None]:
    """Variance of the luma's discrete Laplacian, at least 0; None below 3 x 3 px, where there is none."""
    return [_laplacian_variance(_luma(image)) for image in images]


def _laplacian_variance(luma: np.ndarray) -> float | None:
    if min(luma.shape) < 3:
        return None
    centre = luma[1:-1, 1:-1]
    neighbours = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((neighbours - 4 * centre).var())


def jpeg_size(images: list[Image], prompts: list[str]) -> list[float]:
    """Size of the image as a JPEG of quality 95, in kB (1000 bytes): incompressibility (Black et al. 2023)."""
    return [_encoded_bytes(image) / 1000 for image in images]


def _encoded_bytes(image: Image) -> int:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=95)
    return buffer.tell()
