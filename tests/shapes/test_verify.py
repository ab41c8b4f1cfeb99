from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2ialign.shapes.caption import captions, constraints, perturb, perturbations
from t2ialign.shapes.constraint import holds
from t2ialign.shapes.render import render, render_array
from t2ialign.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Scene, Thing, sample_scene
from t2ialign.shapes.verify import Unreadable, read, verify

HALVES = np.repeat(np.array([[245] * 3, [25] * 3], np.uint8), (40, 24), axis=0)
ASSETS = Path(__file__).parents[2] / "assets" / "shapes-sd"


@pytest.mark.parametrize("renders", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_constraint_is_judged_right_on_many_renders(renders: int):
    rng = np.random.default_rng(renders)
    for _ in range(renders):
        scene = sample_scene(rng)
        seen = read(render(scene, rng))
        for text in captions(scene, rng).values():
            assert verify(text, seen).all_right, (text, scene, seen)
            for kind in perturbations(text):
                assert not verify(perturb(text, kind, rng), seen).all_right, text


def mutations(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Scenes that differ in one attribute of one thing, or in the background."""
    i = rng.integers(len(scene.things))
    thing = scene.things[i]
    other = {
        "color": str(rng.choice([color for color in COLORS if color != thing.color])),
        "shape": str(rng.choice([shape for shape in SHAPES if shape != thing.shape])),
    } | ({"size": "small"} if thing.size == "large" else {})  # a grown thing could touch another
    found = {
        name: replace(scene, things=(*scene.things[:i], replace(thing, **{name: value}), *scene.things[i + 1 :]))
        for name, value in other.items()
    }
    background = str(rng.choice([name for name in BACKGROUNDS if name != scene.background]))
    return found | {"background": replace(scene, background=background)}


def test_pictures_with_one_attribute_changed_are_judged_as_the_changed_scene_not_as_the_caption():
    rng = np.random.default_rng(2)
    wrong = dict.fromkeys(("color", "shape", "size", "background"), 0)
    for _ in range(400):
        scene = sample_scene(rng)
        texts = captions(scene, rng).values()
        for attribute, changed in mutations(scene, rng).items():
            seen = read(render(changed, rng))
            for text in texts:
                for verdict in verify(text, seen).verdicts:
                    assert verdict.right == holds(verdict.constraint, changed), (text, changed, seen)
                    wrong[attribute] += not verdict.right
    assert all(wrong.values()), wrong  # each change makes some caption false


def test_what_is_read_is_what_was_drawn():
    scene = Scene("cream", (Thing("triangle", "pink", "large", 20, 18), Thing("diamond", "cyan", "small", 45, 50)))
    seen = read(render(scene))
    assert isinstance(seen, Scene)
    assert seen.background == "cream"
    for read_thing, thing in zip(seen.things, scene.things, strict=True):
        assert (read_thing.shape, read_thing.color, read_thing.size) == (thing.shape, thing.color, thing.size)
        assert (read_thing.x, read_thing.y) == pytest.approx((thing.x, thing.y), abs=0.5)


@pytest.mark.parametrize("distort", ["blur", "jpeg", "larger", "noise", "palette"])
def test_reading_survives_small_damage(distort: str):
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(40):
        scene = sample_scene(rng)
        picture = render(scene, rng)
        if distort == "blur":
            picture = picture.filter(ImageFilter.GaussianBlur(0.7))
        elif distort == "jpeg":
            file = BytesIO()
            picture.save(file, "JPEG", quality=85)
            picture = Image.open(file)
        elif distort == "larger":
            picture = picture.resize((512, 512), Image.Resampling.NEAREST)
        elif distort == "noise":
            noisy = np.asarray(picture) + rng.normal(0, 8, (64, 64, 3))
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        else:
            picture = picture.convert("P", palette=Image.Palette.ADAPTIVE)
        wrong += sum(not verify(text, picture).all_right for text in captions(scene, rng).values())
    assert wrong == 0


def picture(things: list[tuple[str, float, float]], color: tuple[int, int, int] = (215, 40, 45)) -> Image.Image:
    scene = Scene("white", tuple(Thing(shape, "red", "large", x, y) for shape, x, y in things))
    pixels = render_array(scene)
    pixels[(pixels == (215, 40, 45)).all(2)] = color
    return Image.fromarray(pixels)


def test_noise_is_unreadable_and_wrong_everywhere():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    judged = verify("a red circle", Image.fromarray(noise))
    assert isinstance(judged.seen, Unreadable)
    assert not any(verdict.right for verdict in judged.verdicts)
    assert not judged.all_right
    assert judged.share == 0.0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (64, 64), (128, 128, 128)), "background"),
        (picture([("circle", 32, 32)], (120, 130, 120)), "color"),
        (picture([("circle", 28, 32), ("square", 38, 32)]), "known"),
        (Image.fromarray(np.repeat([HALVES], 64, 0)), "border"),
    ],
)  # fmt: skip
def test_what_is_none_of_this_world_is_unreadable(image: Image.Image, reason: str):
    seen = read(image)
    assert isinstance(seen, Unreadable), seen
    assert any(word in seen.reason for word in reason.split("|")), seen.reason


def test_fragments_are_unreadable_and_dust_is_not():
    pixels = np.asarray(picture([("circle", 32, 32)])).copy()
    pixels[4:6, 4:8] = (45, 85, 215)
    assert isinstance(read(Image.fromarray(pixels)), Scene)
    pixels[4:9, 4:10] = (45, 85, 215)
    seen = read(Image.fromarray(pixels))
    assert isinstance(seen, Unreadable)
    assert "fragment" in seen.reason


def test_an_empty_picture_is_read_as_empty_and_counts_as_wrong():
    empty = Image.new("RGB", (64, 64), (245, 245, 245))
    assert read(empty) == Scene("white", ())
    assert verify("two shapes, none of them red", empty).share == 0.0


def test_verdicts_carry_their_criterion_in_the_prompts_order():
    prompt = "a red circle on a white background"
    judged = verify(prompt, picture([("square", 32, 32)]))
    assert [verdict.constraint for verdict in judged.verdicts] == list(constraints(prompt))
    assert [verdict.right for verdict in judged.verdicts] == [True, True, False, True]
    assert judged.verdicts[2].criterion == "Attribute - Shape"
    assert judged.share == 0.75


def test_nothing_to_verify_is_an_error():
    with pytest.raises(ValueError, match="no constraints"):
        verify((), Image.new("RGB", (64, 64)))


@pytest.mark.slow
def test_constraints_are_judged_right_on_the_shipped_vaes_reconstructions():
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(ASSETS / "vae", torch_dtype=torch.float32)
    rng = np.random.default_rng(5)
    right, n = 0, 0
    for _ in range(8):
        scenes = [sample_scene(rng) for _ in range(64)]
        images = torch.from_numpy(np.stack([render_array(scene, rng) for scene in scenes]))
        with torch.no_grad():
            latents = vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
            decoded = (vae.decode(latents).sample.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1)
        for scene, pixels in zip(scenes, decoded.numpy(), strict=True):
            seen = read(Image.fromarray(pixels))
            for text in captions(scene, rng).values():
                right += sum(verdict.right for verdict in verify(text, seen).verdicts)
                n += len(constraints(text))
    assert right / n >= 0.99


def test_a_small_diamond_with_soft_corners_is_no_circle_of_a_size_that_does_not_exist():
    image = render(Scene("navy", (Thing("diamond", "red", "small", 30.0, 30.0),))).filter(ImageFilter.GaussianBlur(1.2))
    seen = read(image)
    assert isinstance(seen, Scene)
    assert [thing.shape for thing in seen.things] == ["diamond"]
