"""docs/architecture.md describes the rooms that exist, and the walk that a value takes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def layers() -> dict[str, tuple[str, ...]]:
    """LAYERS of tests/test_layers.py."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return ast.literal_eval(node.value)
    raise AssertionError("tests/test_layers.py has no LAYERS")


def section(title: str) -> str:
    """The text below a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"architecture.md has no section {title!r}"
    return found[1]


@pytest.mark.parametrize("package", ["t2ialign", "unigenbench"])
def test_every_room_of_the_layers_is_described(package: str):
    table = section("Layers").split("| unigenbench, lowest first")[package == "unigenbench"]
    described = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    }
    rooms = {name.split(".")[0] for names in layers()[package] for name in names.split()} - {"__main__"}
    assert rooms == described


def test_beta_passes_six_files_on_its_way_to_the_loss():
    walked = re.findall(r"`(t2ialign/[\w/]+\.py)`", section("From `objective.beta` to the loss"))
    assert len(set(walked)) <= 6
    assert all("beta" in (ROOT / path).read_text(encoding="utf-8") for path in walked[-2:])
