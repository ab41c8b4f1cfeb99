import numpy as np
import pytest

from t2ialign.shapes.render import RADIUS_JITTER, render, render_array
from t2ialign.shapes.scene import COLORS, RADII, Scene, Thing, sample_scene


def test_without_a_generator_a_scene_has_one_picture():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng)
        assert render(scene).tobytes() == render(scene).tobytes()
        assert render(scene).tobytes() != render(scene, rng).tobytes()


def test_every_thing_fills_its_box_and_nothing_else_is_drawn():
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = sample_scene(rng)
        pixels = render_array(scene, rng).astype(float)
        free = np.ones((64, 64), bool)
        for thing in scene.things:
            reach = RADII[thing.size] + RADIUS_JITTER + 1  # a pixel of antialiasing
            rows, columns = np.ogrid[:64, :64]
            box = (abs(columns + 0.5 - thing.x) <= reach) & (abs(rows + 0.5 - thing.y) <= reach)
            color = np.median(pixels[box & (np.linalg.norm(pixels - COLORS[thing.color], axis=2) < 20)], axis=0)
            assert color == pytest.approx(COLORS[thing.color], abs=9), (thing, scene)  # jitter 8, rounding 1
            free &= ~box
        assert np.ptp(pixels[free], axis=0).max() == 0, scene  # all background


@pytest.mark.parametrize("shape", ["circle", "square", "diamond", "cross", "ring"])
def test_a_symmetric_shape_is_centred_on_its_place(shape: str):
    pixels = render_array(Scene("black", (Thing(shape, "yellow", "large", 20.3, 40.7),))).astype(float)
    drawn = pixels[..., 0] - 25  # black is 25; yellow's red channel is 240
    x, y = drawn.sum(0) @ (np.arange(64) + 0.5) / drawn.sum(), drawn.sum(1) @ (np.arange(64) + 0.5) / drawn.sum()
    assert (x, y) == pytest.approx((20.3, 40.7), abs=0.1)
