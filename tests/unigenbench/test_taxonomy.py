"""The taxonomy against the counts of the paper and the labels of the official prompt file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unigenbench.cli import app
from unigenbench.taxonomy import CRITERIA, DIMENSIONS

OFFICIAL = Path(__file__).parents[2] / "../shared/unigenbench"


def test_there_are_10_dimensions_and_27_criteria():
    assert len(DIMENSIONS) == 10
    # Attribute 6, Action 6, Relationship 4, Grammar 3, Compound 2, Layout 2, and four that stand alone
    assert [len(dimension.criteria) for dimension in DIMENSIONS] == [1, 1, 6, 6, 4, 1, 3, 2, 2, 1]
    assert len(CRITERIA) == 27
    for key in ("id", "name", "name_zh", "meaning"):
        assert len({getattr(criterion, key) for criterion in CRITERIA}) == 27


@pytest.mark.parametrize(("key", "separator"), [("name", " - "), ("name_zh", "-")])
def test_a_label_begins_with_its_dimension(key, separator):
    for dimension in DIMENSIONS:
        for criterion in dimension.criteria:
            assert getattr(criterion, key).split(separator, 1)[0] == getattr(dimension, key)
            assert criterion.id.split(".")[0] == dimension.id


@pytest.mark.parametrize(("language", "field", "key"), [("en", "Testpoints", "name"), ("zh", "考点", "name_zh")])
def test_the_labels_are_those_of_the_official_prompts(language, field, key):
    path = OFFICIAL / f"test_prompts_{language}.csv"
    if not path.is_file():
        pytest.skip(f"the official prompt file {path.name} is not beside the project")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [json.loads(row[f"sub_dims_{language}"]) for row in csv.DictReader(file)]
    seen = {label for row in rows for label in row[field]}
    assert seen == {getattr(criterion, key) for criterion in CRITERIA}


def test_the_command_lists_them_all():
    result = CliRunner().invoke(app, ["taxonomy"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for criterion in CRITERIA:
        assert criterion.id in result.output
    assert "10 dimensions, 27 criteria" in result.output


def test_the_package_needs_neither_torch_nor_t2ialign():
    code = (
        "import sys\nfor name in ('torch', 't2ialign', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        "import unigenbench, unigenbench.taxonomy, unigenbench.cli\nsys.argv = ['unigenbench', 'taxonomy']\n"
        "unigenbench.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "27 criteria" in done.stdout
