"""Webdataset shards: tar files, in which the members that share a name up to its first dot are one row."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from t2ialign.data.account import UNKNOWN_SUFFIX, Problem
from t2ialign.data.base import StoredImage
from t2ialign.data.images import SUFFIXES as IMAGE_SUFFIXES
from t2ialign.data.tables.columns import CHOSEN, IMAGE, IMAGE_0, IMAGE_1, REJECTED
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.text_tables import parse_object
from t2ialign.errors import DataError

TEXTS = ("txt", "text", "caption", "prompt", "cls")
IMAGE_COLUMNS = {name for role in (CHOSEN, REJECTED, IMAGE_0, IMAGE_1, IMAGE) for name in role.names}
MAX_TEXT = 1 << 24
"""Bytes of a member of text."""


@dataclass(frozen=True, slots=True)
class TarImage(StoredImage):
    """An image inside a tar file, not yet read."""

    archive: Path
    member: str
    """The member's name."""
    offset: int
    size: int

    @property
    def file(self) -> Path:
        return self.archive

    @property
    def place(self) -> str:
        return self.member

    @property
    def group(self) -> int:
        return 0

    def read(self) -> bytes:
        """Its encoded bytes.

        Raises:
            DataError: the file is gone or too short.
        """
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({error.strerror or error})") from None
        if not content:
            raise DataError("no image stored")
        return content

    def __str__(self) -> str:
        return self.place


def read_tar(path: Path) -> Table:
    """An uncompressed tar file: images stay in it, `.json` and text members become cells.

    `0001.jpg` is column image and `0001.chosen.png` column chosen; `0001.txt` is the caption and `0001.label_0.txt`
    column label_0; the keys of `0001.json` are columns.

    Raises:
        DataError: it is damaged or compressed.
    """
    samples: dict[str, dict[str, Any]] = {}
    unused: list[Problem] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _add(path, tar, member, samples, unused)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: not a readable tar file ({' '.join(str(error).split())}); a compressed one must be unpacked "
            "first, as images are read from the middle of it"
        ) from None
    columns = dict.fromkeys(column for cells in samples.values() for column in cells)
    rows = [Row(cells, f"{path}:{key}", path.parent) for key, cells in samples.items()]
    return Table(path, list(columns), rows, tuple(unused), "a webdataset shard")


def _add(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, dict[str, Any]], unused: list[Problem]
) -> None:
    """Puts a member into its row."""
    name = PurePosixPath(member.name)
    if not member.isfile() or name.name.startswith("."):
        return
    stem, _, ending = name.name.partition(".")
    column, kind = _meaning(ending.lower())
    if kind == "unknown":
        unused.append(Problem(f"{path}:{member.name}", UNKNOWN_SUFFIX))
        return
    cells = samples.setdefault(str(name.with_name(stem)), {})
    if kind == "image":
        cells[column] = TarImage(path, member.name, member.offset_data, member.size)
        return
    content = _text(path, tar, member)
    if kind == "text":
        cells[column] = content.strip()
    else:
        cells.update(
            {key: value for key, value in parse_object(content, f"{path}:{member.name}").items() if key not in cells}
        )


def _meaning(ending: str) -> tuple[str, str]:
    """(column, kind) of a member's name behind its first dot."""
    column, _, last = ending.rpartition(".")
    if f".{last}" in IMAGE_SUFFIXES:
        return column or "image", "image"
    if ending in IMAGE_COLUMNS:
        return ending, "image"
    if ending == "json":
        return "", "json"
    if last in TEXTS:
        return column or {"cls": "label", "prompt": "prompt"}.get(last, "caption"), "text"
    return "", "unknown"


def _text(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > MAX_TEXT:
        raise DataError(f"{path}:{member.name}: {member.size:,} bytes of text; is it an image?")
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{member.name}: not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x})"
        ) from None
