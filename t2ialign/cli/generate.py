"""`t2ialign generate`: a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from t2ialign.cli.options import (
    Backbone,
    BatchSize,
    Family,
    GuidanceScale,
    Loras,
    Model,
    NegativeAlpha,
    Negatives,
    Precision,
    Resolution,
    Seed,
    Steps,
    Unet,
    describe_model,
    named_model,
    open_guided_model,
    out,
    with_unet,
)
from t2ialign.errors import InputError


def generate(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and generation.json.")],
    model: Model = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, a CSV or JSONL with a prompt column, a UniGenBench file, or suite_en."),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Part of a UniGenBench file: testmini60, testmini120.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt. Repeatable.")] = None,
    lora: Loras = None,
    negative: Negatives = None,
    negative_alpha: NegativeAlpha = 1.0,
    family: Family = None,
    backbone: Backbone = None,
    unet: Unet = None,
    images_per_prompt: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    seed_policy: Annotated[
        Literal["keyed", "official", "per_prompt"],
        typer.Option(help="keyed; official: --seed + image; per_prompt: --seed + 10000 image + index."),
    ] = "keyed",
    rank: Annotated[int, typer.Option(min=0, help="Which of --world processes that share the folder.")] = 0,
    world: Annotated[int, typer.Option(min=1, help="How many processes share the folder.")] = 1,
    guidance: GuidanceScale = 5.0,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What guidance leads away from, for all images; needs --guidance above 1.")
    ] = None,
    scheduler: Annotated[
        Literal["ddim", "euler", "dpm++"], typer.Option(help="Takes the steps; euler and dpm++ are diffusers' own.")
    ] = "ddim",
    steps: Steps = 30,
    resolution: Resolution = None,
    width: Annotated[int | None, typer.Option(min=8, help="In px; default: --resolution.")] = None,
    height: Annotated[int | None, typer.Option(min=8, help="In px; default: --resolution.")] = None,
    batch: BatchSize = 4,
    precision: Precision = "fp32",
) -> None:
    """Make a folder of images; the same command goes on after a stop."""
    if (prompts is None) == (not prompt):
        raise InputError("give either --prompts FILE or --prompt TEXT")
    if subset is not None and prompts is None:
        raise InputError(f"--subset {subset}: is a part of --prompts FILE; name the file")
    if negative_prompt is not None and guidance == 1:
        raise InputError(
            "--guidance 1 makes no unconditional pass, so that --negative-prompt has no part in it; give more"
        )
    if rank >= world:
        raise InputError(f"--rank {rank}: is one of 0 to {world - 1}, as --world is {world}")
    from t2ialign.config.generation import GenerationConfig
    from t2ialign.data.kinds.prompts import PromptList, read_prompt_list
    from t2ialign.generation.folder import generate_folder

    model, family, backbone = named_model(model, family, lora, with_unet(backbone, unet))
    texts = list(prompt or [])
    wanted = PromptList(texts, list(range(len(texts))), "") if prompts is None else read_prompt_list(prompts, subset)
    policy, mixture, uncond = open_guided_model(
        model, family, lora, precision, backbone, negatives=negative, alpha=negative_alpha, guidance=guidance
    )
    made = generate_folder(
        policy,
        wanted.prompts,
        out_dir,
        GenerationConfig(
            images_per_prompt=images_per_prompt,
            seed=seed,
            seed_policy=seed_policy,
            guidance_scale=guidance,
            negative_prompt=negative_prompt,
            scheduler=scheduler,
            inference_steps=steps,
            resolution=resolution,
            width=width,
            height=height,
            batch=batch,
        ),
        weights=mixture,
        negative=uncond,
        description={
            **describe_model(model, lora, precision, backbone, negative, negative_alpha),
            "prompts_sha256": wanted.sha256,
        },
        indices=wanted.indices,
        shard=(rank, world),
    )
    out.print(f"{len(made.paths[rank::world])} images in {out_dir}{f', share {rank} of {world}' if world > 1 else ''}")
