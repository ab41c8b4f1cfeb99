"""The sheet of a validation: a row a prompt, base and policy side by side, with prompt, seed and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw, ImageFont
from pydantic import TypeAdapter

from t2ialign.errors import DataError
from t2ialign.storage.atomic import atomic_write

LEAST_SIDE = 192
"""Smaller images are enlarged by a whole factor, to be seen and to leave room for their prompt, in px."""
MOST_LINES = 3
"""Of a prompt; the rest is in the index beside the sheet."""
GAP = 8
INK, SOFT, PAPER = (29, 33, 37), (93, 102, 111), (255, 255, 255)
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc")
"""Fonts of other scripts than Latin, of which the first that is installed is used."""
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


class SheetRow(NamedTuple):
    """The images of a prompt."""

    prompt: str
    seed: int
    boxes: dict[str, tuple[int, int, int, int]]
    """Label -> left, top, right and bottom of its image on the sheet, in px."""
    scores: dict[str, dict[str, float]]
    """Reward -> label -> score, of the images that have one."""


class Sheet(NamedTuple):
    """What lies beside the picture of a sheet, under the same name."""

    step: int
    labels: list[str]
    rows: list[SheetRow]


Scores: TypeAlias = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Reward -> label -> place of the prompt -> score, of the images that have one."""


def draw_sheet(
    step: int, prompts: Sequence[str], images: Mapping[str, Sequence[Image.Image]]
) -> tuple[Image.Image, Sheet]:
    """Draws the images of all prompts.

    Args:
        step: after which they were made.
        prompts: the seed of each is its place.
        images: label of a column -> an image a prompt, all of one size.
    """
    width, height = next(iter(images.values()))[0].size
    factor = max(1, -(-LEAST_SIDE // max(width, height)))
    width, height = factor * width, factor * height
    size = max(13, width // 28)
    line = size + size // 3
    lefts = {label: GAP + column * (width + GAP) for column, label in enumerate(images)}
    captions = [
        _wrapped(f"seed {seed} · {prompt}", size, len(images) * (width + GAP) - GAP)
        for seed, prompt in enumerate(prompts)
    ]
    bottom = GAP + line + sum(len(lines) * line + height + 2 * GAP for lines in captions)
    sheet = Image.new("RGB", (len(images) * (width + GAP) + GAP, bottom), PAPER)
    draw = ImageDraw.Draw(sheet)
    for label, left in lefts.items():
        draw.text((left, GAP // 2), label if label == "base" else f"{label}, step {step}", INK, _font(label, size))
    rows: list[SheetRow] = []
    top = GAP + line
    for place, (prompt, lines) in enumerate(zip(prompts, captions, strict=True)):
        draw.multiline_text((GAP, top), "\n".join(lines), SOFT, _font(prompt, size), spacing=size // 3)
        top += len(lines) * line + GAP
        for label, left in lefts.items():
            sheet.paste(images[label][place].resize((width, height), Image.Resampling.NEAREST), (left, top))
        boxes = {label: (left, top, left + width, top + height) for label, left in lefts.items()}
        rows.append(SheetRow(prompt, place, boxes, {}))
        top += height + GAP
    return sheet, Sheet(step, list(images), rows)


def with_scores(sheet: Sheet, scores: Scores) -> Sheet:
    """The sheet with what rewards say of its images."""
    rows = [
        row._replace(
            scores={
                name: {label: of[place] for label, of in sides.items() if place in of} for name, sides in scores.items()
            }
        )
        for place, row in enumerate(sheet.rows)
    ]
    return sheet._replace(rows=rows)


def _font(text: str, size: int) -> Font:
    """Pillow's own font for Latin text, else the first installed one of other scripts."""
    if max(map(ord, text), default=0) >= 0x250:
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most `width` px, broken between words, or inside those that are longer."""
    font = _font(text, size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][:-1]}…"]
    return lines


def sheet_path(folder: Path, step: int) -> Path:
    """The picture of a step's sheet."""
    return folder / f"step-{step:06d}.png"


def write_sheet(folder: Path, picture: Image.Image, sheet: Sheet) -> None:
    """Writes the picture of a sheet and its index.

    Raises:
        TryAgainError: the disk is full.
    """
    write_index(folder, sheet)
    with atomic_write(sheet_path(folder, sheet.step)) as partial:
        picture.save(partial, format="PNG")


def write_index(folder: Path, sheet: Sheet) -> None:
    """Writes what lies beside the picture.

    Raises:
        TryAgainError: the disk is full.
    """
    content = {**sheet._asdict(), "rows": [row._asdict() for row in sheet.rows]}
    with atomic_write(sheet_path(folder, sheet.step).with_suffix(".json")) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_sheets(folder: Path) -> list[tuple[Path, Sheet]]:
    """The pictures with their indices, by step; those without an index are left out.

    Raises:
        DataError: an index is damaged.
    """
    found: list[tuple[Path, Sheet]] = []
    for path in sorted(folder.glob("step-*.png")):
        index = path.with_suffix(".json")
        if index.is_file():
            try:
                found.append((path, TypeAdapter(Sheet).validate_json(index.read_bytes())))
            except ValueError as error:
                raise DataError(f"{index}: not the index of a sheet ({error}); remove it") from None
    return sorted(found, key=lambda one: one[1].step)
