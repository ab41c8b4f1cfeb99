"""Writes a model with a negative model as a folder that plain diffusers loads."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from t2ialign.backbones.lora_checks import DENOISER
from t2ialign.backbones.lora_write import active_layers, save_parts
from t2ialign.backbones.scheduler import ddim_scheduler
from t2ialign.errors import InputError
from t2ialign.export import pipeline
from t2ialign.models import GuidedModel, open_guided_model
from t2ialign.storage.atomic import atomic_directory
from t2ialign.types import Weights

NEGATIVE_UNET = "negative_unet"


def export_guided(
    out: Path,
    model: str,
    negative: Mapping[str, float],
    *,
    alpha: float = 1.0,
    family: str | None = None,
    loras: Mapping[str, float] | None = None,
    precision: str = "fp32",
    backbone: Mapping[str, object] | None = None,
) -> Path:
    """Writes the model that `open_guided_model` opens: base, an adapter for each branch, and their pipeline.

    It is a diffusers folder with the base's parts and a DDIM scheduler, as `t2ialign generate` samples. The LoRAs of a
    branch are one, in `positive/` and `negative/`; the second network that a full fine-tune needs is in
    `negative_unet/`. `pipeline.py` needs diffusers alone.

    Args:
        out: a new folder.
        model, negative, alpha, family, loras, backbone: see `open_guided_model`.
        precision: of the parts of the base and the second UNet; the adapters are in float32.

    Raises:
        InputError: `out` exists, or `backbone` has another null conditioning than diffusers knows; else see
            `open_guided_model`.
        EnvironmentProblem: see `open_guided_model`.
        TryAgainError: the disk is full.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder")
    if "null" in (backbone or {}):
        raise InputError("--backbone null: a diffusers pipeline has its family's own; leave the key out")
    guided = open_guided_model(
        model, negative, alpha=alpha, family=family, loras=loras, precision=precision, backbone=backbone
    )
    made_of = {"base": model, "loras": dict(loras or {}), "negative": dict(negative), "negative_alpha": alpha}
    with atomic_directory(out) as partial:
        _save_parts(guided, partial)
        adapters = {
            f"{branch}_adapter": _save_adapter(guided, weights, partial / branch, made_of)
            for branch, weights in ((pipeline.POSITIVE, guided.weights), (pipeline.NEGATIVE, guided.negative))
        }
        parent = _complete_index(partial / "model_index.json", adapters)
        source = inspect.getsource(pipeline).replace("StableDiffusionPipeline", parent)
        (partial / "pipeline.py").write_text(source, encoding="utf-8")
        (partial / "README.md").write_text(_card(made_of), encoding="utf-8")
    return out


def _save_parts(guided: GuidedModel, out: Path) -> None:
    """Saves the base's parts, and the second network where there is one, without adapters."""
    policy, parts = guided.policy, cast(Any, guided.policy.backbone.pipeline())
    parts.unet = _without_adapters(policy.denoiser)
    parts.scheduler = ddim_scheduler({**parts.scheduler.config, "clip_sample": False}, parts.name_or_path)
    parts.save_pretrained(out)
    second = policy.network(guided.negative)
    if second is not policy.denoiser:
        _without_adapters(second).save_pretrained(out / NEGATIVE_UNET)


def _without_adapters(unet: nn.Module) -> UNet2DConditionModel:
    """The same weights, shared, in a network without adapters."""
    state = {
        name.replace(".base_layer.", "."): tensor for name, tensor in unet.state_dict().items() if ".lora_" not in name
    }
    with torch.device("meta"):
        plain = UNet2DConditionModel.from_config(cast(UNet2DConditionModel, unet).config)
    assert isinstance(plain, UNet2DConditionModel)
    plain.load_state_dict(state, assign=True)
    return plain


def _save_adapter(guided: GuidedModel, weights: Weights, out: Path, made_of: Mapping[str, Any]) -> str | None:
    """Saves what is active in a branch as one LoRA; the name of its folder, None where nothing is."""
    policy = guided.policy
    with policy.mixture(weights) as network:
        layers = active_layers(network)
        if layers:
            save_parts(out, {DENOISER: layers}, family=policy.backbone.name, extra=made_of)
    return out.name if layers else None


def _complete_index(path: Path, adapters: Mapping[str, str | None]) -> str:
    """Names the pipeline's class and its own parts in diffusers' index; returns the parent's name."""
    index = json.loads(path.read_text(encoding="utf-8"))
    parent = index["_class_name"]
    index["_class_name"] = ["pipeline", pipeline.NegativeModelPipeline.__name__]
    if (path.parent / NEGATIVE_UNET).is_dir():
        index[NEGATIVE_UNET] = ["diffusers", UNet2DConditionModel.__name__]
    if "force_zeros_for_empty_prompt" in index:
        index["add_watermarker"] = False  # SDXL's parent would add one wherever the package for it is installed
    path.write_text(json.dumps({**index, **adapters}, indent=2) + "\n", encoding="utf-8")
    return parent


def _card(made_of: Mapping[str, Any]) -> str:
    return f"""# A model with a negative model for guidance

```json
{json.dumps(made_of, indent=1, ensure_ascii=False)}
```

Needs diffusers and peft. `pipeline.py` is run, so read it first.

```python
from diffusers import DiffusionPipeline

folder = "this folder"
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
image = pipeline("a red circle", guidance_scale=3).images[0]
```
"""
