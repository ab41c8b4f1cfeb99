"""LoRAs out and in again: the same UNet output in plain diffusers, and by a merge written here."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from single_file import unet_layer_names
from torch import Tensor, nn

from t2ialign.backbones.adapters import TARGETS
from t2ialign.backbones.lora import load_lora
from t2ialign.backbones.lora_layout import LoraMatrices
from t2ialign.backbones.lora_write import save_parts
from t2ialign.errors import InputError
from t2ialign.export.model import export_model
from t2ialign.export.source import source_of_model

FAMILIES = ["sd15", "sdxl"]
KINDS = ["equal", "per-layer", "dora"]


@cache
def base(folder: Path, family: str) -> Any:
    return toys.backbone(folder, family=family)


def fresh(folder: Path, family: str) -> UNet2DConditionModel:
    return copy.deepcopy(base(folder, family).denoiser)


def made_layers(unet: nn.Module, kind: str, size: float = 0.1) -> dict[str, LoraMatrices]:
    """Random adapters of every layer that `targets: all` names, no alpha equal to its rank."""
    random = torch.Generator().manual_seed(3)
    found: dict[str, LoraMatrices] = {}
    for name, module in unet.named_modules():
        if not (name.endswith(tuple(TARGETS["all"])) and isinstance(module, nn.Linear | nn.Conv2d)):
            continue
        rank = 4 if kind == "equal" else 1 + len(found) % 3
        alpha = 6.0 if kind == "equal" else rank + 0.5 + len(found) % 2
        down = torch.randn(rank, *module.weight.shape[1:], generator=random) * size
        up = torch.randn(module.weight.shape[0], rank, *[1] * (down.ndim - 2), generator=random) * size
        norms = module.weight.flatten(1).norm(dim=1) * (0.9 + 0.2 * torch.rand(len(up), generator=random))
        magnitude = norms if down.ndim == 2 else norms[None, :, None, None]
        found[name] = LoraMatrices(down, up, alpha, magnitude if kind == "dora" else None)
    return found


@torch.no_grad()
def merge(unet: nn.Module, layers: dict[str, LoraMatrices]) -> None:
    """W + alpha / r * B A, and of a DoRA its rows brought to the norms that the magnitude states."""
    modules: dict[str, Any] = dict(unet.named_modules())
    for name, made in layers.items():
        weight = modules[name].weight
        weight += made.alpha / len(made.down) * (made.up.flatten(1) @ made.down.flatten(1)).view_as(weight)
        if made.magnitude is not None:
            rows = weight.flatten(1)
            weight.copy_((rows * (made.magnitude.flatten() / rows.norm(dim=1))[:, None]).view_as(weight))


def from_kohya(file: Path, names: dict[str, str]) -> dict[str, LoraMatrices]:
    """What a file in kohya's layout says of each layer, read without the package.

    Args:
        names: layer of the UNet -> its name in the file.
    """
    tensors = load_file(file)
    found = {}
    for name, called in names.items():
        stem = "lora_unet_" + called.replace(".", "_")
        down, up = tensors.pop(f"{stem}.lora_down.weight"), tensors.pop(f"{stem}.lora_up.weight")
        alpha = tensors.pop(f"{stem}.alpha").item()
        found[name] = LoraMatrices(down, up, alpha, tensors.pop(f"{stem}.dora_scale", None))
    assert not tensors
    return found


@torch.no_grad()
def output(unet: Any, family: str) -> Tensor:
    """[2, 4, 8, 8]"""
    random = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 4, 8, 8, generator=random)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=random)
    added = None
    if family == "sdxl":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(2, width, generator=random), "time_ids": torch.full((2, 6), 64.0)}
    return unet(latents, torch.tensor([10, 900]), text, added_cond_kwargs=added).sample


def in_diffusers(folder: Path, file: Path) -> Any:
    """The UNet of a plain pipeline that loaded a LoRA."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipeline.unet


def read_by_us(folder: Path, file: Path, family: str) -> nn.Module:
    unet = fresh(folder, family)
    load_lora(unet, file, "style", family=family)
    return unet


def exported(model: Path, lora: Path, form: Any, out: Path) -> Path:
    return export_model(out, source_of_model(str(model), {str(lora): 1.0}, None, None), form)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_every_kind_out_and_in_again_gives_the_same_output(request, tmp_path: Path, family: str, kind: str):
    folder: Path = request.getfixturevalue(f"{family}_folder")
    expected = fresh(folder, family)
    layers = made_layers(expected, kind)
    before = output(expected, family)
    merge(expected, layers)
    wanted = output(expected, family)
    assert (wanted - before).abs().max() > 0.01  # the adapter does something

    def check(unet: nn.Module) -> None:
        torch.testing.assert_close(output(unet, family), wanted, atol=1e-5, rtol=1e-5)

    first = save_parts(tmp_path / "first", {"unet": layers}, family=family, extra={})
    kohya = exported(folder, first, "kohya", tmp_path / "kohya") / "first.safetensors"
    again = exported(folder, kohya, "diffusers", tmp_path / "again") / "pytorch_lora_weights.safetensors"
    called = unet_layer_names(list(layers)) if family == "sdxl" else {name: name for name in layers}
    independent = fresh(folder, family)
    merge(independent, from_kohya(kohya, called))
    check(independent)
    for file in (first, kohya, again):
        check(read_by_us(folder, file, family))
    # of kohya's layout diffusers drops magnitudes, and the alphas of attention layers where layers differ in alpha
    for file in (first, kohya, again) if kind == "equal" else (first, again):
        check(in_diffusers(folder, file))
    merged = exported(folder, kohya, "merged", tmp_path / "merged")
    check(DiffusionPipeline.from_pretrained(merged).unet)


@pytest.mark.parametrize("form", ["kohya", "merged"])
def test_several_loras_become_one_by_their_scales(sd15_folder: Path, tmp_path: Path, form: Any):
    expected = fresh(sd15_folder, "sd15")
    scales, loras = {"equal": 0.5, "per-layer": -0.7}, {}
    for kind, scale in scales.items():
        layers = made_layers(expected, kind)
        loras[str(save_parts(tmp_path / kind, {"unet": layers}, family="sd15", extra={}))] = scale
        merge(expected, {name: made._replace(alpha=scale * made.alpha) for name, made in layers.items()})
    out = export_model(tmp_path / "out", source_of_model(str(sd15_folder), loras, None, None), form)
    if form == "merged":
        unet = UNet2DConditionModel.from_pretrained(out / "unet")
    else:
        unet = read_by_us(sd15_folder, out / "equal.safetensors", "sd15")
    torch.testing.assert_close(output(unet, "sd15"), output(expected, "sd15"), atol=1e-5, rtol=1e-5)


def test_a_dora_is_not_scaled_into_a_file(sd15_folder: Path, tmp_path: Path):
    layers = made_layers(fresh(sd15_folder, "sd15"), "dora")
    file = save_parts(tmp_path / "dora", {"unet": layers}, family="sd15", extra={})
    source = source_of_model(str(sd15_folder), {str(file): 0.5}, None, None)
    with pytest.raises(InputError, match="a DoRA cannot be added to another LoRA, or scaled; write the whole model"):
        export_model(tmp_path / "out", source, "kohya")
    assert not (tmp_path / "out").exists()
