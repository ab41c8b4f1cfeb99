"""Images of any format become the same pixels, or an error."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import write_image
from PIL import Image

from t2ialign.data.images import open_image, to_pixels
from t2ialign.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def test_pixels_run_from_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 255, 51]] * 8] * 8, dtype=np.uint8))
    values, _ = to_pixels(image, 8)
    # 51 / 127.5 - 1 = -0.6
    torch.testing.assert_close(values[:, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    assert values.shape == (3, 8, 8)


def test_an_image_of_the_right_size_is_not_resampled(tmp_path: Path):
    path = write_image(tmp_path / "a.png", size=(16, 16))
    direct = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(to_pixels(open_image(path), 16)[0], direct)


def test_the_centre_square_is_kept_and_its_place_in_the_resized_image_told():
    # 40 x 20, left half red, right half blue: the centre square has 10 columns of each
    values = np.zeros((20, 40, 3), dtype=np.uint8)
    values[:, :20, 0] = 255
    values[:, 20:, 2] = 255
    pixels, size = to_pixels(Image.fromarray(values), 20)
    assert size == (20, 40, 0, 10, 20, 20)
    assert pixels[0, 10].tolist() == [1.0] * 10 + [-1.0] * 10
    # twice as large: the resized image is 80 x 40, its centre square begins at column 20
    assert to_pixels(Image.fromarray(values), 40)[1] == (20, 40, 0, 20, 40, 40)


def test_shrinking_averages_instead_of_skipping():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    values, _ = to_pixels(Image.fromarray(checks).convert("RGB"), 8)
    assert values.abs().max() < 0.05  # a checkerboard's mean is mid-grey; skipping pixels would give -1 or 1


def test_a_long_strip_needs_no_huge_intermediate():
    pixels, _ = to_pixels(Image.new("RGB", (100_000, 1)), 512)  # resized whole it would be 512 x 51,200,000 px
    assert pixels.shape == (3, 512, 512)


def test_transparency_becomes_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert open_image(encoded(image)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8))
    assert open_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_brought_to_eight():
    image = Image.fromarray(np.full((4, 4), 128 * 257, dtype=np.uint16))
    assert open_image(encoded(image)).getpixel((0, 0)) == (128, 128, 128)


def test_the_cameras_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = encoded(Image.new("RGB", (12, 8)), "JPEG", exif=exif)
    assert open_image(data).size == (8, 12)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert open_image(encoded(Image.new(mode, (8, 8)), kind)).mode == "RGB"


def test_a_missing_image_is_a_data_error(tmp_path: Path):
    with pytest.raises(DataError, match="no such image"):
        open_image(tmp_path / "none.png")


def test_a_truncated_image_is_a_data_error(tmp_path: Path):
    path = write_image(tmp_path / "a.png", size=(64, 64))
    for kept in (10, 60, 2000):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=r"damaged|not an image"):
            open_image(path)
        write_image(path, size=(64, 64))


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "BMP"])
def test_truncation_is_noticed_in_every_format(kind: str, kept: float):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DataError):
        open_image(data[: int(len(data) * kept)])


def test_text_named_png_is_a_data_error(tmp_path: Path):
    (tmp_path / "a.png").write_text("<html>404</html>")
    with pytest.raises(DataError, match="not an image"):
        open_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int):
    # 1 bit a pixel: kilobytes on disk, 1e8 and 4e8 px; Pillow only warns of the first and refuses the second
    data = encoded(Image.new("1", (side, side)))
    assert len(data) < 100_000
    with pytest.raises(DataError, match="too large"):
        open_image(data)


def test_floating_point_pixels_are_refused():
    with pytest.raises(DataError, match="floating-point"):
        open_image(encoded(Image.new("F", (4, 4)), "TIFF"))
