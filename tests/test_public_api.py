"""`import t2ialign` offers the stated names and imports what they need when they are used."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import t2ialign

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "Batch",
    "GenerationConfig",
    "LossOutput",
    "Noiser",
    "Objective",
    "Planned",
    "Prediction",
    "Reward",
    "__version__",
    "generate_images",
    "load_config",
    "load_reward",
    "open_model",
    "plan",
    "train",
]


def test_the_public_names_are_these():
    assert t2ialign.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(t2ialign))


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_public_name_is_there_and_documented(name: str):
    found = getattr(t2ialign, name)
    assert found.__module__.startswith("t2ialign.")
    assert inspect.getdoc(found)
    assert f"`{name}`" in (t2ialign.__doc__ or "")


def test_the_type_checker_sees_the_same_objects_as_the_program():
    tree = ast.parse(Path(t2ialign.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("t2ialign.")
        for alias in node.names
    }
    assert declared == {name: getattr(t2ialign, name) for name in PUBLIC if name != "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = t2ialign.trian  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_no_torch_and_little_else():
    code = (
        "import sys, t2ialign, unigenbench; t2ialign.__version__; "
        "heavy = {'torch', 'diffusers', 'transformers', 'pydantic', 'numpy', 'PIL'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_project_file_and_stands_nowhere_else():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert t2ialign.__version__ == stated[1]
    assert "__version__ =" not in (ROOT / "t2ialign" / "__init__.py").read_text(encoding="utf-8")
