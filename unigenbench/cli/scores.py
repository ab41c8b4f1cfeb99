"""The commands that read finished judgements: score, compare, agree, leaderboard, import-official, export-official."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unigenbench.cli.console import err, out, print_line

Run = Annotated[Path, typer.Argument(help="Run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Bootstrap = Annotated[int, typer.Option(min=1, help="Samples of prompts behind each interval.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all resampling.")]
By = Annotated[
    list[str] | None,
    typer.Option(help="Also by themes, subthemes, subjects, structures, testpoint_counts or lengths. Repeatable."),
]


def _json(content: Any) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False, indent=1))


def score(
    run: Run,
    missing: Annotated[
        Literal["exclude", "zero", "error"], typer.Option(help="What an image without a verdict counts as.")
    ] = "exclude",
    compat: Annotated[
        Literal["native", "official"], typer.Option(help="Whose counting rules; both pool test points.")
    ] = "native",
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Work out the scores of a run anew, with intervals and coverage, and write them to its summary.json."""
    from unigenbench.cli.tables import print_summary, print_warnings
    from unigenbench.scoring.scores import score_run

    summary = score_run(run, missing=missing, compat=compat, bootstrap=bootstrap, seed=seed)
    if as_json:
        _json(summary)
        return
    print_summary(out, summary, by or ())
    print_warnings(err, summary["warnings"])


def compare(
    run_a: Annotated[Path, typer.Argument(help="Run folder to compare with, for example of the base model.")],
    run_b: Annotated[Path, typer.Argument(help="Run folder that is compared, for example of the aligned model.")],
    permutations: Annotated[int, typer.Option(min=1, help="Exchanges of the runs behind each p-value.")] = 10_000,
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Share of replies that may have failed.")] = 0.1,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Accept that the runs differ in prompts, rubric, judge or images. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the prompts that both runs judged: differences, intervals, p-values."""
    from unigenbench.cli.tables import print_comparison, print_warnings
    from unigenbench.runs.store import open_log
    from unigenbench.scoring.compare import compare as compare_runs

    found = compare_runs(
        open_log(run_a),
        open_log(run_b),
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
        max_failed=max_failed,
        allow=allow or (),
    )
    if as_json:
        _json(found)
        return
    print_comparison(out, found)
    print_warnings(err, found["warnings"])


def agree(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of the same images, judged by different judges.")],
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    correct: Annotated[
        bool, typer.Option("--correct", help="Also correct the first run's scores by the second's, a better judge's.")
    ] = False,
    rank: Annotated[
        bool, typer.Option("--rank", help="Instead: do two judges put several models in the same order?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how far judges agree on the same images."""
    from unigenbench.cli import tables
    from unigenbench.runs.store import open_log
    from unigenbench.scoring.agree import agree as agree_runs
    from unigenbench.scoring.agree import corrected, rank_agreement

    logs = [open_log(run) for run in runs]
    if rank:
        found = rank_agreement(logs)
        _json(found) if as_json else tables.print_ranks(out, found)
        return
    found = agree_runs(logs, bootstrap=bootstrap, seed=seed)
    if correct:
        found["corrected"] = corrected(*logs[:2], bootstrap=bootstrap, seed=seed)
    if as_json:
        _json(found)
        return
    tables.print_agreement(out, found)
    if correct:
        tables.print_corrected(out, found["corrected"])


def leaderboard(
    category: Annotated[
        str | None, typer.Option(help="en, en_long, zh, zh_long, or en_2025_09: the first board.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--with", help="Run folder to set beside it, if that is fair; else exit code 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the published scores, and where a run would stand among them."""
    from unigenbench.cli.tables import print_board
    from unigenbench.runs.store import open_log
    from unigenbench.scoring.leaderboard import read_board, standing
    from unigenbench.scoring.scores import summarise

    log = open_log(run) if run else None
    found = standing(category, log, summarise(log) if log else None)
    if as_json:
        rows = [row._asdict() for row in found.rows]
        own = found.own._asdict() if found.own else None
        _json({**found._asdict(), "rows": rows, "own": own, "attribution": read_board().attribution})
    else:
        print_board(out, found)
    if found.reasons:
        raise typer.Exit(1)


def import_official(
    results: Annotated[Path, typer.Argument(help="CSV of the official script.")],
    data: Annotated[str, typer.Option("--data", help="Prompt file (CSV) that it was made with.")],
    run: Annotated[Path, typer.Option("--run", help="New run folder.")],
    judge: Annotated[str, typer.Option("--judge", help="Who judged, for example gemini-2.5-pro.")],
    images: Annotated[Path | None, typer.Option(help="Where the images are now, if not where the CSV says.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run folder from results of the official script."""
    from unigenbench.prompts import read_prompts
    from unigenbench.scoring import official

    command = shlex.join(sys.argv)
    log = official.import_official(results, read_prompts(data), run, judge=judge, images=images, command=command)
    read = sum(judgement.status == "ok" for judgement in log.judgements)
    if as_json:
        _json({"run": str(run), "images": len(log.judgements), "with_verdicts": read})
        return
    print_line(out, f"{run}: {len(log.judgements)} images, {read} with verdicts")


def export_official(
    run: Run,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder; default: 'official' in the run folder.")] = None,
    model: Annotated[str | None, typer.Option(help="First part of the names; default: the images' folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the CSV and the JSON that the official script would have written."""
    from unigenbench.runs.store import open_log
    from unigenbench.scoring import official

    made = official.export_official(open_log(run), folder, model=model)
    if as_json:
        _json({"csv": str(made.csv), "json": str(made.json), "rows": made.rows, "failed": made.failed})
        return
    for path in made[:2]:
        print_line(out, str(path))
    print_line(out, f"{made.rows} images, {made.failed} without a result")


COMMANDS = (score, compare, agree, leaderboard, import_official, export_official)
