"""The negative model of validation images: adapters beside the policy's own, which no training pass sees."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from t2ialign.backbones.facts import ModelFacts
from t2ialign.backbones.finetunes import is_finetune
from t2ialign.backbones.lora import load_lora
from t2ialign.backbones.lora_checks import check_mixable, lora_folder
from t2ialign.config.loras import parse_loras
from t2ialign.config.schema import RunConfig
from t2ialign.errors import InputError
from t2ialign.models import check_negative
from t2ialign.policy import LEARNER
from t2ialign.types import Weights

AFTERWARDS = "once the run is over, `t2ialign generate --negative` takes full fine-tunes too"


def check_validation_negative(config: RunConfig, facts: ModelFacts | None) -> None:
    """Checks that the negative model has a part in the images, and from its header that it fits the backbone.

    Raises:
        InputError: it has none, does not exist, is no LoRA, or was made for another architecture.
    """
    validate = config.validation
    if not validate.negative:
        if validate.negative_alpha != 1:
            raise InputError(
                f"validate.negative_alpha {validate.negative_alpha:g}: is a share in the negative model's branch; "
                "give validate.negative"
            )
        return
    if validate.prompts is None:
        raise InputError("validate.negative is of images, and none are made; give validate.prompts")
    if validate.guidance_scale == 1:
        raise InputError(
            "validate.guidance_scale 1 makes no unconditional pass, so that validate.negative has no part in it; "
            "give more"
        )
    if config.lora is None:
        raise InputError(
            "validate.negative adds LoRAs beside the adapter that is trained, and here the whole denoiser is; give a "
            "section lora, or leave the key out"
        )
    if config.lora.dora:
        raise InputError(
            "lora.dora: a DoRA rescales weights instead of adding to them, so that the unconditional branch of "
            "validate.negative cannot have a share of it; train a LoRA, or leave the key out"
        )
    if config.lora.init is not None:
        check_mixable(config.lora.init, "the model")
    width = None if facts is None else facts.text_width
    for path in parse_loras(validate.negative):
        if is_finetune(path):
            raise InputError(f"{path}: a full fine-tune; validate.negative takes LoRAs; {AFTERWARDS}")
        check_negative(path, family=config.backbone.family, text_width=width)


def _adapters(config: RunConfig) -> dict[str, tuple[Path, float]]:
    """Name of an adapter -> the file or folder it comes from, and its share beta."""
    negative = parse_loras(config.validation.negative)
    return {f"negative{place}": (lora_folder(path), beta) for place, (path, beta) in enumerate(negative.items())}


def add_negative_adapters(denoiser: nn.Module, config: RunConfig) -> None:
    """Adds the adapters of the config's negative model, frozen.

    Raises:
        InputError: one cannot be used.
    """
    for name, (path, _) in _adapters(config).items():
        load_lora(denoiser, path, name, family=config.backbone.family)


def unconditional_weights(config: RunConfig) -> dict[str, Weights]:
    """Whose images -> what answers in their unconditional branch.

    The base has no adapter of its own, so that its branch has beta of the negative model alone; the policy's has alpha
    of what is trained besides.
    """
    validate = config.validation
    if not validate.negative:
        return {"base": "base", "policy": "policy"}
    added = {name: beta for name, (_, beta) in _adapters(config).items()}
    own = {LEARNER: validate.negative_alpha} if validate.negative_alpha else {}
    return {"base": added, "policy": {**own, **added}}
