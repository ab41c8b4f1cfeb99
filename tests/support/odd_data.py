"""Images, tables, folders and prompt files of any content, each of which must be used, or refused in a sentence."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from t2ialign.data.images import open_image
from t2ialign.data.inspect.summary import render, summarise
from t2ialign.data.kinds.labelled import LabelledData
from t2ialign.data.kinds.lists import ListData
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.prompts import PromptData, read_prompt_list
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.kinds.text_pairs import TextPairData
from t2ialign.data.tables.source import TableData
from t2ialign.errors import UserError

KINDS = (PairData, SingleData, ListData, LabelledData, TextPairData, PromptData)
MESSAGE_CHARACTERS = 2000
"""A message may name a few paths; it never repeats an image or a file."""

SAVED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "PNG": [("RGB", {}), ("RGBA", {}), ("P", {}), ("L", {}), ("LA", {}), ("1", {}), ("I;16", {})],
    "JPEG": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "AVIF": [("RGB", {})],
    "GIF": [("P", {}), ("L", {})],
    "BMP": [("RGB", {}), ("P", {}), ("1", {})],
    "TIFF": [("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"}), ("I", {}), ("F", {})],
    "JPEG2000": [("RGB", {}), ("LA", {})],
    "PPM": [("RGB", {}), ("L", {})],
    "TGA": [("RGB", {}), ("RGBA", {"compression": "tga_rle"})],
    "PCX": [("RGB", {})],
    "SGI": [("RGB", {})],
    "ICO": [("RGBA", {})],
    "ICNS": [("RGBA", {})],
    "DDS": [("RGBA", {})],
    "DIB": [("RGB", {})],
    "IM": [("RGB", {})],
    "MSP": [("1", {})],
    "SPIDER": [("F", {})],
    "XBM": [("1", {})],
    "BLP": [("P", {})],
    "QOI": [("RGB", {})],
    "EPS": [("RGB", {})],
    "PDF": [("RGB", {})],
}
"""Formats that Pillow writes -> modes and settings."""

NUMBERS = [0, 1, 0.5, -1, 2, 1e308, 10**400, float("nan"), float("inf"), True, None, "1", "0", "0.5", "nan", "١", "²"]
TEXTS = ["", " ", "a fox", "\0", "\ud83d", "\udcff", "a" * 300, "b" * 200_000, "[bold]", ":boom:", "\u2028", "\x1b[31m"]
PATHS = ["a.png", "b.png", "./a.png", "none.png", "..", ".", "/", "~", "a.png/b", "C:\\a.png", "a.PNG", "bad.png"]
OTHERS = [[], {}, [1], {"path": "a.png"}, {"path": None}, {"bytes": "x"}, {"bytes": None, "path": "b.png"}]
COLUMNS = ["prompt", "chosen", "rejected", "image", "image_0", "image_1", "label_0", "label_1", "preferred", "liked"]
COLUMNS += ["score", "score_chosen", "score_rejected", "mismatched", "reward", "caption", "x", "", " Prompt ", "jpg_w"]
TYPICAL = [
    ["prompt", "chosen", "rejected"],
    ["prompt", "image_0", "image_1", "label_0"],
    ["prompt", "image_0", "image_1", "preferred"],
    ["prompt", "image"],
    ["prompt", "image", "score"],
    ["prompt", "image", "liked"],
    ["prompt", "image", "mismatched"],
]


@cache
def _saved(kind: str, place: int) -> bytes:
    mode, settings = SAVED[kind][place]
    values = np.random.default_rng(place).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(values[..., 0].astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.fromarray(values).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def image_bytes(draw: random.Random, kind: str | None = None) -> bytes:
    """A small image of any format."""
    kind = kind or draw.choice(list(SAVED))
    return _saved(kind, draw.randrange(len(SAVED[kind])))


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them changed, cut out, repeated, or with the end cut off; now and then untouched."""
    changed = bytearray(content)
    for _ in range(draw.choice([0, 1, 1, 2, 5, 30])):
        if not changed:
            break
        at, kind = draw.randrange(min(len(changed), draw.choice([16, 200, 10**9]))), draw.randrange(5)
        if kind <= 1:
            changed[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        elif kind == 2:
            changed[at : at + draw.randrange(9)] = bytes(draw.randrange(256) for _ in range(draw.randrange(9)))
        elif kind == 3:
            changed[at:at] = changed[at : at + 50]
        else:
            del changed[max(at, 4) :]
    return bytes(changed)


def refused(action: Callable[[], object]) -> bool:
    """Whether it is refused, in a message of some length; anything but a refusal is raised."""
    message = None
    try:
        action()
    except UserError as error:
        message = str(error)
    assert message is None or 0 < len(message) < MESSAGE_CHARACTERS, f"a message of {len(message)} characters"
    return message is not None


def check_image(draw: random.Random) -> None:
    """Damaged bytes are an RGB image or refused."""
    content = damaged(image_bytes(draw), draw)

    def open_it() -> None:
        image = open_image(content)
        assert image.mode == "RGB"
        assert image.size > (0, 0)

    refused(open_it)


def odd_cell(draw: random.Random) -> Any:
    return draw.choice(draw.choice([NUMBERS, TEXTS, TEXTS, PATHS, PATHS, PATHS, OTHERS]))


def odd_rows(draw: random.Random) -> tuple[list[str], list[list[Any]]]:
    """Column names, and rows of which most are usable."""
    header = [*draw.choice(TYPICAL)] if draw.random() < 0.8 else draw.sample(COLUMNS, draw.randrange(6))
    usable = {"prompt": ["a fox", "hen"], "mismatched": ["a dog"]}
    usable |= {name: ["a.png", "b.png"] for name in ("chosen", "rejected", "image", "image_0", "image_1")}
    usable |= {name: [0, 1, "1"] for name in ("label_0", "preferred", "liked")} | {"score": [1, 2, 3.5]}
    oddness = draw.choice([0, 0.1, 0.5])
    rows = [
        [odd_cell(draw) if draw.random() < oddness else draw.choice(usable.get(name, [1])) for name in header]
        for _ in range(draw.randrange(6))
    ]
    return header, rows


def write_table(folder: Path, draw: random.Random) -> Path:
    """A table of odd rows; its bytes are damaged now and then."""
    header, rows = odd_rows(draw)
    kind = draw.choice(["csv", "tsv", "jsonl", "parquet", "CSV", "Jsonl"])
    path = folder / f"t.{kind}"
    if kind == "parquet":
        content = _parquet(header, rows, draw)
    elif kind.lower() == "jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=draw.random() < 0.5) for row in rows]
        content = "\n".join(lines).encode("utf-8", errors="surrogatepass")
    else:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter="\t" if kind == "tsv" else ",", escapechar="\\").writerows([header, *rows])
        content = file.getvalue().encode("utf-8", errors="surrogatepass")
    path.write_bytes(damaged(content, draw) if draw.random() < 0.4 else content)
    return path


