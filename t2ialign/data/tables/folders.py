"""Folders of images, read as if they were tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from t2ialign.data.account import (
    NO_ROW,
    OTHER_PROMPTS,
    PROMPT_WITHOUT_IMAGE,
    SECOND_PROMPT,
    SUBFOLDER,
    UNKNOWN_SUFFIX,
    Problem,
)
from t2ialign.data.images import SUFFIXES
from t2ialign.data.tables.columns import PROMPT, find_column
from t2ialign.data.tables.reading import read_table
from t2ialign.data.tables.table import Row, Table
from t2ialign.data.tables.text_tables import read_lines
from t2ialign.errors import DataError

PAIR_FOLDERS = (("w", "l"), ("win", "lose"), ("winner", "loser"), ("chosen", "rejected"))
STEM_COLUMNS = ("file_name", "file", "name", "stem", "image", "id")
PROMPT_FILES = ("prompts.csv", "prompts.txt")
CAPTIONS = (".txt", ".caption")
"""Endings of the files that hold the prompt of the image of the same stem; of two the first is read."""


def pair_folders(folder: Path) -> tuple[str, str] | None:
    """The names of the subfolders of chosen and rejected images, if it has such."""
    return next((names for names in PAIR_FOLDERS if all((folder / name).is_dir() for name in names)), None)


def read_pair_folders(folder: Path, names: tuple[str, str]) -> Table:
    """A table of chosen, rejected and prompt from two subfolders whose images are paired by their stem."""
    chosen, rejected = (_by_stem(folder / name) for name in names)
    stems = sorted({*chosen, *rejected}, key=natural)
    if not stems:
        raise DataError(f"{folder}: {names[0]}/ and {names[1]}/ hold no images")
    prompts, unused = _prompts(folder, names, stems)
    rows = [
        Row(
            {"chosen": chosen.get(stem), "rejected": rejected.get(stem), "prompt": prompts.get(stem)},
            f"{folder}/{names[0]}/{stem}" if stem in chosen else f"{folder}/{names[1]}/{stem}",
        )
        for stem in stems
    ]
    beside = [path for path in _entries(folder) if path.name not in (*names, *PROMPT_FILES)]
    unused += [_unread(path) for path in beside]
    unused += [problem for name in names for problem in _unread_beside_images(folder / name)]
    words = f"folders {names[0]}/ and {names[1]}/, paired by the stems of their files"
    return Table(folder, ["chosen", "rejected", "prompt"], rows, tuple(unused), words)


def read_captioned(folder: Path) -> Table:
    """A table of image and prompt from images with a caption of the same stem beside each, .txt or .caption."""
    files = _by_stem(folder)
    stems = sorted(files, key=natural)
    prompts = _captions(folder, stems)
    rows = [Row({"image": files[stem], "prompt": prompts.get(stem)}, files[stem]) for stem in stems]
    unused = tuple(_unread_beside_images(folder))
    return Table(folder, ["image", "prompt"], rows, unused, "a folder of images with captions beside them")


def has_images(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.iterdir())


def natural(stem: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    parts = re.split("([0-9]+)", stem)
    return [(0, int(part), "") if place % 2 else (1, 0, part) for place, part in enumerate(parts) if part]


def images_without_row(table: Table, folder: Path) -> list[Problem]:
    """The images below a folder that no row of its table names."""
    return unnamed_images(folder, _paths(table))


def unnamed_images(folder: Path, named: Iterable[Path]) -> list[Problem]:
    """The images below a folder that are not among those that something names."""
    images = [path for path in _walk(folder) if _is_image(path)]
    known = {os.path.abspath(path) for path in named} if images else set()
    return [Problem(str(image), NO_ROW) for image in images if os.path.abspath(image) not in known]


def _paths(table: Table) -> Iterator[Path]:
    """The cells that may be paths."""
    for row in table.rows:
        for cell in row.cells.values():
            value = cell.get("path") if isinstance(cell, dict) else cell
            if isinstance(value, str) and len(value) < 4096 and "\0" not in value:
                yield row.folder / value.strip()


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order, without those that are hidden."""
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, in order, without what is hidden, as .DS_Store and ._1.png."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_caption(path: Path) -> bool:
    return path.suffix.lower() in CAPTIONS and path.is_file()


def _unread_beside_images(folder: Path) -> list[Problem]:
    """What else a folder of images holds: other files and folders, and captions of no image."""
    entries = [path for path in _entries(folder) if not _is_image(path) or path.is_dir()]
    stems = {path.stem for path in _entries(folder) if _is_image(path)}
    read = {path for stem, path in _caption_files(folder).items() if stem in stems}
    second = [path for path in entries if _is_caption(path) and path.stem in stems and path not in read]
    others = [path for path in entries if path not in read and path not in second]
    return [*(Problem(str(path), OTHER_PROMPTS) for path in second), *map(_unread, others)]


