"""Drawings with transparency, and one data set of them in every layout that is read."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

PROMPTS = ("a red disc", "a blue square", "something green, and more")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


class Drawn(NamedTuple):
    """A pair of drawings."""

    prompt: str
    chosen: bytes
    """PNG"""
    rejected: bytes


def drawing(seed: int, side: int | None = None) -> bytes:
    """A PNG of a few shapes, transparent between and through them, of varying size if no side is given."""
    draw = np.random.default_rng(seed)
    width, height = (int(draw.integers(18, 40)) for _ in range(2))
    image = Image.new("RGBA", (side or width, side or height))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, w, h = draw.integers(0, 16, 4)
        colour = tuple(int(value) for value in draw.integers(0, 256, 4))
        (pen.ellipse if draw.random() < 0.5 else pen.rectangle)((x, y, x + w + 2, y + h + 2), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn_pairs(drawings: int = 150) -> list[Drawn]:
    """Pairs of so many drawings."""
    made = [drawing(seed) for seed in range(drawings)]
    return [Drawn(PROMPTS[row % 3], made[2 * row], made[2 * row + 1]) for row in range(drawings // 2)]


def _files(folder: Path, pairs: Sequence[Drawn]) -> list[tuple[str, str]]:
    """Writes the images, and returns their names."""
    names = []
    for row, pair in enumerate(pairs):
        names.append((f"images/{row}_good.png", f"images/{row}_bad.png"))
        for name, content in zip(names[-1], (pair.chosen, pair.rejected), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return names


def _table(path: Path, header: Sequence[str], pairs: Sequence[Drawn]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        names = _files(path.parent, pairs)
        rows = [[pair.prompt, *both] for pair, both in zip(pairs, names, strict=True)]
        csv.writer(file).writerows([header, *rows])


def as_csv(folder: Path, pairs: Sequence[Drawn]) -> None:
    _table(folder / "pairs.csv", ["prompt", "chosen", "rejected"], pairs)


def as_imagefolder(folder: Path, pairs: Sequence[Drawn]) -> None:
    for split, some in (("train", pairs), ("test", pairs[:2])):
        (folder / split).mkdir()
        _table(folder / split / "metadata.csv", ["text", "chosen_file_name", "rejected_file_name"], some)


def pick_a_pic(pairs: Sequence[Drawn], *, wrapped: bool) -> pa.Table:
    """Pick-a-Pic's columns; the chosen drawing is the first in even rows and the second in odd ones."""
    first = [pair.chosen if row % 2 == 0 else pair.rejected for row, pair in enumerate(pairs)]
    second = [pair.rejected if row % 2 == 0 else pair.chosen for row, pair in enumerate(pairs)]
    labels = [1.0 - row % 2 for row in range(len(pairs))]
    columns: dict[str, pa.Array] = {"caption": pa.array([pair.prompt for pair in pairs])}
    for name, images in (("jpg_0", first), ("jpg_1", second)):
        cells = [{"bytes": image, "path": None} for image in images]
        columns[name] = pa.array(cells, IMAGE) if wrapped else pa.array(images, pa.binary())
    columns |= {"label_0": pa.array(labels), "label_1": pa.array([1 - label for label in labels])}
    return pa.table(columns)


def _halves(folder: Path, table: pa.Table, stem: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = len(table) // 2
    for place, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"{stem}-{place:05d}-of-00002.parquet", row_group_size=7)


def as_parquet(folder: Path, pairs: Sequence[Drawn]) -> None:
    _halves(folder, pick_a_pic(pairs, wrapped=False))


def as_hub(folder: Path, pairs: Sequence[Drawn]) -> None:
    """A repository of the hub, as `datasets` pushes it."""
    _halves(folder / "data", pick_a_pic(pairs, wrapped=True))
    _halves(folder / "data", pick_a_pic(pairs[:4], wrapped=True), "validation_unique")
    head = "configs:\n- config_name: default\n  data_files:\n"
    entries = (f"  - split: {name}\n    path: data/{name}-*\n" for name in ("train", "validation_unique"))
    (folder / "README.md").write_text(f"---\n{head}{''.join(entries)}---\n# Drawings\n")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")


def as_arrow(folder: Path, pairs: Sequence[Drawn]) -> None:
    """What `datasets` saves of two splits."""
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split, some in (("train", pairs), ("test", pairs[:2])):
        (folder / split).mkdir()
        table = pick_a_pic(some, wrapped=True)
        parts = (table.slice(0, len(table) // 2), table.slice(len(table) // 2))
        names = [f"data-{place:05d}-of-00002.arrow" for place in range(2)]
        for name, part in zip(names, parts, strict=True):
            with pa.OSFile(str(folder / split / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as stream:
                stream.write_table(part, max_chunksize=5)
        state = {"_data_files": [{"filename": name} for name in names], "_split": split, "_format_type": None}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text("{}")


def as_webdataset(folder: Path, pairs: Sequence[Drawn]) -> None:
    half = len(pairs) // 2
    for place, part in enumerate((pairs[:half], pairs[half:])):
        with tarfile.open(folder / f"train-{place:05d}-of-00002.tar", "w") as tar:
            for row, pair in enumerate(part):
                members = {"chosen.png": pair.chosen, "rejected.png": pair.rejected, "txt": pair.prompt.encode()}
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{place}/{row:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


LAYOUTS: dict[str, tuple[Callable[[Path, Sequence[Drawn]], None], str | None]] = {
    "csv": (as_csv, None),
    "parquet": (as_parquet, None),
    "imagefolder": (as_imagefolder, "train"),
    "webdataset": (as_webdataset, None),
    "hub": (as_hub, "train"),
    "arrow": (as_arrow, "train"),
}
"""Name -> what writes it, and the split that holds all pairs."""