def _parquet(header: list[str], rows: list[list[Any]], draw: random.Random) -> bytes:
    columns: dict[str, pa.Array] = {}
    unwritable = (pa.ArrowException, ValueError, OverflowError, TypeError)
    for place, name in enumerate(header):
        values = [row[place] for row in rows]
        if name in ("chosen", "rejected", "image", "image_0", "image_1") and draw.random() < 0.7:
            values = [damaged(image_bytes(draw, "PNG"), draw) if draw.random() < 0.9 else None for _ in values]
        try:
            columns[name] = pa.array(values)
            pq.write_table(pa.table({name: columns[name]}), io.BytesIO())
        except unwritable:
            columns[name] = pa.array([str(value).encode("ascii", "replace").decode() for value in values])
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


def write_images(folder: Path, draw: random.Random) -> None:
    """a.png and b.png, whole, and bad.png."""
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(image_bytes(draw, "PNG"))
    (folder / "bad.png").write_bytes(damaged(image_bytes(draw), draw))


def check_data(path: Path, draw: random.Random) -> None:
    """A data set is used, with an account that adds up, or refused."""
    kind: type[TableData] = draw.choice(KINDS)
    data = kind(path=path, on_bad=draw.choice(["drop", "error"]))

    def use() -> None:
        source = data.open()
        assert len(source) == source.account.examples > 0
        assert source.account.used + len(source.account.left_out) == source.account.rows
        json.dumps(source.account.as_dict()).encode()
        assert sum(map(len, source.account.lines())) < 10 * MESSAGE_CHARACTERS
        for row in range(len(source)):
            for prompt in source[row].prompts:
                prompt.encode()
            for image in source[row].images:
                refused(lambda image=image: open_image(image))
        refused(lambda: source.fingerprint)

    if not refused(use) and draw.random() < 0.2:
        refused(lambda: render(summarise(data)))


