"""`t2ialign demo` and `report`: what was measured, shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ialign.cli.options import NegativeAlpha, Negatives, Seed, out, parse_negatives


def demo(
    run_dir: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("runs/demo"),
    prompts: Annotated[int, typer.Option(min=10, help="Held-out prompts that are measured.")] = 1000,
    seed: Seed = 0,
    negative: Negatives = None,
    negative_alpha: NegativeAlpha = 1.0,
    online: Annotated[
        bool, typer.Option("--online", help="Also train a model from rewards of its own images.")
    ] = False,
) -> None:
    """Align the embedded model on this machine, offline, and measure the gain with an exact verifier."""
    added = parse_negatives(negative, negative_alpha)
    from t2ialign.demo.pipeline import run_demo
    from t2ialign.demo.settings import Settings

    run_demo(run_dir, settings=Settings(prompts, seed, negative=added, negative_alpha=negative_alpha, online=online))


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folder of a training run or of a demo; several are compared."),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The page; default: RUN/report.html, of several comparison.html beside the first."),
    ] = None,
) -> None:
    """Write one HTML page of what a run did and measured, or of several training runs over each other."""
    from t2ialign.report.page import write_report
    from t2ialign.report.runs import write_runs

    page = write_report(runs[0], out_file) if len(runs) == 1 else write_runs(runs, out_file)
    out.print(f"report in {page}")
