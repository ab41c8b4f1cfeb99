"""Folders of images: what is found, what is wrong with them, what a judge is sent."""

from __future__ import annotations

import io
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unigenbench.errors import DataError, InputError
from unigenbench.judging.image_checks import validate_images
from unigenbench.judging.images import encode, scan
from unigenbench.types import ImageFile, Prompt, PromptSet

SIZE = 16


def prompts(*indices: int) -> PromptSet:
    each = tuple(Prompt(index, f"prompt {index}", "", "", "", "", ()) for index in indices)
    return PromptSet("mine", "en", each, Path("mine.csv"), "0" * 64, "unknown")


def noise(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Prompts 3 and 7 with 2 images each, as they should be."""
    root = tmp_path / "images"
    root.mkdir()
    for index in (3, 7):
        for k in range(2):
            noise(10 * index + k).save(root / f"{index}_{k}.png")
    (root / "generation.json").write_text("{}")
    (root / ".3_0.png.partial").write_bytes(b"")
    (root / "._3_0.png").write_bytes(b"")
    return root


def test_a_folder_as_it_should_be_has_no_problems(folder: Path):
    found = scan(folder, prompts(3, 7), images_per_prompt=2)
    assert (found.missing, found.bad, found.extra) == ((), (), ())
    assert [(file.prompt_index, file.image_index) for file in found.found] == [(3, 0), (3, 1), (7, 0), (7, 1)]
    digest = sha256((folder / "7_1.png").read_bytes()).hexdigest()
    assert found.found[3] == ImageFile(7, 1, folder / "7_1.png", digest, SIZE, SIZE, "PNG")
    assert validate_images(folder, prompts(3, 7), images_per_prompt=2) == []


def test_names_follow_the_pattern_and_any_suffix(tmp_path: Path):
    noise(0).save(tmp_path / "3.0.webp")
    noise(1).save(tmp_path / "3.1.jpg")
    found = scan(tmp_path, prompts(3), images_per_prompt=2, pattern="{index}.{image}")
    assert [(file.path.name, file.format) for file in found.found] == [("3.0.webp", "WEBP"), ("3.1.jpg", "JPEG")]
    noise(2).save(tmp_path / "3.1.png")
    only = scan(tmp_path, prompts(3), images_per_prompt=2, pattern="{index}.{image}.jpg")
    assert [file.path.name for file in only.found] == ["3.1.jpg"]
    assert [absent.path.name for absent in only.missing] == ["3.0.jpg"]


@given(st.lists(st.sampled_from([".png", ".PNG", ".jpg", ".jpeg", ".webp"]), min_size=1, max_size=3, unique=True))
def test_of_two_files_that_are_one_image_none_is_judged_unsaid(suffixes: list[str]):
    with TemporaryDirectory() as folder:
        for number, suffix in enumerate(suffixes):
            noise(number).save(Path(folder) / f"3_0{suffix}")
        if len(suffixes) == 1:
            assert [file.path.suffix for file in scan(Path(folder), prompts(3), images_per_prompt=1).found] == suffixes
            return
        with pytest.raises(InputError, match="are both image 0 of prompt 3; remove one"):
            scan(Path(folder), prompts(3), images_per_prompt=1)
        for suffix in suffixes:
            if [other.lower() for other in suffixes].count(suffix.lower()) == 1:
                pattern = f"{{index}}_{{image}}{suffix}"
                (only,) = scan(Path(folder), prompts(3), images_per_prompt=1, pattern=pattern).found
                assert only.path.suffix == suffix


def test_a_pattern_may_name_folders(tmp_path: Path):
    (tmp_path / "00003/samples").mkdir(parents=True)
    noise(0).save(tmp_path / "00003/samples/0000.png")
    found = scan(tmp_path, prompts(3), images_per_prompt=1, pattern="{index:05d}/samples/{image:04d}")
    assert [file.path for file in found.found] == [tmp_path / "00003/samples/0000.png"]
    assert found.missing == ()


@pytest.mark.parametrize("pattern", ["{index}", "{image}", "{prompt}_{image}", "{}_{}", "{index}_{image", "{index:z}"])
def test_a_pattern_that_does_not_tell_images_apart_is_an_input_error(folder: Path, pattern: str):
    with pytest.raises(InputError, match=r"pattern '.*\{index\} and \{image\}"):
        scan(folder, prompts(3), pattern=pattern)


def test_no_such_folder_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder of images"):
        scan(tmp_path / "none", prompts(3))


def test_missing_images_are_listed_up_to_20_and_counted_per_image(folder: Path):
    wanted = prompts(3, 7, *range(100, 110))
    found = scan(folder, wanted, images_per_prompt=3)
    # the third of prompts 3 and 7, and 3 of each of 10 others
    assert len(found.missing) == 2 + 30
    assert found.missing[0][:3] == (3, 2, folder / "3_2.png")
    [problem] = validate_images(folder, wanted, images_per_prompt=3)
    assert (problem.severity, problem.place) == ("error", str(folder))
    assert (
        "32 images missing (10 of image 0, 10 of image 1, 12 of image 2): 3_2.png, 7_2.png, 100_0.png" in problem.what
    )
    assert "105_2.png and 12 more" in problem.what  # 2 + 6 * 3 = 20 are listed


def test_a_file_that_is_empty_or_cannot_be_decoded_is_bad(folder: Path):
    whole = (folder / "3_1.png").read_bytes()
    (folder / "3_0.png").write_bytes(b"")
    (folder / "3_1.png").write_bytes(whole[:-40])
    (folder / "7_0.png").write_bytes(b"<html>502 Bad Gateway</html>")
    found = scan(folder, prompts(3, 7), images_per_prompt=2)
    assert [absent[:2] for absent in found.bad] == [(3, 0), (3, 1), (7, 0)]
    assert [file.path.name for file in found.found] == ["7_1.png"]
    assert found.bad[0].reason == "is empty"
    assert all("cannot be decoded" in absent.reason for absent in found.bad[1:])
    problems = validate_images(folder, prompts(3, 7), images_per_prompt=2)
    assert [problem.severity for problem in problems] == ["error"] * 3
    assert problems[0].what == "1 image is empty: 3_0.png; make the image again"
    assert "3_1.png" in problems[1].what
    assert "7_0.png" in problems[2].what


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_cut_file_is_bad_in_every_format(tmp_path: Path, suffix: str):
    noise(0).save(tmp_path / f"3_0{suffix}")
    whole = (tmp_path / f"3_0{suffix}").read_bytes()
    (tmp_path / f"3_0{suffix}").write_bytes(whole[: len(whole) // 2])
    assert [absent[:2] for absent in scan(tmp_path, prompts(3), images_per_prompt=1).bad] == [(3, 0)]


def with_text(picture: Image.Image, path: Path) -> None:
    """The same picture in a file of other bytes."""
    text = PngInfo()
    text.add_text("seed", path.name)
    picture.save(path, pnginfo=text)


def flat(path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (0, 0, 0)).save(path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda root: noise(1).save(root / "7_2.png"), "1 image of no prompt: 7_2.png; not judged"),
        (lambda root: noise(1, (8, 16)).save(root / "7_1.png"), "differ in size: 3 of 16x16, 1 of 8x16"),
        (
            lambda root: with_text(noise(70), root / "7_1.png"),
            "twice for one prompt, a sign of a fixed seed: 7_0.png = 7_1.png",
        ),
        (lambda root: with_text(noise(31), root / "7_0.png"), "same picture for several prompts: 3_1.png = 7_0.png"),
        (lambda root: flat(root / "3_1.png"), "1 image of a single colour, as a safety checker makes them: 3_1.png"),
        (lambda root: noise(1).convert("RGBA").save(root / "3_1.png"), "1 image with an alpha channel"),
        (lambda root: noise(1).quantize(8).save(root / "3_1.png", transparency=0), "1 image with an alpha channel"),
    ],
)
def test_what_is_odd_about_images_is_a_warning(folder: Path, change: Callable[[Path], None], fault: str):
    change(folder)
    [problem] = validate_images(folder, prompts(3, 7), images_per_prompt=2)
    assert problem.severity == "warning"
    assert fault in problem.what


def one(path: Path, picture: Image.Image, **options) -> ImageFile:
    picture.save(path, **options)
    return scan(path.parent, prompts(3), images_per_prompt=1).found[0]


@pytest.mark.parametrize(("suffix", "media"), [(".png", "image/png"), (".jpg", "image/jpeg"), (".webp", "image/webp")])
def test_raw_sends_the_files_own_bytes(tmp_path: Path, suffix: str, media: str):
    image = one(tmp_path / f"3_0{suffix}", noise(0))
    assert encode(image, "raw", SIZE * SIZE) == (image.path.read_bytes(), media)
    assert encode(image, "raw") == (image.path.read_bytes(), media)


def test_raw_makes_a_jpeg_of_what_judges_do_not_take(tmp_path: Path):
    image = one(tmp_path / "3_0.png", noise(0), format="BMP")  # a wrong suffix
    assert image.format == "BMP"
    content, media = encode(image, "raw")
    assert (media, Image.open(io.BytesIO(content)).format) == ("image/jpeg", "JPEG")


def test_an_image_above_the_limit_is_made_smaller(tmp_path: Path):
    image = one(tmp_path / "3_0.png", noise(0, (64, 32)))
    content, media = encode(image, "raw", 512)
    # 2048 pixels to 512: half of each side
    assert (media, Image.open(io.BytesIO(content)).size) == ("image/jpeg", (32, 16))
    assert Image.open(io.BytesIO(encode(image, "jpeg95")[0])).size == (64, 32)


def test_jpeg95_is_what_pillow_writes_of_the_rgb_picture(tmp_path: Path):
    picture = noise(0).convert("RGBA")
    image = one(tmp_path / "3_0.png", picture)
    expected = io.BytesIO()
    picture.convert("RGB").save(expected, "JPEG", quality=95)
    assert encode(image, "jpeg95") == (expected.getvalue(), "image/jpeg")


def test_a_file_that_changed_or_went_since_the_scan_is_a_data_error(tmp_path: Path):
    image = one(tmp_path / "3_0.png", noise(0))
    noise(1).save(image.path)
    with pytest.raises(DataError, match=r"3_0.png: changed while"):
        encode(image, "raw")
    image.path.unlink()
    with pytest.raises(DataError, match=r"3_0.png: cannot be read"):
        encode(image, "jpeg95")
