"""Numbers, counts and tables as text for readers."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def with_minus(number: str) -> str:
    """A written number with minus signs instead of hyphens, and without a sign where it is 0."""
    return number.lstrip("+-") if not number.strip("+-0.") else number.replace("-", "−")


def plural(count: int, noun: str) -> str:
    """For example "1 prompt", "1,200 prompts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_table(console: Console, table: Table) -> None:
    """Prints a table as wide as it is: figures are never cut, whatever the terminal's width."""
    width = Measurement.get(console, console.options.update(width=1000), table).maximum
    wide = Console(
        file=console.file,
        width=max(console.width, width),
        force_terminal=console.is_terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )
    wide.print(table, crop=False)
