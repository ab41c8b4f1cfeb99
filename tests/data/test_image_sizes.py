"""Sizes of images from the heads of their files: as the decoded image has them, and read once."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import write_csv, write_image
from PIL import Image

from t2ialign.data import image_sizes
from t2ialign.data.image_sizes import find_sizes
from t2ialign.data.images import image_size, open_image
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.errors import DataError

SETTLED = 1_600_000_000
"""A time of change long ago, so that files are remembered."""


def encoded(kind: str, size: tuple[int, int] = (40, 20), **settings) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_is_that_of_the_decoded_image(kind: str, orientation: int | None):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    content = encoded(kind, exif=exif)
    assert image_size(content) == open_image(content).size == ((20, 40) if orientation in (6, 8) else (40, 20))


def test_a_png_is_not_decoded_for_its_size():
    content = encoded("PNG", (400, 200))
    assert image_size(content[:64]) == (400, 200)  # nothing of its pixels is there


@pytest.mark.parametrize(("content", "says"), [(b"text", "not an image"), (b"", "not an image")])
def test_what_is_no_image_is_told(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=says):
        image_size(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such image"):
        image_size(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 790)
    with pytest.raises(DataError, match="too large: 40 x 20 px"):
        image_size(encoded("PNG"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the head of an image is read, by what names it."""
    counts: Counter[str] = Counter()

    def counted(image):
        counts[getattr(image, "place", None) or image.name] += 1
        return image_size(image)

    monkeypatch.setattr(image_sizes, "image_size", counted)
    return counts


def settle(*files: Path) -> None:
    for file in files:
        os.utime(file, (SETTLED, SETTLED))


def test_sizes_of_files_are_remembered_until_they_change(tmp_path: Path, reads: Counter[str]):
    files = [write_image(tmp_path / f"{name}.png", size=size) for name, size in (("a", (40, 20)), ("b", (20, 40)))]
    settle(*files)
    source = PairData(
        path=write_csv(tmp_path / "t.csv", ["prompt", "chosen", "rejected"], [["f", "a.png", "b.png"]] * 2)
    ).open()
    assert find_sizes(source) == [[(40, 20), (20, 40)]] * 2
    assert set(reads) == {"a.png", "b.png"}
    reads.clear()
    assert find_sizes(source) == [[(40, 20), (20, 40)]] * 2
    assert not reads
    write_image(files[0], size=(60, 20))
    assert find_sizes(source) == [[(60, 20), (20, 40)]] * 2
    assert set(reads) == {"a.png", "b.png"}  # those of the rows that have a changed image


def test_images_inside_tables_and_archives_are_found_and_remembered(tmp_path: Path, reads: Counter[str]):
    images = [encoded("PNG", size) for size in ((40, 20), (20, 40))]
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"prompt": ["f", "g"], "image": images}), table)
    archive = tmp_path / "t.tar"
    with tarfile.open(archive, "w") as tar:
        for row, content in enumerate(images):
            for name, part in ((f"{row}.png", content), (f"{row}.txt", b"f")):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, BytesIO(part))
    settle(table, archive)
    for path in (table, archive):
        for reading in (1, 0):
            assert find_sizes(SingleData(path=path).open()) == [[(40, 20)], [(20, 40)]]
            assert set(reads.values()) == ({1} if reading else set())
            reads.clear()
