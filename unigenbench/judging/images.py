"""Folders of generated images: which are there, which are not, what is wrong with them, and what a judge is sent."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from PIL import Image

from unigenbench.errors import DataError, InputError, listed
from unigenbench.types import ImageFile, Problem, PromptSet, Severity

PATTERN = "{index}_{image}"
"""Of the official layout: the number of the prompt, and that of the image among those of the prompt."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of images, the preferred first."""
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pillow's formats that every judge takes as they are."""
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no image, or not a whole one."""
THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class Absent(NamedTuple):
    """An image that a run expects and cannot judge."""

    prompt_index: int
    image_index: int
    path: Path
    """where it lies, or would"""
    reason: str


class Scan(NamedTuple):
    """A folder compared with what is expected of it, in the order of prompts and images."""

    found: tuple[ImageFile, ...]
    missing: tuple[Absent, ...]
    bad: tuple[Absent, ...]
    """there, but empty or damaged"""
    extra: tuple[Path, ...]
    """images that belong to no prompt"""


class _Look(NamedTuple):
    """What a check sees of one picture."""

    file: ImageFile
    pixels: str
    """digest of the decoded picture: other metadata do not make another picture"""
    single_colour: bool
    alpha: bool


def scan(root: Path, prompts: PromptSet, *, images_per_prompt: int = 4, pattern: str = PATTERN) -> Scan:
    """Which images of which prompts a folder holds.

    Every file is read once, for its digest. PNGs are checked by their checksums, others are decoded.

    Args:
        pattern: names without suffix, from `index` and `image`, both from 0; or with it, to take that kind only.

    Raises:
        InputError: there is no such folder, or the pattern does not tell images apart.
    """
    names = _compare(root, prompts, images_per_prompt, pattern)
    looked = _in_threads(_read, names.expected)
    found = tuple(entry for entry in looked if isinstance(entry, ImageFile))
    return Scan(found, names.missing, tuple(entry for entry in looked if isinstance(entry, Absent)), names.extra)


def validate_images(
    root: Path, prompts: PromptSet, *, images_per_prompt: int = 4, pattern: str = PATTERN
) -> list[Problem]:
    """All that is wrong with a folder of images, each kind of fault once; every picture is decoded.

    Raises:
        InputError: there is no such folder, or the pattern does not tell images apart.
    """
    names = _compare(root, prompts, images_per_prompt, pattern)
    looked = _in_threads(_examine, names.expected)
    seen = [entry for entry in looked if isinstance(entry, _Look)]
    bad = [entry for entry in looked if isinstance(entry, Absent)]
    return [Problem(severity, str(root), what) for severity, what in _faults(seen, names.missing, bad, names.extra)]


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


class _Expected(NamedTuple):
    """A file that has the name of an image of a prompt."""

    prompt_index: int
    image_index: int
    path: Path

    def bad(self, reason: str) -> Absent:
        return Absent(*self, reason)


class _Names(NamedTuple):
    """A folder compared by names only."""

    expected: list[_Expected]
    missing: tuple[Absent, ...]
    extra: tuple[Path, ...]


def _compare(root: Path, prompts: PromptSet, images_per_prompt: int, pattern: str) -> _Names:
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
            if paths:
                by_stem[stem].remove(paths[0])
                expected.append(_Expected(prompt.index, k, paths[0]))
            else:
                path = root / f"{stem}{only or SUFFIXES[0]}"
                missing.append(Absent(prompt.index, k, path, f"{path.name} is not there"))
    return _Names(expected, tuple(missing), tuple(sorted(path for paths in by_stem.values() for path in paths)))


def _check_pattern(pattern: str) -> tuple[str, str]:
    """A pattern without its suffix, and the suffix, empty if it has none."""
    try:
        names = {pattern.format(index=index, image=image) for index, image in ((0, 0), (0, 1), (1, 0))}
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"pattern '{pattern}': {error!r}; write it with {{index}} and {{image}}") from error
    if len(names) < 3:
        raise InputError(f"pattern '{pattern}': gives two images one name; it needs {{index}} and {{image}}")
    suffix = Path(pattern).suffix.lower()
    return (pattern[: -len(suffix)], suffix) if suffix in SUFFIXES else (pattern, "")


def _in_threads(work: Callable[[_Expected], Result], expected: Iterable[_Expected]) -> list[Result]:
    """Results in order; reading, digests and decoding leave the interpreter free."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, expected))


