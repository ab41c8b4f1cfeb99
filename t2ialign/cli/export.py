"""`t2ialign export`: LoRAs for other programs, merged pipelines, and models with a negative model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2ialign.cli.options import (
    Backbone,
    Family,
    Loras,
    NegativeAlpha,
    Negatives,
    Precision,
    Unet,
    named_model,
    out,
    parse_backbone,
    parse_negatives,
    with_unet,
)
from t2ialign.config.loras import parse_loras
from t2ialign.errors import InputError

if TYPE_CHECKING:
    from t2ialign.export.source import Source


def export(
    out_dir: Annotated[Path, typer.Option("--out", help="New folder.")],
    run: Annotated[Path | None, typer.Argument(help="Folder of a run; its base and its result are exported.")] = None,
    to: Annotated[
        Literal["diffusers", "kohya", "merged"],
        typer.Option(help="LoRA for diffusers, LoRA for ComfyUI and web UIs, or a whole pipeline for diffusers."),
    ] = "diffusers",
    weights: Annotated[
        Literal["policy", "ema", "best"], typer.Option(help="Of a run: of its last step, their average, or the best.")
    ] = "policy",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Also each of its checkpoints.")] = False,
    model: Annotated[str | None, typer.Option(help="Instead of a run: folder, .safetensors file or hub id.")] = None,
    lora: Loras = None,
    negative: Negatives = None,
    negative_alpha: NegativeAlpha = 1.0,
    family: Family = None,
    backbone: Backbone = None,
    unet: Unet = None,
    precision: Precision = "fp32",
    push_to: Annotated[str | None, typer.Option("--push-to", help="Upload to this repository, OWNER/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that is made is private.")] = False,
) -> None:
    """Write what a run learnt, or a model with LoRAs, in a form that other programs load."""
    if (run is not None and model is not None) or (run is None and model is None and not lora):
        raise InputError("give the folder of a run, or --model with --lora or --negative; one of the two")
    from t2ialign.export.push import check_repository, push
    from t2ialign.runtime import DTYPES

    if push_to is not None:
        check_repository(push_to)
    backbone = with_unet(backbone, unet)
    added = parse_negatives(negative, negative_alpha)
    if added:
        from t2ialign.export.folder import export_guided

        if run is not None:
            raise InputError("--negative: give --model, and the run as --lora")
        named = named_model(model, family, lora, backbone)
        export_guided(
            out_dir,
            named.model,
            added,
            alpha=negative_alpha,
            family=named.family,
            loras=parse_loras(lora),
            precision=precision,
            backbone=parse_backbone(named.backbone),
        )
    else:
        from t2ialign.export.model import export_model

        source = _source(run, weights, checkpoints, model, lora, family, backbone)
        of = run if checkpoints else None
        export_model(out_dir, source, to, dtype=DTYPES[precision], checkpoints_of=of, weights=weights)
    out.print(f"saved {out_dir}; its README.md says how it is loaded")
    if push_to is not None:
        out.print(f"uploaded to {push(out_dir, push_to, private=private)}", soft_wrap=True)


def _source(
    run: Path | None,
    weights: Literal["policy", "ema", "best"],
    checkpoints: bool,
    model: str | None,
    lora: list[str] | None,
    family: str | None,
    backbone: list[str] | None,
) -> Source:
    """What --model and its LoRAs, or a run, stand for.

    Raises:
        InputError: an option has no part in what is exported.
    """
    from t2ialign.export.source import is_unfinished, source_of_model, source_of_run

    if run is None:
        if weights != "policy" or checkpoints:
            raise InputError("--weights and --checkpoints are of a run; give its folder instead of --model")
        named = named_model(model, family, lora, backbone)
        return source_of_model(named.model, parse_loras(lora), named.family, parse_backbone(named.backbone))
    if lora or family or backbone:
        raise InputError(f"{run}: its config says what its base is; leave --lora, --family, --unet and --backbone out")
    return source_of_run(run, weights, finished=not (checkpoints and is_unfinished(run)))
