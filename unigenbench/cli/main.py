"""The `unigenbench` command. Each function calls one library function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unigenbench.cli.judge import estimate, judge
from unigenbench.cli.scores import COMMANDS
from unigenbench.errors import BenchError, file_problem

app = typer.Typer(
    help="Evaluate text-to-image models test point by test point, with a multimodal judge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback()
def _commands() -> None:
    """Keeps `taxonomy` a command of its own while it is the only one."""


@app.command()
def taxonomy(as_json: AsJson = False) -> None:
    """List the dimensions and criteria that images are judged by."""
    from unigenbench.taxonomy import CRITERIA, DIMENSIONS, as_mapping

    if as_json:
        typer.echo(json.dumps(as_mapping(), ensure_ascii=False, indent=1))
        return
    table = Table("dimension", "criterion", "meaning", box=None)
    for dimension in DIMENSIONS:
        for place, criterion in enumerate(dimension.criteria):
            table.add_row(dimension.name if place == 0 else "", criterion.id, criterion.meaning)
    out.print(table)
    out.print(f"{len(DIMENSIONS)} dimensions, {len(CRITERIA)} criteria", highlight=False)


@app.command()
def validate(
    data: Annotated[Path | None, typer.Option(help="Prompt file, folder of them, or name of a shipped one.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images of those prompts.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    images_per_prompt: Annotated[int, typer.Option(min=1)] = 4,
    pattern: Annotated[str, typer.Option(help="Names of the images, from {index} and {image}.")] = "{index}_{image}",
    strict: Annotated[bool, typer.Option("--strict", help="Mend nothing, and end with 1 on a warning.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check prompt files, folders of images and run folders; ends with 2 where something cannot be used."""
    from unigenbench.judging.validate import validate as check

    found = check(data, images, run, images_per_prompt=images_per_prompt, pattern=pattern, strict=strict)
    if as_json:
        content = {"looked_at": found.looked_at, "problems": [vars(problem) for problem in found.problems]}
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        for problem in found.problems:
            err.print(f"{problem.severity}: {problem}", markup=False, highlight=False, soft_wrap=True)
        for line in found.looked_at:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(found.exit_code(strict=strict))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or two to four to compare with the first.")],
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    thumbs: Annotated[int | None, typer.Option(min=16, help="Show WebP thumbnails, longest side in px.")] = None,
    embed_images: Annotated[bool, typer.Option("--embed-images", help="Carry the images inside the file.")] = False,
) -> None:
    """Write one HTML file with scores, intervals and a gallery; it opens without a network."""
    from unigenbench.report import write_report

    written = write_report(runs, out_file, thumbs=thumbs, embed=embed_images)
    for warning in written.warnings:
        err.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{written.path} ({written.size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)


app.command()(judge)
app.command()(estimate)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command; an error that the user can act on is one message and its exit code."""
    try:
        app(standalone_mode=True)
    except BenchError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise
        err.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
