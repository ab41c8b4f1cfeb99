"""One picture of many: what base and aligned model drew of the first held-out prompts, each with its verdicts."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from t2ialign.demo.evaluation import PromptResult, open_rgb
from t2ialign.errors import InputError
from t2ialign.report.run_folder import VERDICTS, read_json_lines
from t2ialign.storage.atomic import atomic_write

SIDES = ("base", "aligned")
COLUMNS = 5
IMAGE = 96
"""Side of an image on the sheet, in px."""
GAP, LINE, MARK = 8, 13, 8
CELL = (2 * IMAGE + 3 * GAP, IMAGE + 5 * LINE + 2 * GAP)
"""Width and height of a prompt's place, in px."""
INK, SOFT, PAPER = (29, 33, 37), (93, 102, 111), (251, 251, 250)
RIGHT, WRONG = (29, 127, 69), (179, 38, 30)


def write_sheet(run_dir: Path, out: Path, *, prompts: int = 50) -> Path:
    """Draws the first prompts of a demo in their order, two images each, as a PNG; returns its path.

    Below each image stand a green square for every statement that holds and a red one for every other, "unreadable"
    where no scene can be read, and the taste.

    Raises:
        InputError: the folder holds no verdicts.
        DataError: an image is missing, or the verdicts are damaged.
    """
    table = run_dir / VERDICTS
    if not table.is_file():
        raise InputError(f"{run_dir}: no {VERDICTS}; give the folder of a finished demo")
    results = read_json_lines(table)[:prompts]
    down = -(-len(results) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], down * CELL[1] + 2 * LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    note = (
        "left: base, right: aligned, from equal noise; a square is a statement of the prompt: green holds, red does not"
    )
    draw.text((GAP, GAP), note, INK, ImageFont.load_default(12))
    for number, result in enumerate(results):
        _draw_prompt(sheet, draw, run_dir, result, number % COLUMNS * CELL[0], number // COLUMNS * CELL[1] + 2 * LINE)
    with atomic_write(out) as partial:
        sheet.save(partial, format="PNG", optimize=True)
    return out


def _draw_prompt(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, run_dir: Path, result: PromptResult, left: int, top: int
) -> None:
    font = ImageFont.load_default(11)
    for line, text in enumerate(textwrap.wrap(result["prompt"], 36)[:2]):
        draw.text((left + GAP, top + GAP + line * LINE), text, INK, font)
    for place, side in enumerate(SIDES):
        x, y = left + GAP + place * (IMAGE + GAP), top + GAP + 2 * LINE + 4
        image = open_rgb(run_dir / result[side]["image"]).resize((IMAGE, IMAGE), Image.Resampling.BICUBIC)
        sheet.paste(image, (x, y))
        y += IMAGE + 4
        for number, verdict in enumerate(result[side]["verdicts"]):
            corner = (x + number * (MARK + 3), y)
            draw.rectangle((*corner, corner[0] + MARK, y + MARK), RIGHT if verdict["right"] else WRONG)
        liked = result[side]["taste"]
        words = "taste not asked" if liked is None else f"taste {liked:.2f}"
        draw.text((x, y + MARK + 3), "unreadable" if result[side]["unreadable"] else words, SOFT, font)
