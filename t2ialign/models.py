"""A pretrained model with adapters, opened for whoever wants images or accuracy and no training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from t2ialign.backbones.adapters import activate, tuner_layers
from t2ialign.backbones.base import Backbone, BackboneConfig
from t2ialign.backbones.finetunes import is_finetune, moved_by_finetunes
from t2ialign.backbones.folders import unet_folder
from t2ialign.backbones.hub import ALIASES, MOVED, is_hub_name, locate_index
from t2ialign.backbones.lora import add_text_loras, inject_layers
from t2ialign.backbones.lora_checks import check_denoiser_alone, check_lora, check_mixable, lora_folder, lora_origin
from t2ialign.backbones.lora_read import LoraFile
from t2ialign.backbones.runs import read_run
from t2ialign.backbones.single_files import family_of_file, read_contents
from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process
from t2ialign.types import Weights


def family_of(model: str, revision: str | None = None) -> str:
    """The backbone name of a model: 'sd15' or 'sdxl', as its alias, run, single file or index says.

    Of a hub id that is not in the local cache, the index alone is downloaded.

    Raises:
        InputError: a single file is no checkpoint of either, or nothing says what it is.
        EnvironmentProblem: the hub cannot be reached.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return family_of_file(path, read_contents(path))
    if model in ALIASES and not path.exists():
        return model
    run = read_run(model)
    if run is not None:
        return str(run.backbone["name"])
    index = locate_index(model, revision) / "model_index.json"
    if index.is_file():
        try:
            pipeline = str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{index}: damaged; get the folder again") from None
        return "sdxl" if "XL" in pipeline else "sd15"
    if unet_folder(path) is not None:
        raise InputError(f"{model}: a UNet without the other parts; give it as --unet beside a base, as --model sdxl")
    raise InputError(f"{model}: no model_index.json says which architecture this is; add --family sd15 or sdxl")


class StatedModel(NamedTuple):
    """The model that a LoRA was made for."""

    name: str
    """As `open_model` takes it."""
    family: str
    keys: dict[str, Any]
    """Other keys of the config's section `backbone`, of a run."""
    why: str
    """What says so."""


def model_of_loras(loras: Iterable[str], family: str | None = None) -> StatedModel:
    """The model that LoRAs were made for: the base that the first names, or else the first model of their family.

    Args:
        loras: files, folders or runs.
        family: of all of them, where it is known.

    Raises:
        InputError: nothing says what one was made for, or they were made for several families.
    """
    found = [(path, _model_of_lora(path, family)) for path in loras]
    (first, model), *others = found
    for path, other in others:
        if other.family != model.family:
            raise InputError(
                f"{first} was made for '{model.family}' ({model.why}), {path} for '{other.family}' ({other.why}); give "
                "LoRAs of one family"
            )
    if family not in (None, model.family):
        raise InputError(f"{first}: this LoRA was made for '{model.family}' ({model.why}), not for --family {family}")
    return model


