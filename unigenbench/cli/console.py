"""Where the commands print. What they print is data: paths and prompts with [brackets] or :names: stay as they are."""

from __future__ import annotations

from rich.console import Console

out = Console(markup=False, emoji=False, highlight=False)
err = Console(markup=False, emoji=False, highlight=False, stderr=True)


def wide(console: Console, width: int) -> Console:
    """The same with at least so many columns, for tables whose figures must not be cut."""
    return Console(
        file=console.file,
        width=max(console.width, width),
        force_terminal=console.is_terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """A line that is wrapped by the terminal alone, so that it can be copied whole."""
    console.print(text, style=style, soft_wrap=True)
