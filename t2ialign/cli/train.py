"""`t2ialign train`, `keys` and `accuracy`: runs, what can be set for them, and what they learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from t2ialign.cli.options import Backbone, BatchSize, Family, Model, Precision, Resolution, Seed, open_model, out
from t2ialign.progress import plain_console


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; see configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=100.")] = None,
) -> None:
    """Start a run, or go on with it: the same command continues from the newest checkpoint."""
    from t2ialign.config.reader import load

    settings = load(config, overrides or [])
    from t2ialign.training.train import train as start

    result = start(settings, console=plain_console(stderr=True))
    out.print(f"saved {result}")


def keys(only: Annotated[str, typer.Argument(help="Keys that contain this text.")] = "") -> None:
    """List every config key with its type, default and meaning."""
    from t2ialign.config.reader import keys as all_keys

    for key, kind, default, text in all_keys():
        if only in key:
            out.print(Text.assemble((key, "bold"), f"  {kind}{f', default {default}' if default else ''}"))
            out.print(f"    {text}")


def accuracy(
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs: a table or folder.")],
    model: Model,
    lora: Annotated[list[str], typer.Option("--lora", help="LoRA or run folder, with :scale if not 1. Repeatable.")],
    texts: Annotated[bool, typer.Option("--texts", help="Pairs of prompts of one image.")] = False,
    family: Family = None,
    backbone: Backbone = None,
    max_pairs: Annotated[int, typer.Option(min=2, help="Pairs asked about, drawn by the seed.")] = 500,
    draws: Annotated[
        int, typer.Option(min=1, help="Samples of timestep and noise for each pair, fixed by the seed.")
    ] = 10,
    seed: Seed = 0,
    resolution: Resolution = None,
    batch: BatchSize = 4,
    precision: Precision = "fp32",
) -> None:
    """Say how often a LoRA orders held-out pairs as their labels do, against the model without it."""
    from t2ialign.config.reader import validated
    from t2ialign.training.pair_accuracy import describe, measure_pairs

    name = "text_pairs" if texts else "pairs"
    section = validated("data", {"name": name, "path": pairs, "resolution": resolution})
    policy, mixture = open_model(model, family, lora, precision, backbone)
    found = measure_pairs(policy, mixture, section, max_pairs=max_pairs, draws=draws, seed=seed, batch=batch)
    out.print(describe(found))
