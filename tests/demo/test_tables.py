"""What a finished demo prints: colours, goals and losses are those of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from t2ialign.demo import tables
from t2ialign.demo.settings import Recipes


def summary(shift: dict[str, float]) -> dict[str, Any]:
    model = {"faithfulness": 0.6, "unreadable": 3}
    compared = {
        "prompts": 100,
        "guidance": {"base": 3.0, "sft": 3.0, "aligned": 3.0},
        "models": {"base": model, "sft": model, "aligned": model},
        "differences": {pair: {"faithfulness": shift} for pair in ("aligned - base", "aligned - sft")},
        "diversity": {},
    }
    return {
        "measures": [{"key": "faithfulness", "name": "Faithfulness"}],
        "equal": compared,
        "own": compared,
        "goals": [{"goal": "by an older rule", "seen": "", "reached": True}],
        "timings_seconds": {"training": 61.0},
        "sentence": "Aligned on pairs.",
    }


@pytest.mark.parametrize(
    ("shift", "style", "mark"),
    [
        ({"mean": 0.1, "low": 0.05, "high": 0.15, "n": 100}, "green", "reached     Faithfulness at least 5 points"),
        ({"mean": 0.1, "low": 0.05, "high": 0.15, "n": 4}, "", "not reached Faithfulness at least 5 points"),
        ({"mean": -0.1, "low": -0.15, "high": -0.05, "n": 100}, "red", "worse       Faithfulness −10.0 points"),
    ],
)
def test_colours_marks_and_losses_agree(
    shift: dict[str, float], style: str, mark: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(tables, "next_commands", lambda *_: [])
    console = Console(record=True, width=200, file=(tmp_path / "log").open("w"))
    tables.show(tmp_path, summary(shift), tmp_path, Recipes(tmp_path, tmp_path, tmp_path), console)
    said = console.export_text()
    assert any(line.startswith(mark) for line in said.splitlines())
    assert "older rule" not in said
    assert [row.style for row in tables.summary_tables(summary(shift))[0].rows] == [style]
