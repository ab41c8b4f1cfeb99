"""Rewards of your own: a function, and a class with an option.

t2ialign score samples --reward my_reward.py:contrast --reward my_reward.py:CloseToGrey,grey=100
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageStat


def contrast(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """Standard deviation of the luma; None for an image of a single colour, which has no contrast to judge."""
    deviations = [ImageStat.Stat(image.convert("L")).stddev[0] for image in images]
    return [deviation or None for deviation in deviations]


class CloseToGrey:
    """Minus the distance of the mean luma from a grey value. Built once, so this is the place to load weights."""

    def __init__(self, grey: float = 128):
        self.grey = grey

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [-abs(ImageStat.Stat(image.convert("L")).mean[0] - self.grey) for image in images]
