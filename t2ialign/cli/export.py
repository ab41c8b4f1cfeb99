"""`t2ialign export`: a model with a negative model, for plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ialign.cli.options import (
    Backbone,
    Family,
    Loras,
    Model,
    NegativeAlpha,
    Negatives,
    Precision,
    out,
    parse_backbone,
)
from t2ialign.config.loras import parse_loras
from t2ialign.errors import InputError


def export(
    model: Model,
    out_dir: Annotated[Path, typer.Option("--out", help="New folder.")],
    negative: Negatives = None,
    negative_alpha: NegativeAlpha = 1.0,
    lora: Loras = None,
    family: Family = None,
    backbone: Backbone = None,
    precision: Precision = "fp32",
) -> None:
    """Write a model with a negative model as a folder that diffusers loads without this program."""
    if not negative:
        raise InputError(
            "give --negative; a model with LoRAs alone needs no export, diffusers' load_lora_weights takes them"
        )
    from t2ialign.export.folder import export_guided

    folder = export_guided(
        out_dir,
        model,
        parse_loras(negative, "--negative"),
        alpha=negative_alpha,
        family=family,
        loras=parse_loras(lora),
        precision=precision,
        backbone=parse_backbone(backbone),
    )
    out.print(f"saved {folder}; its README.md says how it is loaded")
