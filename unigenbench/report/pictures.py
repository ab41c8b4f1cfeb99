"""How the page gets at the images: links beside it, thumbnails beside it, or bytes inside it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from unigenbench.errors import DataError
from unigenbench.runs.store import JUDGEMENTS
from unigenbench.types import Judgement, RunLog

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""Suffixes of images, and what they are."""
THUMBNAIL_QUALITY = 82


class Picture(NamedTuple):
    """What a card's image element is given."""

    src: str
    """relative URL, or "#" and the id of an embedded image, or "" where there is no file"""
    full: str = ""
    """relative URL of the original, where the page links to one"""


class Album:
    """Finds the images of the runs, shrinks or embeds them as asked, and keeps count of what is missing."""

    def __init__(self, page: Path, *, thumbs: int | None, embed: bool):
        """
        Args:
            page: the HTML file that is to be written; links are relative to its folder.
            thumbs: longest side of a thumbnail in px; None shows the originals.
            embed: the page carries the images it shows.
        """
        self.page = page
        self.thumbs = thumbs
        self.embed = embed
        self.missing: list[Path] = []
        self.changed: list[Path] = []
        self._embedded: dict[str, Path] = {}

    def picture(self, log: RunLog, judgement: Judgement) -> Picture:
        """The image that was judged.

        Raises:
            DataError: it was asked to be shrunk and cannot be read.
        """
        if judgement.status in ("image_missing", "image_bad"):
            return Picture("")
        path = image_path(log, judgement.prompt_index, judgement.image_index)
        if path is None:
            self.missing.append(_stem(log, judgement.prompt_index, judgement.image_index))
            return Picture("")
        if is_changed(log, judgement, path):
            self.changed.append(path)
        identity = (judgement.image_sha256 or hashlib.sha256(str(path).encode()).hexdigest())[:16]
        if self.embed:
            self._embedded[f"image-{identity}"] = path
            return Picture(f"#image-{identity}")
        if self.thumbs is None:
            return Picture(self._link(path), self._link(path))
        return Picture(self._link(self._thumbnail(path, identity, self.thumbs)), self._link(path))

    def warnings(self) -> list[str]:
        """What became of the images since they were judged."""
        outcomes = {"not where they were judged": self.missing, "not those that were judged": self.changed}
        return [
            f"{what}: {len(paths):,} images, such as {paths[0].parent.name}/{paths[0].name}"
            for what, paths in outcomes.items()
            if paths
        ]

    def blocks(self) -> Iterator[tuple[str, str, str]]:
        """(id, media type, base64) of every embedded image, each read when its turn comes."""
        for identity, path in self._embedded.items():
            if self.thumbs is not None:
                media_type, content = "image/webp", shrink(path, self.thumbs)
            else:
                media_type, content = MEDIA_TYPES[path.suffix.lower()], path.read_bytes()
            yield identity, media_type, base64.b64encode(content).decode("ascii")

    def _link(self, path: Path) -> str:
        return quote(Path(os.path.relpath(path.resolve(), self.page.resolve().parent)).as_posix())

    def _thumbnail(self, path: Path, identity: str, longest_side: int) -> Path:
        """Writes the thumbnail beside the page, unless it stands there already."""
        folder = self.page.parent / f"{self.page.stem}_thumbs"
        target = folder / f"{identity}_{longest_side}.webp"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shrink(path, longest_side))
        return target


def shrink(path: Path, longest_side: int) -> bytes:
    """The image as WebP with no side longer than `longest_side` px; a smaller one keeps its size.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            small = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError as error:
        raise DataError(f"{path}: no readable image ({error}); restore it, or leave out --thumbs") from error
    small.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return file.getvalue()


def is_changed(log: RunLog, judgement: Judgement, path: Path) -> bool:
    """Whether the file is another than the one judged; files older than the last judgement are taken for the same."""
    judgements = log.path / JUDGEMENTS
    if not (judgement.image_sha256 and judgements.is_file()) or path.stat().st_mtime <= judgements.stat().st_mtime:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() != judgement.image_sha256


def _stem(log: RunLog, prompt_index: int, image_index: int) -> Path:
    """The path of an image without its suffix, as the run's manifest has it."""
    images = log.manifest["images"]
    return _root(log) / images["pattern"].format(index=prompt_index, image=image_index)


def _root(log: RunLog) -> Path:
    """The folder of images: as the manifest says, or, where that is gone, the same path seen from the run folder."""
    root = Path(log.manifest["images"]["root"])
    places = [root, log.path / root, log.path.parent / root]
    return next((place for place in places if place.is_dir()), root)


def image_path(log: RunLog, prompt_index: int, image_index: int) -> Path | None:
    """Where the run's manifest says that an image lies; None where it is no longer there."""
    stem = _stem(log, prompt_index, image_index)
    candidates = [stem] if stem.suffix.lower() in MEDIA_TYPES else [stem.with_name(stem.name + s) for s in MEDIA_TYPES]
    return next((path for path in candidates if path.is_file()), None)
