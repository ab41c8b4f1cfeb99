"""Images: opened safely whatever their format, and recognised by digests."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from t2ialign.data.base import StoredImage
from t2ialign.errors import DataError
from t2ialign.progress import track
from t2ialign.storage.digest import file_digest
from t2ialign.storage.digest_memory import FileState, file_state, recall_digests, remember_digests

TURNED = (5, 6, 7, 8)
"""Rotation flags that exchange width and height."""

SUFFIXES = tuple(".png .jpg .jpeg .jpe .jfif .webp .avif .bmp .gif .tif .tiff .jp2 .ppm .tga".split())  # noqa: SIM905
"""Endings, in lower case, of the files of a folder that are read as images."""
SHOWN_CHARACTERS = 60
"""Characters of a decoder's message that are passed on."""

ImageLocation = Path | bytes | StoredImage
Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageDigests:
    """What images are recognised by: digests of files, each read for it at most once.

    Digests are remembered between runs, by path, size and time of change.
    """

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._new: dict[Path, FileState] = {}

    def read(self, image: ImageLocation) -> bytes:
        """An image's encoded bytes; a file's digest is kept on the way.

        Raises:
            DataError: it is not there or cannot be read.
        """
        if not isinstance(image, Path):
            return image if isinstance(image, bytes) else image.read()
        try:
            state = file_state(image)
            content = image.read_bytes()
        except FileNotFoundError:
            raise DataError("no such image") from None
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from None
        if image not in self._files:
            self._files[image] = hashlib.sha256(content).hexdigest()
            self._new[image] = state
        return content

    def add_files(self, images: Iterable[ImageLocation]) -> None:
        """Finds the digests of the files of these images that are not known yet, and remembers all."""
        paths = dict.fromkeys(_file(image) for image in images if not isinstance(image, bytes))
        files = [path for path in paths if path not in self._files]
        states = [_state(path) for path in files]
        known = recall_digests(states) if files else []
        self._files.update((path, digest) for path, digest in zip(files, known, strict=True) if digest is not None)
        others = [path for path in files if path not in self._files]
        unknown = {*others}
        hashes = track(in_threads(_file_digest, others), "reading images for the data's fingerprint", len(others))
        self._files.update(zip(others, hashes, strict=True))
        self._new.update((path, state) for path, state in zip(files, states, strict=True) if path in unknown)
        new = self._new.copy()  # other threads go on adding
        remember_digests((state, self._files[path]) for path, state in new.items())
        for path in new:
            del self._new[path]

    def __getitem__(self, image: ImageLocation) -> str:
        """An image's digest; of one inside another file that file's digest and its place there."""
        if isinstance(image, bytes):
            return hashlib.sha256(image).hexdigest()
        file = _file(image)
        if file not in self._files:
            self.add_files([image])
        return self._files[file] if isinstance(image, Path) else f"{self._files[file]}/{image.place}"


def _state(path: Path) -> FileState:
    try:
        return file_state(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _file(image: Path | StoredImage) -> Path:
    return image if isinstance(image, Path) else image.file


def _file_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) for each item in order, by threads, as reading images waits for the disk and decoding leaves the
    interpreter's lock. A few results are computed ahead, so that memory stays bounded."""
    threads = thread_count()
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def thread_count() -> int:
    """Threads that read images."""
    return min(8, os.cpu_count() or 1)


def open_image(image: ImageLocation, digests: ImageDigests | None = None) -> Image.Image:
    """The image as RGB: rotated as its camera meant it, transparency over white, 16 bits brought to 8.

    Args:
        digests: where the file's digest is kept on the way.

    Raises:
        DataError: missing, not an image, damaged, of unknown range, or larger than Pillow's limit against decompression
            bombs.
    """
    content = (digests or ImageDigests()).read(image)
    with _opened(BytesIO(content)) as opened:
        opened.load()
        return _rgb(ImageOps.exif_transpose(opened), is_png=opened.format == "PNG")


def image_size(image: ImageLocation) -> tuple[int, int]:
    """(width, height) of the image as `open_image` gives it, from the head of its file.

    Raises:
        DataError: missing, not an image, or larger than Pillow's limit against decompression bombs.
    """
    try:
        file = image.open("rb") if isinstance(image, Path) else BytesIO(ImageDigests().read(image))
    except FileNotFoundError:
        raise DataError("no such image") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from None
    with file, _opened(file) as opened:
        width, height = opened.size
        # not opened.getexif(), which decodes a whole PNG to look for a flag behind its pixels; a TIFF's size is turned
        turned = opened.format != "TIFF" and Image.Image.getexif(opened).get(ExifTags.Base.Orientation) in TURNED
    return (height, width) if turned else (width, height)


@contextmanager
def _opened(file: IO[bytes]) -> Generator[Image.Image, None, None]:
    """An image of which only the head is read yet.

    Raises:
        DataError: it is no image, damaged, or too large; or what its use inside raises.
    """
    try:
        with Image.open(file) as opened:
            _check_size(opened)
            yield opened
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError("not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"too large: {error}") from None
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        words = str(error) or type(error).__name__
        raise DataError(f"damaged or unreadable image ({words[:SHOWN_CHARACTERS]})") from None


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"too large: {image.width} x {image.height} px, the limit is {limit:,} px in all; make it smaller"
        )


def _rgb(image: Image.Image, *, is_png: bool) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        grey = np.asarray(image, dtype=np.int64)  # convert("RGB") would clip 16 bits to white
        image = Image.fromarray((grey.clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise DataError(f"holds {kind} pixels of unknown range; save it with 8 bits a channel")
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def image_key(image: ImageLocation, origin: str) -> Path | bytes:
    """What an image is recognised by: its file's path, or a digest of the bytes that a table holds.

    Raises:
        DataError: the table holds none.
    """
    if isinstance(image, Path):
        return image
    try:
        content = image if isinstance(image, bytes) else image.read()
    except DataError as error:
        raise DataError(f"{origin}: {image}: {error}") from None
    return hashlib.sha256(content).digest()


def image_suffix(image: ImageLocation) -> str:
    """The ending of an image's file, in lower case; of bytes inside a table that of their format.

    Raises:
        DataError: the bytes are missing, or no image.
    """
    if isinstance(image, Path):
        return image.suffix.lower()
    content = image if isinstance(image, bytes) else image.read()
    try:
        with Image.open(BytesIO(content)) as opened:
            return f".{(opened.format or 'png').lower()}"
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        raise DataError("not an image that can be read") from error
