"""What a type checker sees of a config."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPET = """
from t2ialign.config.reader import load

config = load("x.yaml")
config.objective.passes(2).total
config.noiser.check(1000)
config.data.prompt_dropout
config.backbone.pretrained
config.objective.no_such_attribute
config.data.no_such_attribute
config.no_such_section
"""


@pytest.mark.slow
def test_a_misspelt_attribute_of_a_component_is_an_error_of_the_type_checker(tmp_path: Path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    assert pyright is not None
    done = subprocess.run(
        [pyright, "--outputjson", "--pythonpath", sys.executable, "snippet.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one["range"]["start"]["line"] for one in found if one["severity"] == "error"]
    assert errors == [8, 9, 10], done.stdout
