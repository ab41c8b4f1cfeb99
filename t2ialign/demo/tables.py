"""What a finished demo shows in the terminal: tables, goals, and commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t2ialign.config.reader import read_yaml
from t2ialign.demo.settings import ONLINE, WITH_NEGATIVE, Recipes
from t2ialign.report.comparison import direction, in_points
from t2ialign.report.outcome import outcome
from t2ialign.report.run_folder import TRAINING

STYLES = {"better": "green", "worse": "red", "unclear": ""}
"""Of the rows of measures."""


def show(run_dir: Path, summary: Mapping[str, Any], model: Path, recipes: Recipes, console: Console) -> None:
    """Prints a demo's summary, and what to do next."""
    for table in summary_tables(summary):
        console.print(table, soft_wrap=False)
        console.print()
    found = outcome(summary)
    for goal in found.goals:
        mark = ("reached    ", "green") if goal.reached else ("not reached", "red")
        console.print(Text.assemble(mark, f" {goal.goal}: {goal.seen}"))
    for lost in found.worse:
        console.print(Text.assemble(("worse      ", "red"), f" {lost}"))
    minutes, seconds = divmod(round(sum(summary["timings_seconds"].values())), 60)
    console.print(f"\n{summary['sentence']} It took {minutes} min {seconds} s.", soft_wrap=False)
    for title, line in [
        ("Look at it", str(run_dir / "report.html")),
        *next_commands(run_dir, model, recipes, summary["own"]["guidance"]["aligned"]),
    ]:
        console.print(f"\n{title}", style="bold")
        console.print(f"  {line}")


def summary_tables(summary: Mapping[str, Any]) -> list[Table]:
    """All models at equal guidance, and each at its own: means, and differences in points with 95 % intervals."""
    titles = {"equal": "equal guidance", "own": "each model at its own best guidance"}
    return [
        _table(summary, summary[key], f"{summary[key]['prompts']:,} held-out prompts, {titles[key]}") for key in titles
    ]


def _table(summary: Mapping[str, Any], compared: Mapping[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    models = tuple(compared["models"])
    for name in models:
        table.add_column(f"{name}, {compared['guidance'][name]:g}", justify="right")
    optional = {WITH_NEGATIVE: ("aligned",), ONLINE: ("base", "aligned")}
    shown = ["aligned - base", "aligned - sft"]
    shown += [f"{name} - {other}" for name, others in optional.items() if name in models for other in others]
    for pair in shown:
        table.add_column(f"{pair.replace(' - ', ' − ')}, points", justify="right")
    for entry in summary["measures"]:
        key = entry["key"]
        means = [f"{compared['models'][name][key]:.1%}" if key != "more_to_taste" else "" for name in models]
        shifts = [compared["differences"][pair][key] for pair in shown]
        style = STYLES[direction(shifts[0])]
        table.add_row(entry["name"], *means, *(in_points(shift) for shift in shifts), style=style)
    return table


def next_commands(run_dir: Path, model: Path, recipes: Recipes, guidance: float) -> list[tuple[str, str]]:
    """(what for, command) of what a newcomer may want to do next; each works as it stands."""
    beside = run_dir.parent
    config, _ = read_yaml(run_dir / TRAINING / "config.yaml")
    paths = (run_dir / TRAINING, config["data"]["path"], beside / "drawn", beside / "mine", model, recipes.aligned)
    run, pairs, drawn, mine, base, recipe = (shlex.quote(str(path)) for path in paths)
    family = config["backbone"]["name"]
    return [
        (
            "Draw a prompt of your own with the aligned model",
            f"t2ialign generate --model {base} --lora {run} --guidance {guidance:g} "
            f'--prompt "a red circle above a blue square" --out {drawn}',
        ),
        ("Look at the pairs it learnt from", f"t2ialign data inspect {pairs}"),
        (
            "Train again, with a change (every key: t2ialign keys)",
            f"t2ialign train {recipe} backbone.name={family} backbone.pretrained={base} data.path={pairs} "
            f"run_dir={mine} objective.beta=500",
        ),
    ]
