"""`t2ialign data`: look at preference data, build it, or label it anew."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2ialign.cli.options import (
    Backbone,
    BatchSize,
    Family,
    GuidanceScale,
    Loras,
    NegativeAlpha,
    Negatives,
    Precision,
    Resolution,
    Rewards,
    Seed,
    Steps,
    Unet,
    describe_model,
    finite,
    named_model,
    open_guided_model,
    out,
    with_unet,
)
from t2ialign.errors import InputError

if TYPE_CHECKING:
    from t2ialign.feedback.negative_captions.base import Editor

app = typer.Typer(help="Look at preference data, or build it from a model and a reward.", no_args_is_help=True)


class CaptionKind(Enum):
    """`feedback.negative_captions.base.Kind` as typer reads it from a repeated option."""

    CONTENT = "content"
    ATTRIBUTE = "attribute"
    RELATION = "relation"
    CONTEXT = "context"


@app.command()
def build(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and pairs.csv.")],
    reward: Rewards,
    model: Annotated[
        str | None, typer.Option(help="Makes the images: as in generate; default: what --lora is made for.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts for the model.")] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images to pair, instead of a model.")] = None,
    keep: Annotated[
        Literal["best_worst", "all"],
        typer.Option(help="best_worst: one pair a prompt; all: every two beyond the margin."),
    ] = "best_worst",
    margin: Annotated[
        float, typer.Option(min=0, callback=finite, help="Scores that differ by no more are a tie.")
    ] = 0.0,
    ties: Annotated[Literal["drop", "keep"], typer.Option(help="What becomes of ties.")] = "drop",
    flip: Annotated[
        float, typer.Option(min=0, max=0.99, callback=finite, help="Share of labels turned around, to study noise.")
    ] = 0.0,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, callback=finite, help="Share of images that may stay without a score.")
    ] = 0.05,
    lora: Loras = None,
    negative: Negatives = None,
    negative_alpha: NegativeAlpha = 1.0,
    family: Family = None,
    backbone: Backbone = None,
    unet: Unet = None,
    images_per_prompt: Annotated[int, typer.Option(min=2)] = 4,
    seed: Seed = 0,
    guidance: GuidanceScale = 5.0,
    steps: Steps = 30,
    resolution: Resolution = None,
    batch: BatchSize = 4,
    precision: Precision = "fp32",
) -> None:
    """Build preference pairs: several images a prompt, scored, better against worse."""
    if (images is None) == ((model is None and not lora) or prompts is None):
        raise InputError("give --model and --prompts to make images, or --images with a folder of them")
    if images is not None and (lora or negative or unet):
        raise InputError(
            "--lora, --unet and --negative are of the model that makes images; leave them out beside --images"
        )
    from t2ialign.config.generation import GenerationConfig
    from t2ialign.feedback.build import build_pairs, describe_build, generate_pairs
    from t2ialign.feedback.pairing import Pairing
    from t2ialign.rewards.registry import load_pointwise

    rewards = load_pointwise(reward, "data build")
    pairing = Pairing(keep, margin, ties, flip)
    if images is not None:
        built = build_pairs(out_dir, rewards, pairing, images=images, seed=seed, max_failed=max_failed)
    else:
        assert prompts is not None
        from t2ialign.data.kinds.prompts import read_prompts

        texts = read_prompts(prompts)  # before the model, which takes longer
        model, family, backbone = named_model(model, family, lora, with_unet(backbone, unet))
        policy, mixture, uncond = open_guided_model(
            model, family, lora, precision, backbone, negatives=negative, alpha=negative_alpha, guidance=guidance
        )
        built = generate_pairs(
            out_dir,
            policy,
            texts,
            rewards,
            pairing,
            GenerationConfig(
                guidance_scale=guidance,
                inference_steps=steps,
                resolution=resolution,
                batch=batch,
                images_per_prompt=images_per_prompt,
                seed=seed,
            ),
            weights=mixture,
            negative=uncond,
            description=describe_model(model, lora, precision, backbone, negative, negative_alpha),
            max_failed=max_failed,
        )
    out.print(describe_build(built))


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A table, a folder, or hf://owner/name; of pairs, if nothing else is said.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="data.key=value, as in data.split=train or data.name=lists.")
    ] = None,
    singles: Annotated[bool, typer.Option("--singles", help="Images and prompts, no pairs.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Prompts alone: a text file or a table.")] = False,
    columns: Annotated[list[str] | None, typer.Option(help="meaning=column, as in chosen=better. Repeatable.")] = None,
    warn: Annotated[
        float,
        typer.Option(
            min=0.5, max=1, callback=finite, help="Warn where the label follows what should not matter: AUC above this."
        ),
    ] = 0.65,
) -> None:
    """Say how a data set is understood, account for every row of it, and what else its labels follow."""
    from t2ialign.config.reader import overridden, validated
    from t2ialign.data.inspect.summary import render, summarise
    from t2ialign.data.tables.source import nothing_usable

    if singles and prompts:
        raise InputError("--singles are images with prompts, --prompts have no images; give one of them")
    kind = "prompts" if prompts else "singles" if singles else "pairs"
    content = overridden("data", {"path": str(path), "columns": _named_columns(columns or [])}, overrides or [])
    summary = summarise(validated("data", {"name": kind, **content}))
    out.print(render(summary, warn))
    if not summary.account.examples:
        raise nothing_usable(summary.account)


@app.command()
def perturb(
    data: Annotated[Path, typer.Argument(help="Images with prompts: a table or folder; of pairs the preferred ones.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and text_pairs.csv.")],
    by: Annotated[str, typer.Option(help="shapes, english (rules, offline), or openai:MODEL on any such server.")],
    base_url: Annotated[str | None, typer.Option(help="Of the server; default: OPENAI_BASE_URL, or OpenAI's.")] = None,
    kind: Annotated[
        list[CaptionKind] | None,
        typer.Option(help="Default: all. Repeatable."),
    ] = None,
    per_image: Annotated[int, typer.Option(min=1, help="Negative captions of an image, each of another kind.")] = 1,
    seed: Seed = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the server at once.")] = 8,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, callback=finite, help="Share of questions that may have no answer.")
    ] = 0.05,
) -> None:
    """Give images a second prompt that does not fit, for TDPO and TKTO."""
    from t2ialign.feedback.negative_captions.write import describe, perturb_images

    perturbed = perturb_images(
        data,
        out_dir,
        _editor(by, base_url, concurrency),
        kinds=[chosen.value for chosen in kind or CaptionKind],
        per_image=per_image,
        seed=seed,
        max_failed=max_failed,
    )
    out.print(describe(perturbed))


@app.command()
def relabel(
    pairs: Annotated[Path, typer.Argument(help="A table or folder of pairs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and pairs.csv.")],
    reward: Annotated[str, typer.Option(help="Name, module:attr or file.py:attr.")],
    margin: Annotated[
        float, typer.Option(min=0, callback=finite, help="Scores that differ by no more are a tie, left out.")
    ] = 0.0,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, callback=finite, help="Share of images that may have no score.")
    ] = 0.05,
) -> None:
    """Label pairs anew by a reward, and keep the label they had beside it."""
    from t2ialign.feedback.relabel import describe, relabel_pairs
    from t2ialign.rewards.registry import load_pointwise

    (loaded,) = load_pointwise([reward], "data relabel")
    relabelled = relabel_pairs(pairs, out_dir, loaded, margin=margin, max_failed=max_failed)
    out.print(describe(relabelled))


def _named_columns(options: list[str]) -> dict[str, str]:
    """{meaning: column} of `meaning=column` options."""
    for option in options:
        if "=" not in option:
            raise InputError(f"--columns {option}: give meaning=column, as in --columns chosen=better")
    return dict(option.split("=", 1) for option in options)


def _editor(by: str, base_url: str | None, concurrency: int) -> Editor:
    if by == "shapes":
        from t2ialign.feedback.negative_captions.shapes import ShapesEditor

        return ShapesEditor()
    if by == "english":
        from t2ialign.feedback.negative_captions.english import EnglishEditor

        return EnglishEditor()
    kind, _, model = by.partition(":")
    if kind != "openai" or not model:
        raise InputError(f"--by {by}: give shapes, english or openai:MODEL")
    from t2ialign.feedback.negative_captions.language_model import ModelEditor

    return ModelEditor(model, base_url=base_url, concurrency=concurrency)
