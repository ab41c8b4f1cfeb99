"""Diversity and realism: by hand, and blind to what they must be blind to."""

import numpy as np
import pytest
from PIL import Image

from t2ialign.shapes.caption import constraints, describe
from t2ialign.shapes.diversity import GRID, VALUES, open_attributes, ratios, spreads, tally, value
from t2ialign.shapes.realism import residual
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import CANVAS, COLORS, SHAPES, SIZES, Scene, Thing, sample_scene


@pytest.mark.parametrize(
    ("prompt", "left_open"),
    [
        ("a red circle", ["place"]),
        ("three shapes, none of them red", ["place", "color", "shape"]),
        ("two circles", ["place", "color"]),
        ("three blue shapes", ["place", "shape"]),
        ("a red circle above a blue square", []),
        ("a circle and a ring of the same color", ["place", "color"]),
    ],
)
def test_what_a_prompt_leaves_open(prompt, left_open):
    assert open_attributes(constraints(prompt)) == left_open


def circles(*colors: str) -> Scene:
    return Scene("white", tuple(Thing("circle", color, "small", 20.0 + 20 * i, 20.0) for i, color in enumerate(colors)))


def test_spread_by_hand():
    # of four things two are red, one blue, one green: entropy 1.5 ln 2, of 8 colours' 3 ln 2
    tallies = tally(["two circles", "two circles"], [circles("red", "red"), circles("blue", "green")])
    assert spreads(tallies)["color"][0] == pytest.approx(0.5)
    # the places are x = 20 and 40, twice each, in one row: 2 of 16 cells
    assert spreads(tallies)["place"][0] == pytest.approx(0.25)


def test_families_count_by_their_prompts():
    # "two circles" varies 1 bit of 3; the two prompts of "none of" vary none: (1/3 + 0 + 0) / 3
    prompts = ["two circles", "two shapes, none of them red", "two shapes, none of them green"]
    tallies = tally(prompts, [circles("red", "blue"), circles("blue", "blue"), circles("blue", "blue")])
    assert spreads(tallies)["color"][0] == pytest.approx(1 / 9)


def test_an_unreadable_picture_adds_nothing():
    both = tally(["two circles", "two circles"], [circles("red", "blue"), None])
    one = tally(["two circles"], [circles("red", "blue")])
    for attribute, spread in spreads(both).items():
        assert spread[0] == pytest.approx(spreads(one)[attribute][0])


def test_places_are_told_apart_by_the_room_a_size_has():
    corner = {size: Thing("ring", "red", size, radius, radius) for size, radius in (("small", 8.0), ("large", 13.0))}
    assert {value(thing, "place") for thing in corner.values()} == {0}
    opposite = Thing("ring", "red", "large", CANVAS - 13.0, CANVAS - 13.0)
    assert value(opposite, "place") == GRID * GRID - 1


def scenes(n: int, size: str | None, seed: int) -> tuple[list[str], list[Scene | None]]:
    rng = np.random.default_rng(seed)
    prompts, found = [], []
    while len(prompts) < n:
        scene = sample_scene(rng, int(rng.integers(1, 4)))
        if size is not None and {thing.size for thing in scene.things} != {size}:
            continue
        prompt = describe(scene, "none of" if len(scene.things) > 1 else "negation", rng)
        assert prompt is not None
        prompts.append(prompt)
        found.append(scene)
    return prompts, found


def test_the_world_itself_is_as_diverse_in_large_as_in_small():
    prompts = ["two shapes, none of them red"] * 400
    small, large = (scenes(400, size, seed)[1] for seed, size in enumerate(("small", "large")))
    ratio = ratios(tally(prompts, small), tally(prompts, large), resamples=200)
    assert ratio["diversity"] is not None
    low, mean, high = ratio["diversity"].low, ratio["diversity"].mean, ratio["diversity"].high
    assert 0.95 < mean < 1.05
    assert low < mean < high


def test_a_collapsed_model_is_found_out():
    prompts, varied = scenes(200, None, 2)
    still = [Scene("white", (Thing("circle", "red", "small", 20.0, 20.0),))] * 200
    ratio = ratios(tally(prompts, varied), tally(prompts, still), resamples=100)
    assert ratio["diversity"] == (0, 0, 0)
    back = ratios(tally(prompts, still), tally(prompts, varied), resamples=100)
    assert back["color"] is None


def test_attributes_have_as_many_values_as_they_say():
    things = [Thing(s, c, z, x, x) for s in SHAPES for c in COLORS for z in SIZES for x in np.linspace(0.0, CANVAS, 9)]
    for attribute, values in VALUES.items():
        assert {value(thing, attribute) for thing in things} <= set(range(values))


def test_the_residual_of_a_drawing_is_nothing_and_of_a_true_picture_small():
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 3)
    assert residual(render(scene), scene) == 0
    # colours are jittered by up to 8, evenly: 4 on average, plus edges
    assert 2 < np.mean([residual(render(scene, rng), scene) for _ in range(50)]) < 6


def test_the_residual_by_hand():
    # the whole picture 10 levels brighter in one of three channels
    scene = Scene("black", ())
    pixels = np.array(render(scene))
    pixels[..., 0] += 10
    assert residual(Image.fromarray(pixels), scene) == pytest.approx(10 / 3)
