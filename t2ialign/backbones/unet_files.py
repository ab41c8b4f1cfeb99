"""A UNet in one .safetensors file, as many fine-tunes are released: it has the architecture of a named base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from t2ialign.backbones.folders import check_tensors
from t2ialign.backbones.ldm_names import READS_TEXT, UNET_PREFIX, holds_unet, unet_names
from t2ialign.backbones.lora_origin import named_width
from t2ialign.backbones.single_files import TRAINING_LEFTOVERS, Contents, read_contents
from t2ialign.errors import InputError

PREFIXES = (UNET_PREFIX, "diffusion_model.", "unet.", "")
"""What files put before a UNet's tensors."""
OTHER_PARTS = ("first_stage_model.", "cond_stage_model.", "conditioner.")
"""How tensors begin of the parts of a checkpoint that are not read here."""


def is_unet_file(path: str | Path) -> bool:
    """Whether a path is a .safetensors file that holds a UNet's weights, alone or in a checkpoint.

    Raises:
        InputError: it is a file of that kind and cannot be read.
    """
    given = Path(path).expanduser()
    return given.is_file() and given.suffix == ".safetensors" and holds_unet(read_contents(given).types)


def load_unet_file(path: Path, config: Mapping[str, Any], dtype: torch.dtype) -> UNet2DConditionModel:
    """The UNet of a file, named as in diffusers or as in the original repositories, with or without a prefix.

    Args:
        config: of the base's UNet; the file has none.

    Raises:
        InputError: no UNet, another architecture, tensors that are missing, left over or quantised, or a damaged file.
    """
    contents = read_contents(path)
    if not holds_unet(contents.types):
        raise InputError(
            f"{path}: holds no UNet (first tensor: {next(iter(contents.types), 'none')}); give one, and a LoRA as "
            "--lora or lora.init"
        )
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config))
    assert isinstance(unet, UNet2DConditionModel)
    own = unet.state_dict()
    naming = _naming(contents, own)
    _check_width(path, contents, unet.config["cross_attention_dim"])
    check_tensors(
        f"{path}: the UNet, on the base's configuration,",
        naming.called.values() - contents.types.keys(),
        _left_over(contents, naming),
    )
    state: dict[str, torch.Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name, called in naming.called.items():
            tensor = file.get_tensor(called)
            if tensor.shape != own[name].shape:
                raise InputError(
                    f"{path}: a UNet of another architecture: {called} is {list(tensor.shape)} there and "
                    f"{list(own[name].shape)} in the base; name the base that it was made for"
                )
            if not contents.types[called].startswith(("F", "BF")):
                raise InputError(
                    f"{path}: {called} is stored as {contents.types[called]}; quantised files are not supported"
                )
            state[name] = tensor.to(dtype)
    unet.load_state_dict(state, assign=True)
    return unet.eval()


class _Naming(NamedTuple):
    """What a file calls the tensors of a UNet."""

    prefix: str
    called: dict[str, str]
    """Tensor of the module -> of the file."""


def _naming(contents: Contents, names: Iterable[str]) -> _Naming:
    """The naming of which a file has most tensors."""
    names = list(names)
    layouts = (dict(zip(names, names, strict=True)), unet_names(names))
    candidates = [
        _Naming(prefix, {name: prefix + called for name, called in layout.items()})
        for prefix in PREFIXES
        for layout in layouts
    ]
    return max(candidates, key=lambda naming: len(naming.called.values() & contents.types.keys()))


def _check_width(path: Path, contents: Contents, expected: int) -> None:
    key = next(name for name in contents.types if name.endswith(READS_TEXT))
    with safe_open(path, framework="pt") as file:
        found = file.get_slice(key).get_shape()[-1]
    if found != expected:
        raise InputError(
            f"{path}: a UNet with cross-attention width {named_width(found)}; the base's has {named_width(expected)}. "
            "Name the base that it was made for"
        )


def _left_over(contents: Contents, naming: _Naming) -> set[str]:
    """Tensors of a file that have no place in the UNet, and belong to no other part of a checkpoint."""
    strange = contents.types.keys() - set(naming.called.values())
    if naming.prefix == UNET_PREFIX:
        strange = {name for name in strange if not name.startswith(OTHER_PARTS)}
    return {name for name in strange if not TRAINING_LEFTOVERS.fullmatch(name)}
