"""What a folder of images holds beside those with a prompt is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_data import write_csv, write_image

from t2ialign.feedback.pictures import SCORES, read_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them in a subfolder, and the scores of an earlier call."""
    write_image(tmp_path / "0_0.png")
    write_image(tmp_path / "more/1_0.png")
    (tmp_path / SCORES).write_text("")
    return tmp_path


def record(folder: Path, names: list[str]) -> None:
    images = [{"file": name, "prompt": "a fox"} for name in names]
    (folder / "generation.json").write_text(json.dumps({"images": images}))


def test_images_that_the_record_does_not_name_are_warned_of(folder: Path, caplog: pytest.LogCaptureFixture):
    record(folder, ["0_0.png"])
    assert len(read_pictures(folder)) == 1
    assert f"not read: 1 x image that no row names, first: {folder / 'more/1_0.png'}" in caplog.text


def test_nothing_is_said_where_everything_is_used(folder: Path, caplog: pytest.LogCaptureFixture):
    record(folder, ["0_0.png", "more/1_0.png"])
    read_pictures(folder)
    assert not caplog.text


def test_images_that_the_table_does_not_name_are_warned_of(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / SCORES).unlink()
    write_csv(folder / "t.csv", ["image", "prompt"], [["0_0.png", "a fox"]])
    read_pictures(folder)
    assert "1 x image that no row names" in caplog.text


def test_what_lies_beside_captioned_images_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture):
    for name in ("0_0.txt", "2_0.heic"):
        (folder / name).write_text("a fox")
    read_pictures(folder)
    assert f"1 x folder that is not read, first: {folder / 'more'}: holds 1 files" in caplog.text
    assert "1 x file of a kind that is not read" in caplog.text
    assert SCORES not in caplog.text
