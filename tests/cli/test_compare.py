"""`t2ialign compare` in a terminal and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from t2ialign.cli import main as cli


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for name, offset in (("a", 0), ("b", 9)):
        (tmp_path / name).mkdir()
        rows = [{"file": f"{place}_0.png", "prompt": f"p{place}", "seed": place} for place in range(3)]
        for place, row in enumerate(rows):
            Image.new("RGB", (8, 8), (20 * place + offset,) * 3).save(tmp_path / name / row["file"])
        (tmp_path / name / "generation.json").write_text(json.dumps({"steps": 30 + offset, "images": rows}))
    return [str(tmp_path / name) for name in ("a", "b")]


def test_a_narrow_terminal_cuts_no_figure(folders: list[str]):
    command = ["compare", *folders, "--reward", "brightness", "--reward", "jpeg_size=-1"]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "40"})
    assert result.exit_code == 0, result.output
    for shown in (
        "3 pairs of images, 3 prompts, matched by prompt and seed",
        "made with other steps",
        "jpeg_size (low",
    ):
        assert shown in result.output
    row = next(line for line in result.output.splitlines() if line.startswith("brightness"))
    assert row.split()[-7:] == ["0.2500", "0.5000", "3", "/", "0", "/", "0"]
    assert "warning: intervals rest on 3 prompts" in result.output


def test_json_holds_every_number_and_the_page_is_told_elsewhere(folders: list[str], tmp_path: Path):
    page = tmp_path / "page.html"
    result = CliRunner().invoke(cli.app, ["compare", *folders, "--reward", "brightness", "--json", "--out", str(page)])
    found = json.loads(result.stdout)
    assert (found["images"], found["settings"]) == (3, {"steps": [30, 39]})
    assert found["rewards"][0]["win_rate"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 3}
    assert str(page) in result.stderr
    assert page.is_file()
