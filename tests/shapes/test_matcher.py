"""The independent verifier: reads what was drawn, notices what no scene holds, shares no reading code with `verify`."""

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2ialign.shapes import matcher
from t2ialign.shapes.matcher import match
from t2ialign.shapes.render import coverage, render
from t2ialign.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Scene, Thing, sample_scene
from t2ialign.shapes.verify import Unreadable, read


def facts(scene: Scene | Unreadable) -> tuple:
    assert isinstance(scene, Scene), scene
    return scene.background, sorted((thing.shape, thing.color, thing.size) for thing in scene.things)


def test_scenes_are_read_back_with_their_places():
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = sample_scene(rng)
        found = match(render(scene, rng))
        assert facts(found) == facts(scene)
        for thing in scene.things:  # quarter-pixel steps, and colours and radii are jittered
            assert min(np.hypot(thing.x - other.x, thing.y - other.y) for other in found.things) < 1.0


def test_soft_pictures_are_read_as_the_verifier_reads_them():
    rng = np.random.default_rng(1)
    for _ in range(15):
        image = render(sample_scene(rng), rng).filter(ImageFilter.GaussianBlur(0.8))
        assert facts(match(image)) == facts(read(image))


def on_white(*things: Thing) -> Image.Image:
    return render(Scene("white", things))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_known_at_sizes_that_only_a_model_draws(shape: str):
    for radius in np.arange(7.5, 14.0, 0.5):
        cover = coverage(shape, 30.0, 33.0, radius)[..., None]
        pixels = np.array(BACKGROUNDS["white"]) * (1 - cover) + np.array(COLORS["red"]) * cover
        found = match(Image.fromarray(pixels.round().astype(np.uint8)))
        assert isinstance(found, Scene), (radius, found)
        assert [(thing.shape, thing.color) for thing in found.things] == [(shape, "red")], radius


def test_an_empty_picture_is_a_scene_without_things():
    assert match(on_white()) == Scene("white", ())


def test_things_that_touch_are_no_scene():
    touching = on_white(Thing("square", "red", "small", 20.0, 20.0), Thing("square", "blue", "small", 35.0, 20.0))
    apart = on_white(Thing("square", "red", "small", 20.0, 20.0), Thing("square", "blue", "small", 40.0, 20.0))
    assert match(touching) == Unreadable("two things touch")
    assert isinstance(match(apart), Scene)


@pytest.mark.parametrize("kind", ["noise", "fragment", "half of a ring", "too large"])
def test_what_no_scene_holds_is_unreadable(kind):
    pixels = np.array(on_white(Thing("ring", "blue", "large", 20.0, 20.0)))
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    elif kind == "fragment":
        pixels[48:55, 48:55] = (215, 40, 45)
    elif kind == "half of a ring":
        pixels[20:40] = 245
    else:
        pixels[16:60, 16:60] = (45, 85, 215)
    assert isinstance(match(Image.fromarray(pixels)), Unreadable)


def test_of_the_verifier_it_takes_the_word_for_unreadable_alone():
    tree = ast.parse(Path(matcher.__file__).read_text())
    taken = [
        a.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and "verify" in node.module
        for a in node.names
    ]
    assert taken == ["Unreadable"]
