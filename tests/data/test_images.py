"""Images of any format become the same pixels, or an error."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_data import SAVED, check_image, image_bytes
from own_data import write_image
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from t2ialign.data.framing import to_pixels
from t2ialign.data.images import open_image
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


def png(values: np.ndarray, color_type: int) -> bytes:
    """A 16-bit PNG of values [H, W, channels], of colour types that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_any_png_are_scaled_by_their_range(color_type: int, channels: int):
    values = np.full((4, 4, channels), 65535, np.uint16)
    values[..., : 1 if channels < 3 else 3] = [[[128 * 257]]]
    assert open_image(png(values, color_type)).getpixel((0, 0)) == (128, 128, 128)


def test_sixteen_bits_of_a_tiff_are_scaled_by_their_range():
    for dtype in ("<u2", ">u2"):
        image = Image.fromarray(np.full((4, 4), 128 * 257, dtype=dtype))
        assert open_image(encoded(image, "TIFF")).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(("dtype", "words"), [("int32", "32-bit integer"), ("float32", "floating-point")])
def test_pixels_of_unknown_range_are_refused(dtype: str, words: str):
    for value in (0, 1, 255, 70_000):
        with pytest.raises(DataError, match=f"holds {words} pixels of unknown range"):
            open_image(encoded(Image.fromarray(np.full((4, 4), value, dtype=dtype)), "TIFF"))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_text_chunk_of_megabytes_is_read_or_refused_in_a_sentence(compressed: bool):
    info = PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=compressed)
    data = encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=info)
    if compressed:
        with pytest.raises(DataError, match="damaged or unreadable image"):
            open_image(data)
    else:
        assert open_image(data).size == (8, 8)


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


@pytest.mark.parametrize("kind", [kind for kind in SAVED if kind not in ("EPS", "PDF", "SPIDER", "TIFF")])
def test_every_format_that_pillow_reads_is_read(kind: str):
    assert open_image(image_bytes(random.Random(0), kind)).mode == "RGB"


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_pixels_or_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # memory of the tests
    for seed in range(500):
        check_image(random.Random(seed))
