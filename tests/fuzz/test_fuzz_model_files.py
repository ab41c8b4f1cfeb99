"""Damaged LoRA files and single files from FUZZ_SEED on, for FUZZ_SECONDS: a model or one sentence, no traceback."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from fuzzing import TIMEOUT, fuzz
from safetensors.torch import load_file, save_file
from single_file import unet_layer_names, write_single_file
from torch import Tensor, nn

from t2ialign.backbones.adapters import TARGETS, adapter_parameters
from t2ialign.backbones.lora import load_lora
from t2ialign.backbones.stable_diffusion import StableDiffusion15
from t2ialign.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]

TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
WORDS = ["alpha", "lora_up.weight", "lora_mid.weight", "dora_scale", "weight", "bias", "ztsnr", "v_pred", "", ".", "é"]
HEADERS = ["lora_adapter_metadata", "t2ialign", "modelspec.prediction_type", "ss_v_parameterization", "format", "x"]
VALUES = ["", "{", "{}", "[]", "v", "True", '{"unet.r": "x"}', '{"unet.lora_alpha": null}', '{"family": 3}', "\x00"]
VALUES += ['{"unet.alpha_pattern": {"[": 1}}', '{"unet.use_rslora": true}', '{"unet.lora_alpha": 1e999}']


def refusal(action: Callable[[], object]) -> str | None:
    """The message with which something is refused; None if it is not."""
    try:
        action()
    except UserError as error:
        return str(error)
    return None


def other_shape(tensor: Tensor, draw: random.Random) -> Tensor:
    kind = draw.randrange(5)
    if kind == 0:
        return tensor.flatten()
    if kind == 1:
        return tensor[..., :-1]
    if kind == 2:
        return tensor[None]
    if kind == 3:
        return tensor[:0]
    return torch.cat([tensor, tensor]) if tensor.ndim else tensor.reshape(1)


def changed(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """The tensors with one to three of them renamed, dropped, added, reshaped, cast, or filled with other values."""
    tensors = dict(tensors)
    for _ in range(draw.randrange(1, 4)):
        name = draw.choice(list(tensors)) if tensors else "x"
        tensor = tensors.pop(name, torch.zeros(1))
        kind = draw.randrange(6)
        if kind == 0:
            tensors[name.rpartition(".")[0] + "." + draw.choice(WORDS)] = tensor
        elif kind == 1:
            tensors[name] = other_shape(tensor, draw)
        elif kind == 2:
            tensors[name] = tensor.to(draw.choice(TYPES))
        elif kind == 3:
            tensors[name] = torch.full_like(tensor, draw.choice([0.0, 1e30, float("nan"), float("inf")]))
        elif kind == 4:
            tensors |= {name: tensor, name + draw.choice(WORDS): tensor.clone()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def flipped(data: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them changed, mostly in the header, or with the end cut off."""
    if draw.random() < 0.2:
        return data[: draw.randrange(len(data))]
    header = 8 + struct.unpack("<Q", data[:8])[0]
    damaged = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        damaged[draw.randrange(header if draw.random() < 0.8 else len(data))] = draw.randrange(256)
    return bytes(damaged)


def write_damaged(path: Path, tensors: dict[str, Tensor], draw: random.Random) -> None:
    header = {draw.choice(HEADERS): draw.choice(VALUES)} if draw.random() < 0.5 else None
    save_file(changed(tensors, draw) if draw.random() < 0.7 else tensors, path, metadata=header)
    if draw.random() < 0.4:
        path.write_bytes(flipped(path.read_bytes(), draw))


def lora_tensors(denoiser: nn.Module) -> list[dict[str, Tensor]]:
    """A LoRA in kohya's, the original repositories', peft's and diffusers' naming."""
    layers = {
        name: module
        for name, module in denoiser.named_modules()
        if name.endswith(tuple(TARGETS["all"])) and isinstance(module, (nn.Linear, nn.Conv2d))
    }
    original = unet_layer_names(list(layers))
    found: list[dict[str, Tensor]] = []
    for prefix, names, ends in (
        ("lora_unet_", {name: name.replace(".", "_") for name in layers}, ("lora_down", "lora_up")),
        ("diffusion_model.", original, ("lora_down", "lora_up")),
        ("", {name: name for name in layers}, ("lora_A", "lora_B")),
        ("unet.", {name: name for name in layers}, ("lora_A", "lora_B")),
    ):
        tensors: dict[str, Tensor] = {}
        for name, module in layers.items():
            weight: Any = module.weight
            tensors[f"{prefix}{names[name]}.{ends[0]}.weight"] = torch.ones(2, *weight.shape[1:])
            tensors[f"{prefix}{names[name]}.{ends[1]}.weight"] = torch.ones(
                weight.shape[0], 2, *[1] * (weight.ndim - 2)
            )
        found.append(tensors)
    return found


def test_a_damaged_lora_is_read_whole_or_refused(sd15_folder: Path, tmp_path: Path):
    whole = toys.backbone(sd15_folder).denoiser
    layouts, path = lora_tensors(whole), tmp_path / "x.safetensors"

    def check(draw: random.Random) -> None:
        write_damaged(path, draw.choice(layouts), draw)
        denoiser = copy.deepcopy(whole)
        said = refusal(lambda: load_lora(denoiser, path, "x", family="sd15"))
        found = adapter_parameters(denoiser, "x").values()
        assert said is None or said.startswith(str(path))
        assert bool(found) == (said is None)
        assert all(parameter.isfinite().all() for parameter in found)

    fuzz(check)


def test_a_damaged_single_file_is_the_whole_model_or_refused(sd15_folder: Path, tmp_path: Path):
    tensors = load_file(write_single_file(sd15_folder, tmp_path / "whole.safetensors"))
    path = tmp_path / "x.safetensors"
    config = StableDiffusion15(pretrained=str(path), single_file_config=str(sd15_folder))

    def check(draw: random.Random) -> None:
        write_damaged(path, tensors, draw)
        said = refusal(lambda: config.build(torch.device("cpu")))
        assert said is None or str(path) in said

    fuzz(check)


def test_a_damaged_folder_is_the_whole_model_or_refused(sd15_folder: Path, tmp_path: Path):
    places = [
        *sd15_folder.glob("*/*.safetensors"),
        *sd15_folder.glob("*/config.json"),
        sd15_folder / "model_index.json",
    ]

    def check(draw: random.Random) -> None:
        folder = tmp_path / str(draw.random())
        place = draw.choice(places)
        for path in sd15_folder.rglob("*"):
            if path.is_file():
                copied = folder / path.relative_to(sd15_folder)
                copied.parent.mkdir(parents=True, exist_ok=True)
                if path != place:
                    copied.symlink_to(path)
                elif path.suffix == ".safetensors":
                    write_damaged(copied, load_file(path), draw)
                else:
                    content = json.loads(path.read_text())
                    content.pop(draw.choice(list(content)))
                    copied.write_text(
                        json.dumps(content) if draw.random() < 0.5 else path.read_text()[: draw.randrange(99)]
                    )
        said = refusal(lambda: StableDiffusion15(pretrained=str(folder)).build(torch.device("cpu")))
        assert said is None or str(folder) in said

    fuzz(check)
