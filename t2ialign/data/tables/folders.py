"""Folders of images, read as if they were tables."""

from __future__ import annotations

import re
from pathlib import Path

from t2ialign.data import images
from t2ialign.data.kinds.prompts import read_lines
from t2ialign.data.tables.columns import PROMPT, find_column
from t2ialign.data.tables.table import Row, Table, read_table
from t2ialign.errors import DataError

PAIR_FOLDERS = (("w", "l"), ("win", "lose"), ("winner", "loser"), ("chosen", "rejected"))
STEM_COLUMNS = ("file_name", "file", "name", "stem", "image", "id")


def pair_folders(folder: Path) -> tuple[str, str] | None:
    """The names of the subfolders of chosen and rejected images, if it has such."""
    return next((names for names in PAIR_FOLDERS if all((folder / name).is_dir() for name in names)), None)


def read_pair_folders(folder: Path, names: tuple[str, str]) -> Table:
    """A table of chosen, rejected and prompt from two subfolders whose images are paired by their stem."""
    chosen, rejected = (_by_stem(folder / name) for name in names)
    stems = sorted({*chosen, *rejected}, key=natural)
    if not stems:
        raise DataError(f"{folder}: {names[0]}/ and {names[1]}/ hold no images")
    prompts = _prompts(folder, folder / names[0], stems)
    rows = [
        Row(
            {"chosen": chosen.get(stem), "rejected": rejected.get(stem), "prompt": prompts.get(stem)},
            f"{folder}/{names[0]}/{stem}" if stem in chosen else f"{folder}/{names[1]}/{stem}",
        )
        for stem in stems
    ]
    return Table(folder, ["chosen", "rejected", "prompt"], rows)


def read_captioned(folder: Path) -> Table:
    """A table of image and prompt from images with a .txt caption of the same stem beside each."""
    files = _by_stem(folder)
    stems = sorted(files, key=natural)
    prompts = _captions(folder, stems)
    rows = [Row({"image": files[stem], "prompt": prompts.get(stem)}, files[stem]) for stem in stems]
    return Table(folder, ["image", "prompt"], rows)


def has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in images.SUFFIXES for path in folder.iterdir())


def natural(stem: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", stem) if part]


def _by_stem(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in images.SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(f"{folder}: {Path(found[path.stem]).name} and {path.name} have the same stem; keep one")
        found[path.stem] = str(path.resolve())
    return found


def _prompts(folder: Path, caption_folder: Path, stems: list[str]) -> dict[str, str]:
    """Stem -> prompt, from prompts.csv, prompts.txt, or a caption beside each chosen image."""
    if (folder / "prompts.csv").is_file():
        return _prompt_table(folder / "prompts.csv")
    if (folder / "prompts.txt").is_file():
        return _prompt_lines(folder / "prompts.txt", stems)
    captions = _captions(caption_folder, stems)
    if not captions:
        raise DataError(
            f"{folder}: has no prompts; add prompts.csv (file_name,prompt), prompts.txt (one a line, in the order "
            f"of the file names), or a caption .txt beside each image in {caption_folder.name}/"
        )
    return captions


def _prompt_table(path: Path) -> dict[str, str]:
    table = read_table(path)
    prompt = find_column(table, PROMPT, None)
    stem = next((name for name in table.columns if name.lower() in STEM_COLUMNS), None)
    if stem is None:
        raise DataError(f"{path}: needs a column that names the image ({', '.join(STEM_COLUMNS)}) beside {prompt}")
    return {Path(row.cells[stem]).stem: row.cells[prompt] for row in table.rows}


def _prompt_lines(path: Path, stems: list[str]) -> dict[str, str]:
    prompts = read_lines(path)
    if len(prompts) != len(stems):
        raise DataError(
            f"{path}: has {len(prompts)} prompts, but there are {len(stems)} images; one a line, in the order of the "
            f"file names from {stems[0]} to {stems[-1]}, or name them in prompts.csv"
        )
    return dict(zip(stems, prompts, strict=True))


def _captions(folder: Path, stems: list[str]) -> dict[str, str]:
    files = {stem: folder / f"{stem}.txt" for stem in stems}
    return {stem: " ".join(read_lines(path)) for stem, path in files.items() if path.is_file()}
