"""The schema of UniGenBench's prompt files: columns, keys, the files that are known by their hash, where they lie."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from unigenbench.errors import InputError
from unigenbench.types import Language

DATA = Path(__file__).parents[1] / "data"
SHIPPED = {"suite_en": "suite 1", "suite_zh": "suite 1", "shapes": "shapes 1"}
"""Our own prompt files, by name, with their versions."""
OFFICIAL = {
    "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459": "en",
    "5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253": "en_long",
    "7ff2d2131e68e6182f43a28ecf03d070f7735788f3c5420db3f83141492e8cb3": "zh",
    "6e281a5781878584db932a3bfd16dc51afb195566eb7a30c17fb9c09fd3b1776": "zh_long",
}
"""SHA-256 of the official files as of 2025-10-01 (version v1), with their categories."""
SUFFIXES: dict[str, Language | None] = {"_en_long": "en", "_zh_long": "zh", "_en": "en", "_zh": "zh", "": None}
"""Endings of the column names, with the language they stand for."""


class Keys(NamedTuple):
    """Keys of the JSON object of a row."""

    theme: str
    subtheme: str
    subject: str
    structure: str
    points: str
    descriptions: str


KEYS: dict[Language, Keys] = {
    "en": Keys(
        "Primary Categories",
        "Secondary Categories",
        "Subjects",
        "Sentence Structure",
        "Testpoints",
        "Testpoint Description",
    ),
    "zh": Keys("一级垂类", "二级垂类", "主体", "句式", "考点", "考点对应描述"),
}


def locate(path: Path | str) -> Path:
    """The file of a path, or of the name of a shipped set.

    Raises:
        InputError: there is none.
    """
    shipped = DATA / f"{path}.csv"
    if is_file(Path(path)):
        return Path(path)
    if str(path) in SHIPPED and shipped.is_file():
        return shipped
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    raise InputError(f"{shown}: no such prompt file; give a CSV, or one of {', '.join(SHIPPED)}")


def is_file(path: Path) -> bool:
    """Whether there is such a file; False too for what cannot be a path, such as the bytes of an image in base64."""
    try:
        return path.is_file()
    except OSError:
        return False


def version_of(name: str, digest: str) -> tuple[str, str]:
    """(name, version) of a prompt set, by the SHA-256 of its file; "unknown" for a user's own.

    Args:
        name: of the file, without suffix; an official file goes by its category instead.
    """
    if digest in OFFICIAL:
        return OFFICIAL[digest], "official v1"
    shipped = DATA / f"{name}.csv"
    if name in SHIPPED and shipped.is_file() and sha256(shipped.read_bytes()).hexdigest() == digest:
        return name, SHIPPED[name]
    return name, "unknown"
