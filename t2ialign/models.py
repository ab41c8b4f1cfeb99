"""A pretrained model with adapters, opened for whoever wants images or accuracy and no training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from t2ialign.backbones.base import BackboneConfig
from t2ialign.backbones.lora import load_lora
from t2ialign.backbones.lora_checks import check_mixable, lora_folder
from t2ialign.backbones.single_files import family_of_file, read_contents
from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process


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
    policy, (mixture,) = _open(model, family, [loras or {}], precision, backbone)
    return policy, mixture


class GuidedModel(NamedTuple):
    """A model whose two branches of guidance have weights of their own."""

    policy: Policy
    weights: dict[str, float]
    """The mixture that sees the prompt."""
    negative: dict[str, float]
    """The mixture of the unconditional branch."""


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

    Args:
        negative: LoRA of a negative model -> beta.
        alpha: share of `loras` in the unconditional branch; 1 as released.

    Raises:
        InputError: see `open_model`; or one of the adapters is a DoRA.
        EnvironmentProblem: see `open_model`.
    """
    for path in (*(loras or {}), *negative):
        check_mixable(lora_folder(path))
    policy, (mixture, added) = _open(model, family, [loras or {}, negative], precision, backbone)
    shared = {adapter: alpha * scale for adapter, scale in mixture.items() if alpha * scale}
    return GuidedModel(policy, mixture, {**shared, **added})


def _open(
    model: str,
    family: str | None,
    groups: Sequence[Mapping[str, float]],
    precision: str,
    backbone: Mapping[str, object] | None,
) -> tuple[Policy, list[dict[str, float]]]:
    """The model with all LoRAs of the groups, and each group's mixture of adapters."""
    configure_runtime()
    name = family or family_of(model)
    section = cast(BackboneConfig, validated("backbone", {**(backbone or {}), "name": name, "pretrained": model}))
    opened = section.build(device_of_process(), DTYPES[precision])
    mixtures: list[dict[str, float]] = [{} for _ in groups]
    every = [(which, path, scale) for which, group in enumerate(groups) for path, scale in group.items()]
    for place, (which, path, scale) in enumerate(every):
        adapter = f"lora{place}"
        load_lora(opened.denoiser, lora_folder(path), adapter, family=section.family)
        mixtures[which][adapter] = scale
    if next(opened.denoiser.parameters()).device.type == "cpu":
        cast(UNet2DConditionModel, opened.denoiser).set_attn_processor(AttnProcessor())
    autocast = None if precision == "fp32" else DTYPES[precision]
    return Policy(opened, autocast=autocast), mixtures
