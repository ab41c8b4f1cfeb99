"""Rewards read off the pixels, against images whose numbers are known by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from t2ialign.rewards.registry import load_reward


def score(name: str, image: Image.Image) -> float | None:
    return load_reward(name)([image], [""])[0]


def grey(pixels) -> Image.Image:
    return Image.fromarray(np.array(pixels, np.uint8)).convert("RGB")


def test_brightness_is_the_mean_luma():
    assert score("brightness", grey([[0, 255], [51, 102]])) == pytest.approx((0 + 1 + 0.2 + 0.4) / 4)


def test_saturation_is_0_for_grey_and_1_for_a_pure_colour():
    assert score("saturation", Image.new("RGB", (4, 4), "gray")) == 0
    assert score("saturation", Image.new("RGB", (4, 4), (255, 0, 0))) == 1
    half = Image.new("RGB", (4, 2), (255, 0, 0))
    half.paste((90, 90, 90), (0, 0, 2, 2))
    assert score("saturation", half) == pytest.approx(0.5)


def test_sharpness_is_the_variance_of_the_laplacian():
    assert score("sharpness", Image.new("RGB", (8, 8), "gray")) == 0
    # one white pixel in the middle of 3 x 4: inner pixels see -4 and +1; mean -1.5, variance 2.5^2
    assert score("sharpness", grey([[0, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 0]])) == pytest.approx(6.25)


def test_sharpness_of_an_image_without_inner_pixels_is_no_number():
    assert score("sharpness", grey([[0, 255, 0], [255, 0, 255]])) is None


def test_jpeg_size_is_in_thousands_of_bytes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", quality=95)
    assert score("jpeg_size", noise) == len(buffer.getvalue()) / 1000
    flat = score("jpeg_size", Image.new("RGB", (32, 32)))
    assert flat is not None
    assert flat < len(buffer.getvalue()) / 1000