def check_table(folder: Path, draw: random.Random) -> None:
    """A table of any content, beside images."""
    write_images(folder, draw)
    check_data(write_table(folder, draw), draw)


def check_folder(folder: Path, draw: random.Random) -> None:
    """A folder of images with any names, prompts and tables."""
    place = folder / "data"
    shutil.rmtree(place, ignore_errors=True)
    names = ["0", "1", "²", "١", "a b", "v1.0", "[x]", ":boom:", "-", "\udcff", "é", "." + "x", "n" * 240]
    suffixes = [".png", ".PNG", ".jpg", ".avif", ".jfif", ".heic", ".txt", ".csv", ""]
    for part in draw.choice([("w", "l"), ("chosen", "rejected"), ("",), ("", "more"), ("w",), ("w", "l", "w/more")]):
        (place / part).mkdir(parents=True, exist_ok=True)
        for name in draw.sample(names, draw.randrange(4)):
            content = damaged(image_bytes(draw), draw) if draw.random() < 0.3 else image_bytes(draw, "PNG")
            suffix = draw.choice(suffixes[:3] if draw.random() < 0.7 else suffixes)
            (place / part / f"{name}{suffix}").write_bytes(content)
            if draw.random() < 0.5:
                (place / part / f"{name}.txt").write_bytes(damaged("a fox ☃".encode(), draw))
    if draw.random() < 0.4:
        rows = [[f"{draw.choice(names)}.png", draw.choice(["a fox", ""])] for _ in range(draw.randrange(5))]
        file = io.StringIO(newline="")
        csv.writer(file).writerows([draw.choice([["file_name", "prompt"], ["prompt", "file"], ["x"]]), *rows])
        content = file.getvalue().encode("utf-8", errors="surrogateescape")
        (place / "prompts.csv").write_bytes(damaged(content, draw) if draw.random() < 0.3 else content)
    if draw.random() < 0.2:
        write_table(place, draw)
    if draw.random() < 0.2:
        (place / "prompts.txt").write_bytes(damaged(b"a fox\nhen\n", draw))
    check_data(place, draw)


def check_prompt_file(folder: Path, draw: random.Random) -> None:
    """A prompt file of any content is a list of prompts with numbers of their own, or refused."""
    kind = draw.randrange(3)
    if kind == 0:
        path = write_table(folder, draw)
    elif kind == 1:
        path = folder / draw.choice(["p.txt", "p.TXT", "p.json", "p"])
        path.write_bytes(damaged("\n".join(map(str, draw.sample(TEXTS, 4))).encode("utf-8", "surrogatepass"), draw))
    else:
        path = folder / "u.csv"
        points = {"Testpoints": ["Color"], "Testpoint Description": ["red"], **draw.choice(OTHERS[1:2] + OTHERS[3:])}
        cell = json.dumps(draw.choice([points, points, odd_cell(draw)]))
        file = io.StringIO(newline="")
        rows = [[draw.choice([0, 1, "²", "-1", 10**30, ""]), draw.choice(["a fox", *TEXTS[:6]]), cell] for _ in "ab"]
        csv.writer(file).writerows([["index", "prompt_en", "sub_dims_en"], *rows])
        path.write_bytes(damaged(file.getvalue().encode("utf-8", "surrogatepass"), draw))

    def read() -> None:
        found = read_prompt_list(path, draw.choice([None, None, "testmini60", "\ud83d"]))
        assert found.prompts
        assert len(found.prompts) == len({*found.indices})
        for prompt in found.prompts:
            prompt.encode()

    refused(read)
