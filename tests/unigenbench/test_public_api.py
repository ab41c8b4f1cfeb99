"""`import unigenbench` offers the stated names and imports what they need when they are used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import t2ialign
import unigenbench

NAMES = [
    "BenchError",
    "Judge",
    "JudgeConfig",
    "JudgeReply",
    "JudgeRequest",
    "Judgement",
    "Point",
    "Prompt",
    "PromptSet",
    "RunLog",
    "agree",
    "compare",
    "judge_folder",
    "open_judge",
    "open_log",
    "parse_reply",
    "read_prompts",
    "select_prompts",
    "summarise",
    "write_report",
]


def test_the_public_names_are_these():
    assert sorted(unigenbench.__all__) == sorted([*NAMES, "__version__"])
    assert set(unigenbench.__all__) <= set(dir(unigenbench))
    assert unigenbench.__version__ == t2ialign.__version__


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str):
    found = getattr(unigenbench, name)
    assert found.__module__.startswith("unigenbench.")
    assert inspect.getdoc(found)
    assert f"`{name}`" in (unigenbench.__doc__ or "")


def test_the_type_checker_is_declared_of_the_same_objects():
    tree = ast.parse(Path(unigenbench.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == {name: getattr(unigenbench, name) for name in NAMES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sumarise'"):
        _ = unigenbench.sumarise  # pyright: ignore[reportAttributeAccessIssue]


def test_the_module_runs_the_command_with_little_imported():
    ran = subprocess.run([sys.executable, "-m", "unigenbench", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "leaderboard" in ran.stdout
    code = "import sys, unigenbench; print({'numpy', 'PIL', 'openai', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
