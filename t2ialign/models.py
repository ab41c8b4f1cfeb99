"""A pretrained model with adapters, opened for whoever wants images or accuracy and no training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from t2ialign.backbones.adapters import activate, tuner_layers
from t2ialign.backbones.base import Backbone, BackboneConfig
from t2ialign.backbones.finetunes import moved_by_finetunes, unet_folder
from t2ialign.backbones.lora import load_lora
from t2ialign.backbones.lora_checks import check_lora, check_mixable, lora_folder
from t2ialign.backbones.single_files import family_of_file, read_contents
from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process
from t2ialign.types import Weights


def family_of(model: str) -> str:
    """The backbone name of a model: 'sd15' or 'sdxl', by a folder's index or a single file's tensors.

    Raises:
        InputError: a single file is no checkpoint of either; or it is a hub id, whose family the caller must give.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return family_of_file(path, read_contents(path))
    index = path / "model_index.json"
    if index.is_file():
        try:
            pipeline = str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{index}: damaged; get the folder again") from None
        return "sdxl" if "XL" in pipeline else "sd15"
    raise InputError(f"{model}: no model_index.json says which architecture this is; add --family sd15 or sdxl")


def open_model(
    model: str,
    *,
    family: str | None = None,
    loras: Mapping[str, float] | None = None,
    precision: str = "fp32",
    backbone: Mapping[str, object] | None = None,
) -> tuple[Policy, dict[str, float]]:
    """A model for making images, and the mixture of its adapters.

    Args:
        model: diffusers folder, single file or hub id.
        family: backbone name; default: what the folder or file says.
        loras: LoRA file, folder or run folder -> scale.
        precision: of the weights.
        backbone: further keys of the config's section `backbone`, for example {"variant": "fp16"}.

    Raises:
        InputError: the model or a LoRA does not exist or does not fit.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    section = _section(model, family, backbone)
    opened = section.build(device_of_process(), DTYPES[precision])
    mixture = _add_loras(opened.denoiser, loras or {}, section.family)
    return _policy(opened, precision), mixture


class GuidedModel(NamedTuple):
    """A model whose two branches of guidance have weights of their own."""

    policy: Policy
    weights: dict[str, float]
    """The mixture that sees the prompt."""
    negative: Weights
    """What answers in the unconditional branch: a mixture, or 'negative', a second network."""


def check_negative(path: str, *, family: str, text_width: int | None) -> None:
    """Checks from its header that a LoRA can be a negative model; of a full fine-tune, that there is one.

    Args:
        family: of the model.
        text_width: width of the token states that its denoiser reads; None where it is not known.

    Raises:
        InputError: nothing is there, no LoRA, a DoRA, or one made for another architecture.
    """
    if unet_folder(path) is None:
        check_mixable(lora_folder(path), "the negative model")
        check_lora(lora_folder(path), family=family, text_width=text_width)


def open_guided_model(
    model: str,
    negative: Mapping[str, float],
    *,
    alpha: float = 1.0,
    family: str | None = None,
    loras: Mapping[str, float] | None = None,
    precision: str = "fp32",
    backbone: Mapping[str, object] | None = None,
) -> GuidedModel:
    """A model with a negative model for guidance (Diffusion-NPO, arXiv:2505.11245).

    With eta what `loras` add to the base, and delta what `negative` does, the unconditional branch has
    base + alpha * eta + beta * delta: the two branches must stay correlated, or guidance amplifies what differs.

    LoRAs are adapters of the one network. Where a full fine-tune is among them, a second network is held, base + beta *
    (fine-tune - base), and the adapters of the unconditional branch are on it.

    Args:
        negative: LoRA, or full fine-tune (see `finetunes.unet_folder`), of a negative model -> beta.
        alpha: share of `loras` in the unconditional branch; 1 as released.

    Raises:
        InputError: see `open_model` and `finetunes.moved_by_finetunes`; or one of the adapters is a DoRA.
        EnvironmentProblem: see `open_model`.
    """
    finetunes = {path: beta for path, beta in negative.items() if unet_folder(path) is not None}
    adapters = {path: beta for path, beta in negative.items() if path not in finetunes}
    loras = loras or {}
    for group, merged in ((loras, "the model"), (adapters, "the negative model")):
        for path in group:
            check_mixable(lora_folder(path), merged)
    section = _section(model, family, backbone)
    opened = section.build(device_of_process(), DTYPES[precision])
    second = moved_by_finetunes(opened, finetunes, variant=section.variant) if finetunes else None
    mixture = _add_loras(opened.denoiser, loras, section.family)
    if second is not None:
        _add_loras(second, loras, section.family)
    shared = {name: alpha * scale for name, scale in mixture.items() if alpha * scale}
    added = _add_loras(second or opened.denoiser, adapters, section.family, first=len(loras))
    answering = {**shared, **added}
    if second is None:
        return GuidedModel(_policy(opened, precision), mixture, answering)
    for layer in tuner_layers(second):
        activate(layer, dict(layer.scaling), answering)
    return GuidedModel(_policy(opened, precision, second), mixture, "negative")


def _section(model: str, family: str | None, backbone: Mapping[str, object] | None) -> BackboneConfig:
    """The config's section of a model."""
    configure_runtime()
    name = family or family_of(model)
    return cast(BackboneConfig, validated("backbone", {**(backbone or {}), "name": name, "pretrained": model}))


def _add_loras(denoiser: nn.Module, loras: Mapping[str, float], family: str, first: int = 0) -> dict[str, float]:
    """Adds LoRAs as adapters, numbered from `first`, and returns their mixture."""
    mixture: dict[str, float] = {}
    for place, (path, scale) in enumerate(loras.items(), first):
        load_lora(denoiser, lora_folder(path), f"lora{place}", family=family)
        mixture[f"lora{place}"] = scale
    return mixture


def _policy(opened: Backbone, precision: str, negative: UNet2DConditionModel | None = None) -> Policy:
    for unet in (opened.denoiser, negative):
        if unet is not None and next(unet.parameters()).device.type == "cpu":
            cast(UNet2DConditionModel, unet).set_attn_processor(AttnProcessor())
    autocast = None if precision == "fp32" else DTYPES[precision]
    return Policy(opened, autocast=autocast, negative=negative)
