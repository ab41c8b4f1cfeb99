"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from t2ialign.config.loras import parse_loras
from t2ialign.errors import InputError
from t2ialign.progress import plain_console

if TYPE_CHECKING:
    from t2ialign.policy import Policy
    from t2ialign.types import Weights

out = plain_console()


def finite(value: float) -> float:
    """An option's value, which must be a finite number: the range check of an option lets nan pass."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Dtype = Literal["fp32", "bf16", "fp16"]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="sd15, sdxl, diffusers folder, .safetensors file, hub id or run folder; default: what --lora is made for.",
    ),
]
Unet = Annotated[
    str | None,
    typer.Option(
        "--unet", help="Another UNet than the model's: folder, .safetensors file, full fine-tune's run or hub id."
    ),
]
Family = Annotated[str | None, typer.Option(help="sd15 or sdxl, where the model does not say.")]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", help="LoRA or run folder, with :scale if not 1. Repeatable.")
]
Negatives = Annotated[
    list[str] | None,
    typer.Option(
        "--negative", help="LoRA, full fine-tune or run of a negative model for guidance, :beta if not 1. Repeatable."
    ),
]
NegativeAlpha = Annotated[
    float, typer.Option("--negative-alpha", callback=finite, help="Share of --lora in the negative branch.")
]
Backbone = Annotated[
    list[str] | None,
    typer.Option("--backbone", help="key=value of the config's section backbone, as in variant=fp16. Repeatable."),
]
Precision = Annotated[Dtype, typer.Option(help="Precision of weights and forward pass.")]
GuidanceScale = Annotated[
    float, typer.Option("--guidance", min=1.0, callback=finite, help="Classifier-free guidance scale.")
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps from noise to image.")]
Resolution = Annotated[int | None, typer.Option("--resolution", min=8, help="Side in px; default: the model's own.")]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Images made at once.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all randomness.")]
Rewards = Annotated[
    list[str],
    typer.Option(
        "--reward", help="Name, module:attr or file.py:attr, then =WEIGHT,option=value if wanted. Repeatable."
    ),
]


def parse_backbone(options: list[str] | None) -> dict[str, str]:
    """{'key': value} of `key=value` options: keys of the config's section `backbone`."""
    keys: dict[str, str] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals or not value or key in ("", "name", "pretrained"):
            raise InputError(f"--backbone {option}: write a key of the config's section backbone, as in variant=fp16")
        if key in keys:
            raise InputError(f"--backbone {option}: {key} is given twice")
        keys[key] = value
    return keys


def with_unet(backbone: list[str] | None, unet: str | None) -> list[str] | None:
    """The options --backbone with --unet among them, which is short for `--backbone unet=…`."""
    return backbone if unet is None else [*(backbone or []), f"unet={unet}"]


class Named(NamedTuple):
    """What --model, --family and --backbone say, or the LoRAs in their place."""

    model: str
    family: str | None
    backbone: list[str] | None


def named_model(model: str | None, family: str | None, loras: list[str] | None, backbone: list[str] | None) -> Named:
    """The model that is named, or else the one that the LoRAs were made for, which is then said.

    Raises:
        InputError: neither is given, or see `models.model_of_loras`.
    """
    if model is not None:
        return Named(model, family, backbone)
    if not loras:
        raise InputError("give --model, or --lora with a file that says which model it was made for")
    from t2ialign.models import model_of_loras

    stated = model_of_loras(parse_loras(loras), family)
    plain_console(stderr=True).print(f"model: {stated.name}, what --lora is made for ({stated.why})", soft_wrap=True)
    given = parse_backbone(backbone)
    added = [f"{key}={value}" for key, value in stated.keys.items() if value is not None and key not in given]
    return Named(stated.name, stated.family, [*(backbone or []), *added] or None)


def parse_negatives(negatives: list[str] | None, alpha: float) -> dict[str, float]:
    """{'path': beta} of --negative.

    Raises:
        InputError: a number or path is wrong, or there is a share of --lora without a negative model.
    """
    if not negatives and alpha != 1:
        raise InputError(f"--negative-alpha {alpha:g}: is a share in the negative model's branch; give --negative")
    return parse_loras(negatives, "--negative")


def open_model(
    model: str, family: str | None, loras: list[str] | None, precision: Dtype, backbone: list[str] | None
) -> tuple[Policy, dict[str, float]]:
    """The policy of --model with its LoRAs, and their scales; see `models.open_model`."""
    scales, keys = parse_loras(loras), parse_backbone(backbone)
    from t2ialign.models import open_model

    return open_model(model, family=family, loras=scales, precision=precision, backbone=keys)


def open_guided_model(
    model: str,
    family: str | None,
    loras: list[str] | None,
    precision: Dtype,
    backbone: list[str] | None,
    *,
    negatives: list[str] | None,
    alpha: float,
    guidance: float,
) -> tuple[Policy, dict[str, float], Weights | None]:
    """The policy of --model, and what answers in its two branches; see `models.open_guided_model`.

    Raises:
        InputError: a negative model without guidance, or a share of --lora without a negative model.
    """
    added = parse_negatives(negatives, alpha)
    if not added:
        return *open_model(model, family, loras, precision, backbone), None
    if guidance == 1:
        raise InputError("--guidance 1 makes no unconditional pass, so that --negative has no part in it; give more")
    scales, keys = parse_loras(loras), parse_backbone(backbone)
    from t2ialign.models import open_guided_model

    return open_guided_model(model, added, alpha=alpha, family=family, loras=scales, precision=precision, backbone=keys)


def describe_model(
    model: str,
    loras: list[str] | None,
    precision: Dtype,
    backbone: list[str] | None,
    negatives: list[str] | None = None,
    alpha: float = 1.0,
) -> dict[str, object]:
    """What generation.json records of the options that `open_guided_model` takes."""
    recorded: dict[str, object] = {"model": model, "loras": parse_loras(loras), "precision": precision}
    if negatives:
        recorded["negative"] = parse_loras(negatives, "--negative")
        if alpha != 1:
            recorded["negative_alpha"] = alpha
    return {**recorded, "backbone": parse_backbone(backbone)} if backbone else recorded