def _unread(path: Path) -> Problem:
    """Why a file or a folder is not read."""
    if path.is_dir():
        return Problem(str(path), SUBFOLDER, f"holds {sum(1 for _ in _walk(path)):,} files")
    if _is_caption(path):
        return Problem(str(path), PROMPT_WITHOUT_IMAGE)
    return Problem(str(path), NO_ROW if _is_image(path) else UNKNOWN_SUFFIX)


def _by_stem(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in _entries(folder):
        if not _is_image(path) or path.is_dir():
            continue
        if path.stem in found:
            raise DataError(f"{folder}: {Path(found[path.stem]).name} and {path.name} have the same stem; keep one")
        found[path.stem] = str(path.resolve())
    return found


def _prompts(folder: Path, names: tuple[str, str], stems: list[str]) -> tuple[dict[str, str], list[Problem]]:
    """Stem -> prompt, from prompts.csv, prompts.txt, or a caption beside each chosen image; and what is not used."""
    captions = _captions(folder / names[0], stems)
    files = [folder / name for name in PROMPT_FILES if (folder / name).is_file()]
    unread = [Problem(str(path), OTHER_PROMPTS, f"{files[0].name} is used") for path in files[1:]]
    if files:
        beside = _caption_files(folder / names[0])
        unread += [Problem(str(beside[stem]), OTHER_PROMPTS) for stem in captions]
    if files and files[0].suffix == ".txt":
        return _prompt_lines(files[0], stems), unread
    if files:
        prompts, unused = _prompt_table(files[0], names, stems)
        return prompts, [*unused, *unread]
    if not captions:
        raise DataError(
            f"{folder}: has no prompts; add prompts.csv (file_name,prompt), prompts.txt (one a line, in the order "
            f"of the file names), or a caption .txt or .caption beside each image in {names[0]}/"
        )
    return captions, []


def _prompt_table(path: Path, names: tuple[str, str], stems: list[str]) -> tuple[dict[str, str], list[Problem]]:
    """Stem -> prompt; of several prompts for one image the last. Rows without an image, and prompts that lost."""
    table = read_table(path)
    prompt = find_column(table, PROMPT, None)
    column = next((name for name in table.columns if name.lower() in STEM_COLUMNS), None)
    if column is None:
        raise DataError(f"{path}: needs a column that names the image ({', '.join(STEM_COLUMNS)}) beside {prompt}")
    rows: dict[str, Row] = {}
    known = {*stems}
    unused = []
    for row in table.rows:
        stem = _stem(row.cells[column], names)
        if stem not in known:
            unused.append(Problem(row.origin, PROMPT_WITHOUT_IMAGE, f"{column} is {row.cells[column]}"))
            continue
        before = rows.get(stem)
        if before is not None and before.cells[prompt] != row.cells[prompt]:
            detail = f"{row.cells[column]} has two prompts; the one of {row.origin} is used"
            unused.append(Problem(before.origin, SECOND_PROMPT, detail))
        rows[stem] = row
    return {stem: row.cells[prompt] for stem, row in rows.items()}, unused


def _stem(name: str, folders: tuple[str, str]) -> str:
    """The stem by which a prompt file names the images of a pair: `3` of 3.png, w/3.png and 3."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    path = PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 and path.parts[0] in folders else path
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


def _prompt_lines(path: Path, stems: list[str]) -> dict[str, str]:
    prompts = read_lines(path)
    if len(prompts) != len(stems):
        raise DataError(
            f"{path}: has {len(prompts)} prompts, but there are {len(stems)} images; one a line, in the order of the "
            f"file names from {stems[0]} to {stems[-1]}, or name them in prompts.csv"
        )
    return dict(zip(stems, prompts, strict=True))


def _captions(folder: Path, stems: list[str]) -> dict[str, str]:
    files = _caption_files(folder)
    return {stem: " ".join(read_lines(files[stem])) for stem in stems if stem in files}


def _caption_files(folder: Path) -> dict[str, Path]:
    """Stem -> the file of its caption; where there are several the one that CAPTIONS names first."""
    found = sorted((path for path in _entries(folder) if _is_caption(path)), key=_caption_rank, reverse=True)
    return {path.stem: path for path in found}


def _caption_rank(path: Path) -> int:
    return CAPTIONS.index(path.suffix.lower())
