"""`t2ialign compare`: two folders of images side by side, as tables of papers have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2ialign.cli.options import Rewards, Seed, finite, out
from t2ialign.progress import plain_console
from unigenbench.formatting import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from t2ialign.feedback.comparing import FolderComparison


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Images with generation.json, as of the base model.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Images of the same prompts and seeds.")],
    reward: Rewards,
    seed: Seed = 0,
    max_failed: Annotated[
        float,
        typer.Option(
            "--max-failed", min=0, max=1, callback=finite, help="Share of the pairs of images without a score."
        ),
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    page: Annotated[Path | None, typer.Option("--out", help="Also write an HTML page with the images.")] = None,
) -> None:
    """Compare two folders of images by rewards: means and win rates on equal prompts and seeds, intervals, p-values."""
    from t2ialign.feedback.comparing import compare_folders
    from t2ialign.rewards.registry import parse_reward

    rewards = [config.load() for config in map(parse_reward, reward)]
    found = compare_folders(first, second, rewards, seed=seed, max_failed=max_failed)
    if as_json:
        typer.echo(json.dumps(found.as_mapping(), ensure_ascii=False, indent=1))
    else:
        _show(found)
    if page is not None:
        from t2ialign.report.folders import write_comparison

        plain_console(stderr=as_json).print(f"page in {write_comparison(found, page)}")


def _show(found: FolderComparison) -> None:
    content = found.as_mapping()
    for name in ("a", "b"):
        out.print(f"{name.upper()}  {content[name]}")
    out.print(f"{content['images']} pairs of images, {content['prompts']} prompts, matched by {content['matched_by']}")
    if content["settings"]:
        out.print(f"made with other {', '.join(content['settings'])}")
    print_table(out, comparison_table(found))
    out.print("intervals: 95 %, bootstrap over prompts; p: A and B exchanged prompt by prompt; ties count half")
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow")


def comparison_table(found: FolderComparison) -> Table:
    """A row a reward."""
    from rich.table import Table

    from t2ialign.report.folders import table_heads, table_rows

    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(table_heads(found)):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in table_rows(found):
        table.add_row(*row)
    return table
