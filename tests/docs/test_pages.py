"""What the documentation pages point at exists: links, files, commands, options."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.core import TyperGroup

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
PAGES += sorted((ROOT / "scripts").rglob("README.md"))
FOLDERS = ("assets", "configs", "docs", "scripts", "t2ialign", "tests", "unigenbench")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
COMMAND = re.compile(r"(?<![\w/.-])(t2ialign|unigenbench) ([a-z][a-z-]+)(?: ([a-z]+))?(?![\w/.-])")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(page: Path) -> list[str]:
    """Code blocks other than Python, with continued lines joined, and code spans of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?!python)\w*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)
    return [block.replace("\\\n", " ") for block in blocks] + re.findall(r"`([^`]+)`", rest)


@cache
def program(package: str) -> TyperGroup:
    """The command line of a package."""
    found = typer.main.get_command(import_module(f"{package}.cli.main").app)
    assert isinstance(found, TyperGroup)
    return found


def command(package: str, first: str, second: str) -> Any:
    """The command, or None if there is none of that name; `second` counts for groups only."""
    found = program(package).commands.get(first)
    return found.commands.get(second) if isinstance(found, TyperGroup) else found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_names_exists(page: Path):
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        if not re.search(r"[A-Z]{3}|STAGE|NAME", Path(path).name.removesuffix(".md")):
            assert (ROOT / path).exists(), f"{name(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_a_page_names_exists(page: Path):
    for words in {found for text in code(page) for found in COMMAND.findall(text)}:
        assert command(*words), f"{name(page)}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_in_a_command_exists(page: Path):
    for line in (line for text in code(page) for line in text.splitlines()):
        words = COMMAND.match(line)
        if words is None:
            continue
        found = command(words[1], words[2], words[3] or "")
        assert found, f"{name(page)}: {line}"
        known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", line.split("#")[0]):
            assert option in known, f"{name(page)}: {option} in: {line}"


def test_every_page_is_in_the_navigation_and_in_the_index():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = str(yaml.safe_load(text)["nav"])
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        place = page.relative_to(ROOT / "docs").as_posix()
        assert f"'{place}'" in nav, f"{place} is not in the nav of mkdocs.yml"
        assert place == "index.md" or f"]({place})" in index, f"docs/index.md does not link to {place}"


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (64, 64), "white")
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "train(" not in block:
            exec(compile(block, name(page), "exec"), {"image": image, "rng": np.random.default_rng(0)})
