"""The hosted workflow, the hooks and the top of the repository are as CONTRIBUTING.md says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def content(path: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_runs_targets_that_exist():
    called: set[str] = set()
    for job in content(".github/workflows/ci.yml")["jobs"].values():
        matrix = job["strategy"]["matrix"].get("target", [])
        for step in job["steps"]:
            called |= set(re.findall(r"^make ([\w-]+)$", step.get("run", "")))
            called |= set(matrix) if step.get("run", "").startswith("make ${{") else set()
    assert called == {"test", "test-slow", "test-browser", "demo"}
    assert called <= TARGETS


def test_the_files_that_make_names_exist():
    named = re.findall(r"[\w./-]+\.(?:py|sh)\b", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_make_targets_that_pages_name_exist():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for line in _commands(page):
            named = {word for word in line.split()[1:] if "=" not in word}
            assert named <= TARGETS, f"{page.name}: {line}"


def _commands(page: Path) -> list[str]:
    """Lines of a page's shell blocks and its code spans that begin with make, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.split("#")[0] for line in [*lines, *spans] if line.startswith("make ")]


def test_the_hooks_run_tools_of_the_environment():
    hooks = [hook for repo in content(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "pyright"}
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_no_new_folder_lies_at_the_top_of_the_repository():
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    folders = {path.split("/")[0] for path in listed.splitlines() if "/" in path}
    assert folders == {".ci", ".github", "assets", "configs", "docs", "scripts", "t2ialign", "tests", "unigenbench"}
