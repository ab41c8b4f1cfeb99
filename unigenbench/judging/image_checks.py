"""Checks of folders of images: what is missing, damaged, superfluous or odd, each kind of fault once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from unigenbench.errors import listed
from unigenbench.judging.images import PATTERN, ExpectedFile, UnusableImage, compare_names, in_threads, open_image
from unigenbench.types import ImageFile, Problem, PromptSet, Severity

Item = TypeVar("Item")


class _CheckedImage(NamedTuple):
    """What a check knows of one picture."""

    file: ImageFile
    pixels: str
    """digest of the decoded picture: other metadata do not make another picture"""
    single_colour: bool
    alpha: bool


def validate_images(
    root: Path, prompts: PromptSet, *, images_per_prompt: int = 4, pattern: str = PATTERN
) -> list[Problem]:
    """All that is wrong with a folder of images, each kind of fault once; every picture is decoded.

    Raises:
        InputError: there is no such folder, or the pattern does not tell images apart.
    """
    names = compare_names(root, prompts, images_per_prompt, pattern)
    checked = in_threads(_check, names.expected)
    seen = [entry for entry in checked if isinstance(entry, _CheckedImage)]
    bad = [entry for entry in checked if isinstance(entry, UnusableImage)]
    return [Problem(severity, str(root), what) for severity, what in _faults(seen, names.missing, bad, names.extra)]


def _check(expected: ExpectedFile) -> _CheckedImage | UnusableImage:
    opened = open_image(expected, decode=True)
    if isinstance(opened, UnusableImage):
        return opened
    file, picture = opened
    rgb = picture.convert("RGB")
    return _CheckedImage(
        file,
        pixels=sha256(rgb.tobytes() + repr(rgb.size).encode()).hexdigest(),
        single_colour=rgb.getcolors(1) is not None,
        alpha=picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info,
    )


def _faults(
    seen: Sequence[_CheckedImage], missing: Sequence[UnusableImage], bad: Sequence[UnusableImage], extra: Sequence[Path]
) -> Iterator[tuple[Severity, str]]:
    """One line for each kind of fault."""
    if missing:
        each = sorted(Counter(image.image_index for image in missing).items())
        counts = ", ".join(f"{count} of image {k}" for k, count in each)
        names = listed([image.path.name for image in missing])
        yield "error", f"{_count(missing)} missing ({counts}): {names}; make them, or choose fewer prompts"
    for reason, images in _grouped(bad, lambda image: image.reason):
        names = listed([image.path.name for image in images])
        yield "error", f"{_count(images)} {reason}: {names}; make the image again"
    if extra:
        names = listed([path.name for path in extra])
        yield "warning", f"{_count(extra)} of no prompt: {names}; not judged"
    sizes = Counter((image.file.width, image.file.height) for image in seen)
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sizes.most_common(5))
        yield "warning", f"images differ in size: {counts}; compare models at one size"
    yield from _duplicates(seen)
    for words, images in (
        ("of a single colour, as a safety checker makes them", [image for image in seen if image.single_colour]),
        ("with an alpha channel, which judges see in different ways", [image for image in seen if image.alpha]),
    ):
        if images:
            yield "warning", f"{_count(images)} {words}: {listed([image.file.path.name for image in images])}"


def _duplicates(seen: Sequence[_CheckedImage]) -> Iterator[tuple[Severity, str]]:
    """Pictures that are there more than once, within a prompt and across prompts."""
    within, across = [], []
    for _, images in _grouped(seen, lambda image: image.pixels):
        for _, same in _grouped(images, lambda image: str(image.file.prompt_index)):
            if len(same) > 1:
                within.append(" = ".join(image.file.path.name for image in same))
        if len({image.file.prompt_index for image in images}) > 1:
            across.append(" = ".join(image.file.path.name for image in images))
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
