"""LoRAs of a UNet and of text encoders in public layouts, written here, and the same added to the weights by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from single_file import unet_layer_names
from torch import Tensor, nn

from t2ialign.backbones.adapters import TARGETS
from t2ialign.policy import Policy
from t2ialign.types import Weights

PROMPTS = ["a red circle", "two cats above the blue square"]
ENDS = {
    "unet": tuple(TARGETS["all"]),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "text_encoder_2": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection"),
}
KOHYA = {
    "sd15": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}


class Made(NamedTuple):
    """One layer's LoRA or DoRA."""

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None


Parts = dict[str, dict[str, Made]]
"""Part of the pipeline -> layer as its module calls it -> what is added."""


def pipeline_of(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder)


def made_parts(pipeline: Any, kind: str = "per-layer", *, seed: int = 0, size: float = 0.2) -> Parts:
    """Random matrices of every part; ranks and alphas differ unless `kind` is equal, and alpha is never the rank."""
    random = torch.Generator().manual_seed(seed)
    parts: Parts = {}
    for part, ends in ENDS.items():
        if part not in pipeline.components:
            continue
        layers: dict[str, Made] = {}
        for name, module in pipeline.components[part].named_modules():
            if name.endswith(ends) and isinstance(module, (nn.Linear, nn.Conv2d)):
                rank = 2 if kind == "equal" else 1 + len(layers) % 3
                alpha = 3.0 if kind == "equal" else rank + 0.5 + len(layers) % 2
                down = torch.randn(rank, *module.weight.shape[1:], generator=random) * size
                up = torch.randn(len(module.weight), rank, *[1] * (down.ndim - 2), generator=random) * size
                norms = module.weight.detach().flatten(1).norm(dim=1)
                norms = norms * (0.9 + 0.2 * torch.rand(len(up), generator=random))
                layers[name] = Made(down, up, alpha, norms if kind == "dora" else None)
        parts[part] = layers
    return parts


@torch.no_grad()
def merge(pipeline: Any, parts: Parts, scale: float = 1.0) -> Any:
    """W + scale * alpha / rank * up @ down; of a DoRA its rows are then brought to the norms of the magnitude."""
    for part, layers in parts.items():
        modules = dict(pipeline.components[part].named_modules())
        for name, made in layers.items():
            weight: Any = modules[name].weight
            added = scale * made.alpha / len(made.down) * (made.up.flatten(1) @ made.down.flatten(1))
            rows = weight.flatten(1) + added
            if made.magnitude is not None:
                rows = rows * (made.magnitude.flatten() / rows.norm(dim=1))[:, None]
            weight.copy_(rows.view_as(weight))
    return pipeline


def published(part: str, name: str) -> str:
    """What files call a layer: those of text encoders as in transformers 4, where all are in `text_model`."""
    inside = part != "unet" and not name.startswith("text_projection")
    return f"text_model.{name.removeprefix('text_model.')}" if inside else name


def kohya_names(parts: Parts, family: str) -> dict[str, dict[str, str]]:
    """Part -> layer -> what kohya's layout calls it."""
    unet = unet_layer_names(list(parts.get("unet", {}))) if family == "sdxl" else {}
    return {
        part: {
            name: KOHYA[family][part] + (unet.get(name) or published(part, name)).replace(".", "_") for name in layers
        }
        for part, layers in parts.items()
    }


def write_kohya(path: Path, parts: Parts, family: str) -> Path:
    tensors: dict[str, Tensor] = {}
    for part, names in kohya_names(parts, family).items():
        for name, stem in names.items():
            made = parts[part][name]
            tensors |= {f"{stem}.lora_down.weight": made.down, f"{stem}.lora_up.weight": made.up}
            tensors[f"{stem}.alpha"] = torch.tensor(made.alpha)
            if made.magnitude is not None:
                tensors[f"{stem}.dora_scale"] = made.magnitude.reshape(-1, *[1] * (made.down.ndim - 1))
    return _save(path, tensors)


