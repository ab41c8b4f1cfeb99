"""`t2ialign train`, `keys` and `accuracy`: runs, what can be set for them, and what they learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from t2ialign.cli.options import (
    Backbone,
    BatchSize,
    Family,
    Model,
    Precision,
    Resolution,
    Seed,
    Unet,
    named_model,
    open_model,
    out,
    with_unet,
)
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


def plan(
    config: Annotated[Path, typer.Argument(help="A YAML file; see configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=100.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Load the weights and time two steps.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes that the run would have.")] = 1,
) -> None:
    """Say what a run would take, and how its recipe differs from the shipped one; writes nothing."""
    from t2ialign.config.reader import load

    settings = load(config, overrides or [])
    from t2ialign.training.plan import plan as find

    out.print("\n".join(find(settings, world_size=processes, with_probe=probe).lines()))


def keys(
    words: Annotated[
        list[str] | None, typer.Argument(help="Names, words of a meaning, or what another trainer calls a key.")
    ] = None,
) -> None:
    """List config keys with what they may be, their default, meaning and an example; with words those that fit."""
    from t2ialign.config.keys import find_keys

    for key in find_keys(words or []):
        out.print(Text.assemble((key.name, "bold"), f"  of {key.owner}" if key.owner else ""))
        default = f"; default {key.default}" if key.default else ""
        out.print(Text(f"    {key.values}{default if key.default != 'required' else '; required'}"))
        out.print(Text(f"    {key.meaning}"))
        if key.example:
            out.print(Text(f"    example: {key.example}"))


def accuracy(
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs: a table or folder.")],
    lora: Annotated[list[str], typer.Option("--lora", help="LoRA or run folder, with :scale if not 1. Repeatable.")],
    model: Model = None,
    texts: Annotated[bool, typer.Option("--texts", help="Pairs of prompts of one image.")] = False,
    family: Family = None,
    backbone: Backbone = None,
    unet: Unet = None,
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
    model, family, backbone = named_model(model, family, lora, with_unet(backbone, unet))
    policy, mixture = open_model(model, family, lora, precision, backbone)
    base = open_model(model, family, None, precision, backbone)[0] if policy.backbone.text_loras else None
    found = measure_pairs(policy, mixture, section, max_pairs=max_pairs, draws=draws, seed=seed, batch=batch, base=base)
    out.print(describe(found))
