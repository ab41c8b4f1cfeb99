"""What the report shows of validation images: each prompt of the last sheet, from the base to the end."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from t2ialign.report.charts import number
from t2ialign.report.images import image_uri, open_rgb
from t2ialign.training.validation_sheet import Sheet, SheetRow, read_sheets

FOLDER = "validation"
"""Of the sheets, inside the folder of a run."""
STEPS = 4
"""Steps shown of a run."""
PROMPTS = 12
"""Prompts shown of a run."""


class Sample(NamedTuple):
    """An image of a prompt."""

    label: str
    image: str
    """A data URI."""
    scores: list[tuple[str, str]]
    """Reward and score, as text."""


class SampleRow(NamedTuple):
    """The images of a prompt: of the base, then of the trained weights after some steps."""

    prompt: str
    seed: int
    samples: list[Sample]


def validation_rows(run_dir: Path, steps: int = STEPS) -> list[SampleRow]:
    """The first prompts of the last sheet, with their images of some steps; none of a run without sheets.

    Args:
        steps: at most so many, evenly over the run, the last among them.

    Raises:
        DataError: a sheet is damaged.
    """
    sheets = read_sheets(run_dir / FOLDER)
    if not sheets:
        return []
    later = [one for one in sheets if one[1].step] or sheets
    shown = [(sheet, open_rgb(path)) for path, sheet in _spread(later, steps)]
    last, picture = shown[-1]
    rows: list[SampleRow] = []
    for row in last.rows[:PROMPTS]:
        samples = [_sample(picture, row, label, label) for label in last.labels if label == "base"]
        for sheet, of_step in shown:
            same = next((one for one in sheet.rows if one[:2] == row[:2]), None)
            if same is not None:
                samples += [_sample(of_step, same, label, f"{label}, step {sheet.step}") for label in _trained(sheet)]
        rows.append(SampleRow(row.prompt, row.seed, samples))
    return rows


def _trained(sheet: Sheet) -> list[str]:
    return [label for label in sheet.labels if label != "base"]


def _spread(sheets: list[tuple[Path, Sheet]], count: int) -> list[tuple[Path, Sheet]]:
    """At most so many of them, evenly, the last among them."""
    every = max(1, -(-len(sheets) // count))
    return sheets[::-1][::every][::-1]


def _sample(sheet: Image.Image, row: SheetRow, label: str, shown: str) -> Sample:
    scores = [(name, number(said[label])) for name, said in row.scores.items() if label in said]
    return Sample(shown, image_uri(sheet.crop(row.boxes[label])), scores)
