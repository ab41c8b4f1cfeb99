"""Full fine-tunes as differences of weights: where their UNet lies, whether it fits, and a denoiser moved by them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.backbones.facts import read_facts
from t2ialign.backbones.folders import unet_folder
from t2ialign.backbones.loading import load_unet, stated_by_file
from t2ialign.backbones.unet_files import is_unet_file
from t2ialign.config.reader import read_yaml
from t2ialign.errors import InputError
from t2ialign.schedules import Schedule, VPSchedule


@torch.no_grad()
def moved_by_finetunes(
    backbone: Backbone, finetunes: Mapping[str, float], *, variant: str | None = None
) -> UNet2DConditionModel:
    """A copy of a backbone's denoiser with the weights W + sum_i beta_i (W_i - W), on its device, in its precision.

    Args:
        backbone: its denoiser has no adapters yet.
        finetunes: see `is_finetune` -> beta_i; W_i are the fine-tune's weights.
        variant: of the fine-tunes' files, where they have it.

    Raises:
        InputError: a fine-tune is damaged, of another architecture, or predicts something else.
    """
    denoiser = cast(UNet2DConditionModel, backbone.denoiser)
    moved = copy.deepcopy(denoiser)
    own, sums = dict(denoiser.named_parameters()), dict(moved.named_parameters())
    for path, beta in finetunes.items():
        _check_prediction(path, backbone.schedule)
        loaded = load_unet(path, base=lambda: denoiser.config, dtype=denoiser.dtype, variant=variant)
        theirs = dict(loaded.named_parameters())
        _check_shapes(path, theirs, own)
        for name, weight in own.items():
            difference = theirs[name].to(weight.device).float() - weight.float()
            sums[name].copy_(sums[name].float() + beta * difference)
    return moved


def is_finetune(path: str) -> bool:
    """Whether a path is a whole UNet: of a full fine-tuning's run, in a diffusers folder, or in a single file.

    Raises:
        InputError: it is a .safetensors file that cannot be read.
    """
    return unet_folder(path) is not None or is_unet_file(path)


def _check_shapes(path: str, theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Checks that every weight of a fine-tune has its place in the denoiser, and the other way round."""
    for name in sorted(theirs.keys() | own.keys()):
        there, here = (list(weights[name].shape) if name in weights else "missing" for weights in (theirs, own))
        if there != here:
            raise InputError(
                f"{path}: a UNet of another architecture: {name} is {there} there and {here} in the model; "
                "give a fine-tune of the model"
            )


def _check_prediction(path: str, schedule: Schedule) -> None:
    """Checks that a fine-tune predicts what the model does, where its files say so."""
    found = _stated_prediction(path)
    if found is None or not isinstance(schedule, VPSchedule) or found == schedule.prediction_type:
        return
    raise InputError(
        f"{path}: a fine-tune that predicts {found}, and the model predicts {schedule.prediction_type}, so that "
        "neither can be subtracted from the other; give a fine-tune of the model"
    )


def _stated_prediction(path: str) -> str | None:
    """What the files around a fine-tune's UNet say that it predicts: its scheduler, or its run's backbone."""
    if is_unet_file(path):
        return stated_by_file(path, None).prediction_type
    folder = unet_folder(path)
    beside = folder.resolve().parent if folder is not None else Path(path)
    if (beside / "model_index.json").is_file():
        facts = read_facts(str(beside))
    elif (beside / "config.yaml").is_file():
        content, _ = read_yaml(beside / "config.yaml")
        backbone = content.get("backbone") or {}
        if backbone.get("prediction_type") is not None:
            return backbone["prediction_type"]
        facts = read_facts(str(backbone.get("pretrained")), backbone.get("revision"))
    else:
        return None
    return None if facts is None else facts.prediction_type
