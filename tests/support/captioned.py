"""Tables of images with prompts, written and read back."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image


def image_table(folder: Path, prompts: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt"])
        for number, prompt in enumerate(prompts):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", prompt])
    return folder / "images.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
