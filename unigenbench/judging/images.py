"""Folders of generated images: which are there, which are not, what is wrong with them, and what a judge is sent."""

from __future__ import annotations

import io
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from PIL import Image

from unigenbench.errors import DataError, InputError
from unigenbench.types import ImageFile, PromptSet

PATTERN = "{index}_{image}"
"""Of the official layout: the number of the prompt, and that of the image among those of the prompt."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of images, the preferred first."""
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pillow's formats that every judge takes as they are."""
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no image, or not a whole one."""
THREADS = 8

Result = TypeVar("Result")


class UnusableImage(NamedTuple):
    """An image that a run expects and cannot judge."""

    prompt_index: int
    image_index: int
    path: Path
    """where it lies, or would"""
    reason: str


class Scan(NamedTuple):
    """A folder compared with what is expected of it, in the order of prompts and images."""

    found: tuple[ImageFile, ...]
    missing: tuple[UnusableImage, ...]
    bad: tuple[UnusableImage, ...]
    """there, but empty or damaged"""
    extra: tuple[Path, ...]
    """images that belong to no prompt"""


def scan(root: Path, prompts: PromptSet, *, images_per_prompt: int = 4, pattern: str = PATTERN) -> Scan:
    """Which images of which prompts a folder holds.

    Every file is read once, for its digest. PNGs are checked by their checksums, others are decoded.

    Args:
        pattern: names without suffix, from `index` and `image`, both from 0; or with it, to take that kind only.

    Raises:
        InputError: there is no such folder, the pattern does not tell images apart, or two files are one image.
    """
    names = compare_names(root, prompts, images_per_prompt, pattern)
    read = in_threads(_read, names.expected)
    found = tuple(entry for entry in read if isinstance(entry, ImageFile))
    bad = tuple(entry for entry in read if isinstance(entry, UnusableImage))
    return Scan(found, names.missing, bad, names.extra)


def encode(image: ImageFile, how: Literal["raw", "jpeg95"], max_pixels: int | None = None) -> tuple[bytes, str]:
    """What a judge is sent of an image, and its media type.

    Args:
        how: raw is the file's own bytes where it is a PNG, JPEG or WebP within max_pixels, else a JPEG of quality 95;
            jpeg95 is always the latter.
        max_pixels: width times height above which the picture is made smaller; None is any size.

    Raises:
        DataError: the file is gone, damaged, or not the one that was scanned.
    """
    try:
        content = image.path.read_bytes()
    except OSError as error:
        raise DataError(f"{image.path}: cannot be read ({error}); make the image again") from error
    if sha256(content).hexdigest() != image.sha256:
        raise DataError(f"{image.path}: changed while the run looked at it; start the command again")
    too_large = max_pixels is not None and image.width * image.height > max_pixels
    if how == "raw" and not too_large and image.format in MEDIA_TYPES:
        return content, MEDIA_TYPES[image.format]
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    except UNDECODABLE as error:
        raise DataError(f"{image.path}: cannot be decoded ({error}); make the image again") from error
    if max_pixels is not None and too_large:
        scale = (max_pixels / (image.width * image.height)) ** 0.5
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=95)
    return file.getvalue(), MEDIA_TYPES["JPEG"]


class ExpectedFile(NamedTuple):
    """A file that has the name of an image of a prompt."""

    prompt_index: int
    image_index: int
    path: Path

    def unusable(self, reason: str) -> UnusableImage:
        """The record of a file that cannot be judged."""
        return UnusableImage(*self, reason)


class Names(NamedTuple):
    """A folder compared by names only."""

    expected: list[ExpectedFile]
    missing: tuple[UnusableImage, ...]
    extra: tuple[Path, ...]


def compare_names(root: Path, prompts: PromptSet, images_per_prompt: int, pattern: str) -> Names:
    """Which files have the names of images of the prompts.

    Raises:
        InputError: there is no such folder, the pattern does not tell images apart, or two files are one image.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of images")
    stem_pattern, only = _check_pattern(pattern)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    files = [path for path in root.glob("**/*" if "/" in pattern else "*") if path.suffix.lower() in SUFFIXES]
    for path in sorted(files, key=lambda path: SUFFIXES.index(path.suffix.lower())):
        if path.is_file() and not path.name.startswith("."):
            by_stem[path.relative_to(root).with_suffix("").as_posix()].append(path)
    expected, missing = [], []
    for prompt in prompts.prompts:
        for k in range(images_per_prompt):
            stem = stem_pattern.format(index=prompt.index, image=k)
            paths = [path for path in by_stem[stem] if only in ("", path.suffix.lower())]
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                kind = f"{stem_pattern}{paths[0].suffix.lower()}"
                raise InputError(
                    f"{root}: {names} are both image {k} of prompt {prompt.index}; remove one, or choose their kind by "
                    f"--pattern '{kind}'"
                )
            if paths:
                by_stem[stem].remove(paths[0])
                expected.append(ExpectedFile(prompt.index, k, paths[0]))
            else:
                path = root / f"{stem}{only or SUFFIXES[0]}"
                missing.append(UnusableImage(prompt.index, k, path, f"{path.name} is not there"))
    return Names(expected, tuple(missing), tuple(sorted(path for paths in by_stem.values() for path in paths)))


def _check_pattern(pattern: str) -> tuple[str, str]:
    """A pattern without its suffix, and the suffix, empty if it has none."""
    try:
        names = {pattern.format(index=index, image=image) for index, image in ((0, 0), (0, 1), (1, 0))}
    except (LookupError, ValueError, AttributeError, TypeError, MemoryError, OverflowError) as error:
        raise InputError(f"pattern '{pattern}': {error!r}; write it with {{index}} and {{image}}") from error
    if len(names) < 3:
        raise InputError(f"pattern '{pattern}': gives two images one name; it needs {{index}} and {{image}}")
    suffix = Path(pattern).suffix.lower()
    return (pattern[: -len(suffix)], suffix) if suffix in SUFFIXES else (pattern, "")


def in_threads(work: Callable[[ExpectedFile], Result], expected: Iterable[ExpectedFile]) -> list[Result]:
    """Results in order; reading, digests and decoding leave the interpreter free."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, expected))


def open_image(expected: ExpectedFile, *, decode: bool) -> tuple[ImageFile, Image.Image] | UnusableImage:
    """The record of a file and its picture, which is usable only where it was to be decoded."""
    try:
        content = expected.path.read_bytes()
    except OSError as error:
        return expected.unusable(f"cannot be read ({error})")
    if not content:
        return expected.unusable("is empty")
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.format == "PNG" and not decode:
            picture.verify()
        else:
            picture.load()
    except UNDECODABLE as error:
        return expected.unusable(f"cannot be decoded ({error})")
    digest = sha256(content).hexdigest()
    return ImageFile(*expected, digest, picture.width, picture.height, picture.format or ""), picture


def _read(expected: ExpectedFile) -> ImageFile | UnusableImage:
    opened = open_image(expected, decode=False)
    return opened if isinstance(opened, UnusableImage) else opened[0]
