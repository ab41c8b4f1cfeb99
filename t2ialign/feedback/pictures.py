"""Folders of images with their prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from t2ialign.data.account import DataAccount
from t2ialign.data.images import ImageDigests, ImageLocation, image_suffix
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.tables.folders import read_captioned, unnamed_images
from t2ialign.errors import DataError, InputError
from t2ialign.generation.folder import RECORD

SCORES = "scores.jsonl"
"""Scores of a folder's images, as `t2ialign score` leaves them."""


class Picture(NamedTuple):
    """An image and what it was made from."""

    name: str
    """How tables name it: its path inside its folder."""
    image: ImageLocation
    prompt: str
    origin: str = ""
    """Where an image inside a table was read, as messages name it: file:line."""
    seed: int | None = None
    """Of its noise, where the folder's record says."""

    def __str__(self) -> str:
        return str(self.image) if isinstance(self.image, Path) else self.origin

    def read(self) -> bytes:
        """The image's encoded bytes.

        Raises:
            DataError: it is not there or cannot be read.
        """
        try:
            return ImageDigests().read(self.image)
        except DataError as error:
            raise DataError(f"{self}: {error}") from None

    def digest(self) -> str:
        """Changes with the image's bytes and with the prompt."""
        return hashlib.blake2b(
            self.read() + b"\0" + self.prompt.encode("utf-8", "surrogatepass"), digest_size=16
        ).hexdigest()


def numbered(image: ImageLocation, number: int, prompt: str, origin: str) -> Picture:
    """A picture of an example, named by a number.

    Raises:
        DataError: the bytes inside a table are missing, or no image.
    """
    where = origin if isinstance(image, bytes) else f"{origin}: {image}"
    try:
        return Picture(f"{number}{image_suffix(image)}", image, prompt, where)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def read_pictures(folder: Path, *, not_made: Collection[str] = ()) -> list[Picture]:
    """The images of a folder with their prompts, in the order of their record; a warning names what is not used.

    Prompts come from `generation.json`, from a single table with an image and a prompt column, or from a text file
    beside each image.

    Args:
        not_made: names of images that are known to be missing, and are listed all the same.

    Raises:
        InputError: no such folder, or it says nothing of its prompts.
        DataError: no images, or images or prompts are missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    if (folder / RECORD).is_file():
        pictures = _from_record(folder)
        account = _account(folder, RECORD, pictures)
    else:
        tables = [path for kind in ("csv", "tsv", "jsonl") for path in folder.glob(f"*.{kind}") if path.name != SCORES]
        if len(tables) > 1:
            names = ", ".join(sorted(path.name for path in tables))
            raise InputError(f"{folder}: several tables ({names}); keep the one that holds the prompts")
        pictures, account = _from_table(folder, tables[0]) if tables else _from_captions(folder)
    if not pictures:
        raise DataError(f"{folder}: no images")
    paths = [picture.image for picture in pictures if isinstance(picture.image, Path) and picture.name not in not_made]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{folder}: {len(missing)} of {len(pictures)} images are missing, the first {missing[0]}")
    unused = [problem for problem in account.unused if Path(problem.origin).name != SCORES]
    replace(account, unused=tuple(unused)).warn()
    return pictures


def _from_record(folder: Path) -> list[Picture]:
    path = folder / RECORD
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
        return [Picture(row["file"], folder / row["file"], row["prompt"], seed=row.get("seed")) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a record of generated images ({error!r}); generate the folder again") from None


def _from_table(folder: Path, table: Path) -> tuple[list[Picture], DataAccount]:
    source = SingleData.model_validate({"name": "singles", "path": table}).open()
    pictures = []
    for index in range(len(source)):
        example = source[index]
        image = example.images[0]
        if not isinstance(image, Path):
            raise DataError(f"{example.origin}: the table holds image bytes; name files instead")
        inside = image.resolve().is_relative_to(folder.resolve())
        name = image.resolve().relative_to(folder.resolve()).as_posix() if inside else f"{index}_{image.name}"
        pictures.append(Picture(name, image, example.prompts[0]))
    return pictures, replace(source.account, unused=_account(folder, "", pictures).unused)


def _account(folder: Path, layout: str, pictures: list[Picture]) -> DataAccount:
    """The account of pictures all of which are used, and of the other images of their folder."""
    used = (picture.image for picture in pictures if isinstance(picture.image, Path))
    strangers = unnamed_images(folder, used)
    return DataAccount(folder, layout, len(pictures), len(pictures), unused=tuple(strangers))


def _from_captions(folder: Path) -> tuple[list[Picture], DataAccount]:
    table = read_captioned(folder)
    rows = table.rows
    without = [Path(row.cells["image"]).name for row in rows if not row.cells["prompt"]]
    if rows and len(without) == len(rows):
        raise InputError(
            f"{folder}: nothing says which prompt belongs to which image; give {RECORD}, a CSV with the columns "
            f"image,prompt, or a text file beside each image ({Path(without[0]).stem}.txt)"
        )
    if without:
        raise DataError(f"{folder}: {len(without)} of {len(rows)} images have no text file; first {without[0]}")
    paths = [Path(row.cells["image"]) for row in rows]
    pictures = [Picture(path.name, path, row.cells["prompt"]) for path, row in zip(paths, rows, strict=True)]
    return pictures, DataAccount(folder, "captions", len(rows), len(rows), unused=table.unused)
