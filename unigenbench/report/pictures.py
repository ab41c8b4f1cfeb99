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
        self.unreadable: list[Path] = []
        self._embedded: dict[str, Path] = {}

    def picture(self, log: RunLog, judgement: Judgement) -> Picture:
        """The image that was judged."""
        path = image_path(log, judgement.prompt_index, judgement.image_index)
        if path is None:
            if judgement.status != "image_missing":
                self.missing.append(_stem(log, judgement.prompt_index, judgement.image_index))
            return Picture("")
        if self.embed:
            identity = f"image-{judgement.image_sha256[:16] or hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
            self._embedded[identity] = path
            return Picture(f"#{identity}")
        if self.thumbs is None:
            return Picture(self._link(path), self._link(path))
        thumbnail = self._thumbnail(path, judgement.image_sha256)
        return Picture(self._link(thumbnail or path), self._link(path))

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

    def _thumbnail(self, path: Path, sha256: str) -> Path | None:
        """Writes the thumbnail beside the page, unless it stands there already."""
        folder = self.page.parent / f"{self.page.stem}_thumbs"
        target = folder / f"{sha256[:16]}_{self.thumbs}.webp"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shrink(path, self.thumbs or 0))
        return target


def shrink(path: Path, longest_side: int) -> bytes:
    """The image as WebP with no side longer than `longest_side` px; a smaller one keeps its size."""
    with Image.open(path) as image:
        small = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    small.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return file.getvalue()


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
