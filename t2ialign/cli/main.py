"""The `t2ialign` command: registers the commands of this room and ends with the exit code of what went wrong.

Each command calls one library function and imports it inside, so that --help needs no torch.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from t2ialign.cli import data, rewards
from t2ialign.cli.compare import compare
from t2ialign.cli.doctor import doctor
from t2ialign.cli.export import export
from t2ialign.cli.generate import generate
from t2ialign.cli.report import demo, report
from t2ialign.cli.rewards import score
from t2ialign.cli.train import accuracy, keys, plan, train
from t2ialign.errors import Stopped, UserError
from t2ialign.progress import plain_console
from unigenbench.errors import file_problem

app = typer.Typer(
    help="Align text-to-image diffusion models with preferences, and measure that it worked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"t2ialign {version('t2ialign')}")
        raise typer.Exit


@app.callback()
def _program(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Holds the options of the program itself."""


for command in (demo, plan, train, generate, export, score, compare, accuracy, report, doctor, keys):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(rewards.app, name="reward")


def _stop(_number: int, _frame: object) -> None:
    raise Stopped


def main() -> None:
    """Runs the command; an error that the user can act on is one message and its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGINT, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text in any encoding
    err = plain_console(stderr=True)
    try:
        app(standalone_mode=True)
    except UserError as error:
        err.print(f"error: {error}", style="red")
        sys.exit(error.exit_code)
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise
        err.print(f"error: {problem}", style="red")
        sys.exit(problem.exit_code)
    except Stopped:
        err.print("stopped; the same command goes on from what is saved")
        sys.exit(130)


if __name__ == "__main__":
    main()