def _open(expected: _Expected, *, decode: bool) -> tuple[ImageFile, Image.Image] | Absent:
    """The record of a file and its picture, decoded if asked; otherwise the picture has served its purpose."""
    try:
        content = expected.path.read_bytes()
    except OSError as error:
        return expected.bad(f"cannot be read ({error})")
    if not content:
        return expected.bad("is empty")
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.format == "PNG" and not decode:
            picture.verify()
        else:
            picture.load()
    except UNDECODABLE as error:
        return expected.bad(f"cannot be decoded ({error})")
    digest = sha256(content).hexdigest()
    return ImageFile(*expected, digest, picture.width, picture.height, picture.format or ""), picture


def _read(expected: _Expected) -> ImageFile | Absent:
    opened = _open(expected, decode=False)
    return opened if isinstance(opened, Absent) else opened[0]


def _examine(expected: _Expected) -> _Look | Absent:
    opened = _open(expected, decode=True)
    if isinstance(opened, Absent):
        return opened
    file, picture = opened
    rgb = picture.convert("RGB")
    return _Look(
        file,
        pixels=sha256(rgb.tobytes() + repr(rgb.size).encode()).hexdigest(),
        single_colour=rgb.getcolors(1) is not None,
        alpha=picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info,
    )


def _faults(
    seen: Sequence[_Look], missing: Sequence[Absent], bad: Sequence[Absent], extra: Sequence[Path]
) -> Iterator[tuple[Severity, str]]:
    """One line for each kind of fault."""
    if missing:
        each = sorted(Counter(absent.image_index for absent in missing).items())
        counts = ", ".join(f"{count} of image {k}" for k, count in each)
        names = listed([absent.path.name for absent in missing])
        yield "error", f"{_count(missing)} missing ({counts}): {names}; make them, or choose fewer prompts"
    for reason, absents in _grouped(bad, lambda absent: absent.reason):
        names = listed([absent.path.name for absent in absents])
        yield "error", f"{_count(absents)} {reason}: {names}; make the image again"
    if extra:
        names = listed([path.name for path in extra])
        yield "warning", f"{_count(extra)} of no prompt: {names}; not judged"
    sizes = Counter((look.file.width, look.file.height) for look in seen)
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sizes.most_common(5))
        yield "warning", f"images differ in size: {counts}; compare models at one size"
    yield from _twins(seen)
    for words, looks in (
        ("of a single colour, as a safety checker makes them", [look for look in seen if look.single_colour]),
        ("with an alpha channel, which judges see in different ways", [look for look in seen if look.alpha]),
    ):
        if looks:
            yield "warning", f"{_count(looks)} {words}: {listed([look.file.path.name for look in looks])}"


def _twins(seen: Sequence[_Look]) -> Iterator[tuple[Severity, str]]:
    """Pictures that are there more than once, within a prompt and across prompts."""
    within, across = [], []
    for _, looks in _grouped(seen, lambda look: look.pixels):
        for _, same in _grouped(looks, lambda look: str(look.file.prompt_index)):
            if len(same) > 1:
                within.append(" = ".join(look.file.path.name for look in same))
        if len({look.file.prompt_index for look in looks}) > 1:
            across.append(" = ".join(look.file.path.name for look in looks))
    if within:
        yield "warning", f"the same picture twice for one prompt, a sign of a fixed seed: {listed(within)}"
    if across:
        yield "warning", f"the same picture for several prompts: {listed(across)}"


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> Iterable[tuple[str, list[Item]]]:
    """Items by a key, in the order of each key's first."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups.items()


def _count(items: Sequence[object]) -> str:
    return f"{len(items)} image{'s' if len(items) != 1 else ''}"
