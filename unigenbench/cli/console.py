"""Where the commands print. What they print is data: paths and prompts with [brackets] or :names: stay as they are."""

from __future__ import annotations

from rich.console import Console

out = Console(markup=False, emoji=False, highlight=False)
err = Console(markup=False, emoji=False, highlight=False, stderr=True)


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """A line that is wrapped by the terminal alone, so that it can be copied whole."""
    console.print(text, style=style, soft_wrap=True)
