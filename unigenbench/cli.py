"""The `unigenbench` command. Each function calls one library function."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Evaluate text-to-image models test point by test point, with a multimodal judge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()


@app.callback()
def _commands() -> None:
    """Keeps `taxonomy` a command of its own while it is the only one."""


@app.command()
def taxonomy() -> None:
    """List the dimensions and criteria that images are judged by."""
    from unigenbench.taxonomy import CRITERIA, DIMENSIONS

    table = Table("dimension", "criterion", "meaning", box=None)
    for dimension in DIMENSIONS:
        for place, criterion in enumerate(dimension.criteria):
            table.add_row(dimension.name if place == 0 else "", criterion.id, criterion.meaning)
    out.print(table)
    out.print(f"{len(DIMENSIONS)} dimensions, {len(CRITERIA)} criteria", highlight=False)


def main() -> None:
    """Runs the command."""
    app()


if __name__ == "__main__":
    main()