def read_kohya(path: Path, parts: Parts, family: str) -> Parts:
    """What a file in kohya's layout says of the layers of `parts`; it must say no more."""
    tensors = load_file(path)
    found: Parts = {}
    for part, names in kohya_names(parts, family).items():
        found[part] = {}
        for name, stem in names.items():
            down, up = tensors.pop(f"{stem}.lora_down.weight"), tensors.pop(f"{stem}.lora_up.weight")
            alpha, magnitude = tensors.pop(f"{stem}.alpha").item(), tensors.pop(f"{stem}.dora_scale", None)
            found[part][name] = Made(down, up, alpha, magnitude)
    assert not tensors
    return found


def write_dotted(
    path: Path, parts: Parts, prefixes: dict[str, str], header: dict[str, str] | None = None, down: str = "lora_A"
) -> Path:
    """Layers with dots in their names, as diffusers, peft and ComfyUI write them."""
    up = {"lora_A": "lora_B", "lora_down": "lora_up", "lora_linear_layer.down": "lora_linear_layer.up"}[down]
    tensors: dict[str, Tensor] = {}
    for part, layers in parts.items():
        for name, made in layers.items():
            stem = f"{prefixes[part]}{published(part, name)}"
            tensors |= {f"{stem}.{down}.weight": made.down, f"{stem}.{up}.weight": made.up}
            if down == "lora_down":
                tensors[f"{stem}.alpha"] = torch.tensor(made.alpha)
            if made.magnitude is not None:
                shape = (-1,) if made.down.ndim == 2 else (1, -1, 1, 1)
                end = "" if part == "unet" else ".weight"  # without it transformers 5 drops a text encoder's
                tensors[f"{stem}.lora_magnitude_vector{end}"] = made.magnitude.reshape(shape)
    return _save(path, tensors, header)


def settings(layers: dict[str, Made]) -> dict[str, Any]:
    """peft's settings of a part."""
    return {
        "r": 1,
        "lora_alpha": 0.5,
        "rank_pattern": {name: len(made.down) for name, made in layers.items()},
        "alpha_pattern": {name: made.alpha for name, made in layers.items()},
        "target_modules": sorted(layers),
        "use_dora": any(made.magnitude is not None for made in layers.values()),
    }


def write_diffusers(path: Path, parts: Parts) -> Path:
    """With ranks and alphas in the header, as `save_lora_weights` writes them."""
    stated = {f"{part}.{key}": value for part, layers in parts.items() for key, value in settings(layers).items()}
    return write_dotted(
        path, parts, {part: f"{part}." for part in parts}, {"lora_adapter_metadata": json.dumps(stated)}
    )


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata=header)
    return path


class Answers(NamedTuple):
    """What a model makes of PROMPTS."""

    tokens: Tensor
    """[2, L, D]"""
    pooled: Tensor
    """[2, P]; empty where the family has none"""
    output: Tensor
    """Of the UNet. [2, 4, 8, 8]"""


def _inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([10, 900])


@torch.no_grad()
def ours(policy: Policy, weights: Weights) -> Answers:
    """By this package."""
    cond = policy.backbone.encode_prompts(PROMPTS)
    size = policy.backbone.geometry((64, 64), (0, 0), (64, 64))
    geometry = None if size is None else size.expand(2, -1)
    output = policy.denoise(*_inputs(), cond, geometry, weights)
    return Answers(cond.tokens, torch.zeros(0) if cond.pooled is None else cond.pooled, output)


@torch.no_grad()
def theirs(pipeline: Any) -> Answers:
    """By a pipeline of plain diffusers."""
    if "text_encoder_2" not in pipeline.components:
        tokens, _ = pipeline.encode_prompt(PROMPTS, torch.device("cpu"), 1, True)
        return Answers(tokens, torch.zeros(0), pipeline.unet(*_inputs(), tokens).sample)
    tokens, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device=torch.device("cpu"))
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    return Answers(tokens, pooled, pipeline.unet(*_inputs(), tokens, added_cond_kwargs=added).sample)


def assert_same(found: Answers, expected: Answers, tolerance: float = 1e-5) -> None:
    for name, one, other in zip(Answers._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def differ(one: Answers, other: Answers) -> bool:
    """Whether everything differs by more than rounding."""
    return all((a - b).abs().max() > 0.01 for a, b in zip(one, other, strict=True) if a.numel())
