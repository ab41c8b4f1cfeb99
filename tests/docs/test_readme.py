"""What the README names exists; tests/docs/test_commands.py runs its commands."""

import re
import shlex
from pathlib import Path

import typer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(enumerate(re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)))


def commands() -> list[str]:
    """The lines of all shell blocks, comments removed."""
    text = "\n".join(block for language, block in BLOCKS.values() if language == "bash")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def test_every_make_target_and_link_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        if command.startswith("make "):
            target = shlex.split(command)[1]
            assert f"\n{target}:" in makefile, f"the Makefile has no target {target}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), f"the README links to {link}, which does not exist"


def named(app: typer.Typer) -> set[str | None]:
    """Names of an app's commands."""
    return {command.name or getattr(command.callback, "__name__", None) for command in app.registered_commands}


def test_every_command_named_in_the_readme_exists():
    from t2ialign.cli.main import app

    groups = {group.name: named(group.typer_instance) for group in app.registered_groups}
    for first, second in re.findall(r"`?t2ialign (\w+)(?: (\w+))?", README):
        assert first in named(app) | set(groups), f"t2ialign {first}"
        if first in groups:
            assert second in groups[first], f"t2ialign {first} {second}"
