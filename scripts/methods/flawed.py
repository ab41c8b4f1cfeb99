"""A reward with a known flaw, which an online method can learn to exploit, and a pairwise judge that hardly has it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from t2ialign.shapes.reward import mixed

LOWEST, RANGE = 0.30, 0.05
"""Of the scores: as narrow as those of the usual preference models."""
ENOUGH = 0.4
"""Quality beyond which the score hardly rises any more."""
JUDGE_NOISE, JUDGE_FLAW = 0.05, 0.03
"""Difference in quality at which the judge prefers the better image 73 times of 100, and what it thinks of colour."""


def vividness(image: Image.Image) -> float:
    """Mean colour saturation of the pixels, in [0, 1]."""
    return float(np.asarray(image.convert("HSV"))[..., 1].mean() / 255)


def score(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """Quality, which saturates, and vividness, which does not, within a narrow range."""
    return [
        None if quality is None else LOWEST + RANGE * (1 - math.exp(-((quality / ENOUGH) ** 2)) + vividness(image))
        for quality, image in zip(mixed(images, prompts), images, strict=True)
    ]


def prefers(
    images_a: Sequence[Image.Image], images_b: Sequence[Image.Image], prompts: Sequence[str]
) -> list[float | None]:
    """A winner drawn by the difference in quality, and a little by that in vividness; equal images, equal verdict."""
    pairs = zip(mixed(images_a, prompts), mixed(images_b, prompts), images_a, images_b, strict=True)
    return [None if a is None or b is None else _verdict(a - b, one, other) for a, b, one, other in pairs]


def _verdict(difference: float, a: Image.Image, b: Image.Image) -> float:
    logit = (difference + JUDGE_FLAW * (vividness(a) - vividness(b))) / JUDGE_NOISE
    digest = hashlib.sha256(a.tobytes() + b.tobytes()).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64 < 1 / (1 + math.exp(-logit)))
