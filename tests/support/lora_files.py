"""LoRAs of random numbers on disk, and the same weights added by hand."""

from __future__ import annotations

from pathlib import Path

import torch
import toys
from peft.tuners.tuners_utils import BaseTunerLayer

from t2ialign.backbones.lora import save_lora
from t2ialign.models import open_model


def saved(model: Path, out: Path, *, moved: float, **lora) -> Path:
    """A LoRA of random numbers on disk."""
    policy = toys.lora_policy(model, moved=moved, **lora)
    save_lora(out, policy.denoiser, toys.LEARNER, family="sd15", extra={})
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
