import numpy as np
import pytest

from t2ialign.shapes.render import AREA, coverage, render, render_array
from t2ialign.shapes.scene import CANVAS, RADII, SHAPES, Scene, Thing, apart, relates, sample_scene


def test_things_lie_inside_the_canvas_and_apart():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        things = sample_scene(rng).things
        for thing in things:
            radius = RADII[thing.size]
            assert radius <= thing.x <= CANVAS - radius
            assert radius <= thing.y <= CANVAS - radius
        assert all(apart(a, b) for i, a in enumerate(things) for b in things[:i])


def test_the_same_generator_gives_the_same_scenes_and_pictures():
    first, second = (np.random.default_rng(7) for _ in range(2))
    for _ in range(20):
        one, two = sample_scene(first), sample_scene(second)
        assert one == two
        np.testing.assert_array_equal(render_array(one, first), render_array(two, second))


@pytest.mark.parametrize("things", [1, 2, 3, 4])
def test_a_scene_has_as_many_things_as_asked(things: int):
    rng = np.random.default_rng(1)
    assert {len(sample_scene(rng, things).things) for _ in range(50)} == {things}


def test_a_fifth_thing_is_refused():
    with pytest.raises(ValueError, match="not 5"):
        sample_scene(np.random.default_rng(0), 5)


def test_relations_hold_from_six_px_on_and_turn_around():
    left, right = Thing("ring", "red", "small", 20, 30), Thing("cross", "blue", "small", 26, 50)
    assert relates(left, "left of", right)
    assert relates(right, "right of", left)
    assert not relates(right, "left of", left)
    assert relates(left, "above", right)
    assert relates(right, "below", left)
    nearer = Thing("cross", "blue", "small", 25.9, 50)
    assert not relates(left, "left of", nearer)
    assert not relates(left, "right of", nearer)
    with pytest.raises(ValueError, match="'beside'"):
        relates(left, "beside", right)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", list(RADII.values()))
def test_a_shape_covers_its_area(shape: str, radius: float):
    covered = coverage(shape, 32.0, 32.0, radius)
    assert covered.sum() == pytest.approx(AREA[shape] * radius**2, rel=0.02)  # antialiasing rounds corners
    assert covered.min() == 0.0
    assert covered.max() == 1.0


def test_an_unknown_shape_is_named_in_the_error():
    with pytest.raises(ValueError, match="'star'"):
        coverage("star", 32, 32, 8)


def test_a_picture_shows_its_colors():
    picture = render(Scene("navy", (Thing("circle", "red", "large", 32, 32),)))
    assert picture.size == (64, 64)
    assert picture.getpixel((1, 1)) == (25, 40, 100)
    assert picture.getpixel((32, 32)) == (215, 40, 45)
