"""The `unigenbench` command. Each function calls one library function."""

from __future__ import annotations

import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from unigenbench.cli.console import err, out, print_line
from unigenbench.cli.judge import estimate, judge
from unigenbench.cli.scores import COMMANDS
from unigenbench.errors import BenchError, file_problem

app = typer.Typer(
    help="Evaluate text-to-image models test point by test point, with a multimodal judge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unigenbench {version('t2ialign')}")  # both packages are one distribution
        raise typer.Exit


@app.callback()
def _program(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Holds the options of the program itself."""


@app.command()
def taxonomy(as_json: AsJson = False) -> None:
    """List the dimensions and criteria that images are judged by, with their labels in prompt files."""
    from unigenbench.cli.tables import print_taxonomy
    from unigenbench.taxonomy import as_mapping

    if as_json:
        typer.echo(json.dumps(as_mapping(), ensure_ascii=False, indent=1))
    else:
        print_taxonomy(out)


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
        content = {"checked": found.checked, "problems": [vars(problem) for problem in found.problems]}
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        for problem in found.problems:
            print_line(err, f"{problem.severity}: {problem}")
        for line in found.checked:
            print_line(out, line)
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
        print_line(err, f"warning: {warning}", "yellow")
    print_line(out, f"{written.path} ({written.size / 1e6:.1f} MB)")


app.command()(judge)
app.command()(estimate)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command; an error that the user can act on is one message and its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that is no text, such as bytes that are not UTF-8, is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except BenchError as error:
        print_line(err, f"error: {error}", "red")
        sys.exit(error.exit_code)
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise
        print_line(err, f"error: {problem}", "red")
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
