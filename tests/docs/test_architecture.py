"""docs/architecture.md describes the rooms that exist, and the walk that a value takes."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from toys import pair_folder, write_config

from t2ialign import load_config
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.train import open_run

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


def test_a_row_passes_the_stated_files_on_its_way_to_the_latent(tmp_path: Path, sd15_folder: Path):
    text = section("From a row of a table to the latent in a step")
    steps = re.findall(r"^\d+\. `(t2ialign/[\w/]+\.py)`", text, re.MULTILINE)
    assert len(steps) <= 9
    assert len(set(re.findall(r"\*([A-Z]\w+)\*", text))) <= 6
    pairs = pair_folder(tmp_path / "pairs", 4)
    config = load_config(write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run"))
    ran: set[str] = set()
    with functions_that_run(ROOT / "t2ialign" / "data", ran):
        run = open_run(config, SingleProcess())
        assert isinstance(run.loop, OfflineLoop)
        batch = next(iter(run.loop.batches(run.core)))
    assert batch.latents.shape[:2] == (2, 2)
    named = set(re.findall(r"`(t2ialign/data/[\w/]+\.py)`", text))
    assert ran == named


@contextmanager
def functions_that_run(folder: Path, ran: set[str]) -> Iterator[None]:
    """Adds the files of a folder whose functions are called, in any thread, relative to the repository."""

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        path = frame.f_code.co_filename
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # neither a module nor the body of a class
        if event == "call" and is_function and path.startswith(str(folder)):
            ran.add(Path(path).relative_to(ROOT).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
