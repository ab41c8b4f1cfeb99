"""LoRAs and full fine-tunes of random numbers on disk, and the same weights added by hand."""

from __future__ import annotations

from pathlib import Path

import torch
import toys
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer

from t2ialign.backbones.lora import save_lora
from t2ialign.models import open_model
from t2ialign.rng import generator


def saved(model: Path, out: Path, *, moved: float, family: str = "sd15", **lora) -> Path:
    """A LoRA of random numbers on disk."""
    policy = toys.lora_policy(model, moved=moved, family=family, **lora)
    save_lora(out, policy.denoiser, toys.LEARNER, family=family, extra={})
    return out


def finetune(model: Path, out: Path, *, moved: float, seed: int) -> Path:
    """What a full fine-tuning leaves: a folder with the UNet, moved by random numbers."""
    tuned = UNet2DConditionModel.from_pretrained(model / "unet")
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            parameter += moved * torch.randn(parameter.shape, generator=generator(seed, name))
    tuned.save_pretrained(out / "unet")
    return out


@torch.no_grad()
def merged(model: Path, loras: dict[Path, float]) -> torch.nn.Module:
    """The plain denoiser with sum_i w_i (alpha_i / r_i) B_i A_i added to its weights by hand."""
    policy, mixture = open_model(str(model), loras={str(path): scale for path, scale in loras.items()})
    plain = dict(toys.backbone(model).denoiser.named_modules())
    for name, layer in policy.denoiser.named_modules():
        if isinstance(layer, BaseTunerLayer):
            for adapter, scale in mixture.items():
                config = policy.denoiser.peft_config[adapter]  # type: ignore[index, union-attr]
                a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight  # type: ignore[index, union-attr]
                plain[name].weight += scale * config.lora_alpha / config.r * (b @ a)
    return plain[""]
