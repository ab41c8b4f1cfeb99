"""The sheet of a validation: every image where its index says, under its prompt, seed and label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ialign.errors import DataError
from t2ialign.training.validation_sheet import (
    MOST_LINES,
    draw_sheet,
    read_sheets,
    with_scores,
    write_index,
    write_sheet,
)

PROMPTS = ["a red circle", "a very long prompt of many words " * 20, "一只猫在窗台上" * 30]


def flat(color: str, side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), color)


@pytest.mark.parametrize("side", [16, 256])
def test_each_image_lies_where_the_index_says(side: int):
    images = {"base": [flat("red", side)] * 3, "policy": [flat(color, side) for color in ("blue", "lime", "black")]}
    picture, sheet = draw_sheet(100, PROMPTS, images)
    assert [row.prompt for row in sheet.rows] == PROMPTS
    assert [row.seed for row in sheet.rows] == [0, 1, 2]
    for row, expected in zip(sheet.rows, ("blue", "lime", "black"), strict=True):
        for label, color in (("base", "red"), ("policy", expected)):
            found = picture.crop(row.boxes[label])
            assert found.size == (max(side, 192), max(side, 192))
            assert np.array_equal(np.asarray(found), np.asarray(flat(color, found.size[0])))


def test_there_is_ink_above_every_image_and_a_long_prompt_takes_few_lines():
    picture, sheet = draw_sheet(1, PROMPTS, {"base": [flat("red")] * 3, "policy": [flat("red")] * 3})
    top = 0
    for row in sheet.rows:
        left, upper, _, lower = row.boxes["base"]
        caption = np.asarray(picture.crop((left, top, picture.width, upper)).convert("L"))
        assert caption.min() < 150
        assert upper - top < 24 * (MOST_LINES + 2)
        top = lower
    right = np.asarray(picture.crop((sheet.rows[0].boxes["policy"][0], 0, picture.width, 20)).convert("L"))
    assert right.min() < 150  # the label of the second column


def test_what_is_written_is_read_with_its_scores_by_step(tmp_path: Path):
    for step in (1000000, 20):
        picture, sheet = draw_sheet(step, PROMPTS[:1], {"base": [flat("red")], "ema": [flat("blue")]})
        write_sheet(tmp_path, picture, sheet)
        write_index(tmp_path, with_scores(sheet, {"own": {"base": {0: 0.5}, "ema": {}}}))
    read = read_sheets(tmp_path)
    assert [sheet.step for _, sheet in read] == [20, 1000000]
    assert read[0][1].rows[0].scores == {"own": {"base": 0.5}}
    assert read[0][1].labels == ["base", "ema"]


def test_a_damaged_index_is_named_and_sheets_of_older_versions_are_left_out(tmp_path: Path):
    flat("red").save(tmp_path / "step-000001.png")
    assert read_sheets(tmp_path) == []
    (tmp_path / "step-000001.json").write_text('{"step": 1, "rows"')
    with pytest.raises(DataError, match=r"step-000001\.json: not the index of a sheet"):
        read_sheets(tmp_path)