def _model_of_lora(path: str, family: str | None) -> StatedModel:
    run = read_run(path)
    if run is not None:
        keys = {key: value for key, value in run.backbone.items() if key not in ("name", "pretrained")}
        return StatedModel(str(run.backbone["pretrained"]), str(run.backbone["name"]), keys, "the base of its run")
    origin = lora_origin(lora_folder(path))
    base = None if origin.base is None else MOVED.get(origin.base, origin.base)
    is_known = base is not None and (Path(base).expanduser().exists() or is_hub_name(base))
    found = origin.family or family or (family_of(base) if is_known and base is not None else None)
    if found is None:
        raise InputError(f"{path}: nothing in it says which model it was made for; add --model, as --model sdxl")
    if is_known and base is not None:
        return StatedModel(base, found, {}, "the base that it names")
    if found not in ALIASES:
        raise InputError(f"{path}: made for '{found}' ({origin.evidence}); known families: {', '.join(ALIASES)}")
    gone = "" if base is None else f"; its base {base} is not here"
    return StatedModel(found, found, {}, origin.evidence + gone)


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
        model: sd15 or sdxl, diffusers folder, single file, hub id, or a run folder.
        family: backbone name; default: what the folder or file says.
        loras: LoRA file, folder or run folder -> scale.
        precision: of the weights.
        backbone: further keys of the config's section `backbone`, for example {"variant": "fp16"}.

    Raises:
        InputError: the model or a LoRA does not exist or does not fit.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    section = backbone_section(model, family, backbone)
    read = _read(loras or {}, section.family)
    opened = section.build(device_of_process(), DTYPES[precision])
    add_text_loras(opened, read, family=section.family)
    mixture = _add_loras(opened.denoiser, read, section.family)
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
        InputError: nothing is there, no LoRA, a DoRA, one that adapts text encoders, or made for another architecture.
    """
    if not is_finetune(path):
        check_mixable(lora_folder(path), "the negative model")
        check_denoiser_alone(lora_folder(path))
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

    The text encoders, with what `loras` change in them, are of both branches.

    LoRAs are adapters of the one network. Where a full fine-tune is among them, a second network is held, base + beta *
    (fine-tune - base), and the adapters of the unconditional branch are on it.

    Args:
        negative: LoRA, or full fine-tune (see `finetunes.is_finetune`), of a negative model -> beta.
        alpha: share of `loras` in the unconditional branch; 1 as released.

    Raises:
        InputError: see `open_model` and `finetunes.moved_by_finetunes`; one of the adapters is a DoRA; or one of the
            negative model adapts text encoders.
        EnvironmentProblem: see `open_model`.
    """
    finetunes = {path: beta for path, beta in negative.items() if is_finetune(path)}
    adapters = {path: beta for path, beta in negative.items() if path not in finetunes}
    loras = loras or {}
    for group, merged in ((loras, "the model"), (adapters, "the negative model")):
        for path in group:
            check_mixable(lora_folder(path), merged)
    for path in adapters:
        check_denoiser_alone(lora_folder(path))
    section = backbone_section(model, family, backbone)
    read = _read(loras, section.family)
    opened = section.build(device_of_process(), DTYPES[precision])
    second = moved_by_finetunes(opened, finetunes, variant=section.variant) if finetunes else None
    add_text_loras(opened, read, family=section.family)
    mixture = _add_loras(opened.denoiser, read, section.family)
    if second is not None:
        _add_loras(second, read, section.family)
    shared = {name: alpha * scale for name, scale in mixture.items() if alpha * scale}
    added = _add_loras(second or opened.denoiser, _read(adapters, section.family), section.family, first=len(loras))
    answering = {**shared, **added}
    if second is None:
        return GuidedModel(_policy(opened, precision), mixture, answering)
    for layer in tuner_layers(second):
        activate(layer, dict(layer.scaling), answering)
    return GuidedModel(_policy(opened, precision, second), mixture, "negative")


def backbone_section(model: str, family: str | None, backbone: Mapping[str, object] | None) -> BackboneConfig:
    """The config's section of a model."""
    configure_runtime()
    name = family or family_of(model, None if backbone is None else cast("str | None", backbone.get("revision")))
    return cast(BackboneConfig, validated("backbone", {**(backbone or {}), "name": name, "pretrained": model}))


def _read(loras: Mapping[str, float], family: str) -> list[tuple[LoraFile, float]]:
    """LoRAs and their scales, checked to be of a family before any model is loaded."""
    read = [(LoraFile(lora_folder(path)), scale) for path, scale in loras.items()]
    for lora, _ in read:
        lora.check_family(family)
    return read


def _add_loras(
    denoiser: nn.Module, loras: Sequence[tuple[LoraFile, float]], family: str, first: int = 0
) -> dict[str, float]:
    """Adds LoRAs as adapters, numbered from `first`, and returns their mixture; those of text alone are not in it."""
    mixture: dict[str, float] = {}
    for place, (lora, scale) in enumerate(loras, first):
        if lora.adapts_denoiser:
            inject_layers(denoiser, f"lora{place}", lora.denoiser(denoiser, family=family))
            mixture[f"lora{place}"] = scale
    return mixture


def _policy(opened: Backbone, precision: str, negative: UNet2DConditionModel | None = None) -> Policy:
    for unet in (opened.denoiser, negative):
        if unet is not None and next(unet.parameters()).device.type == "cpu":
            cast(UNet2DConditionModel, unet).set_attn_processor(AttnProcessor())
    autocast = None if precision == "fp32" else DTYPES[precision]
    return Policy(opened, autocast=autocast, negative=negative)
