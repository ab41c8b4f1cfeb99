"""A whole pipeline with LoRAs merged into its weights, or with a fine-tuned UNet in the base's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from t2ialign.backbones.lora import merge_loras
from t2ialign.backbones.lora_checks import lora_folder
from t2ialign.export.source import Source


def write_merged(out: Path, source: Source, dtype: torch.dtype) -> None:
    """Writes a diffusers folder whose parts answer as the source's adapters do together.

    Weights are added in float32 and then rounded.

    Raises:
        InputError: a part cannot be used.
        TryAgainError: the disk is full.
    """
    backbone = source.backbone.build(torch.device("cpu"), torch.float32)
    pipeline = cast(Any, backbone.pipeline())
    loras = {lora_folder(path): scale for path, scale in source.loras.items()}
    merge_loras(pipeline, loras, family=source.backbone.family)
    pipeline.to(dtype=dtype)
    pipeline.save_pretrained(out)
