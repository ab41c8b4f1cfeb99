"""LoRA files in every public layout, read as one: down and up matrices and a scale for each layer of a denoiser.

Layouts: diffusers (`unet.…lora_A`, older `…lora.down` and `…processor.to_q_lora.down`), kohya (`lora_unet_…`), peft
(`base_model.model.…`), ComfyUI (`diffusion_model.…`), and no prefix; layers named as in diffusers or as in the original
repositories. Every tensor of a file is used, belongs to a text encoder, or is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from t2ialign.backbones.ldm_names import unet_names
from t2ialign.errors import InputError

PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "lora_unet_")
"""What files put before the denoiser's part; several may follow each other."""
TEXT_PREFIXES = ("text_encoder", "lora_te", "te_", "te1_", "te2_", "cond_stage_model.", "conditioner.")
"""How tensors of text encoders begin, after PREFIXES."""

_MATRIX = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<letter>[AB])(?:\.(?!weight$)\w+)?|\.lora_(?P<kohya>down|up)|[._]lora(?:_linear_layer)?\.(?P<old>down|up))"
    r"\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
_OLD_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")

_DORA = r"dora_scale|magnitude"
_OTHER_METHODS = {
    _DORA: "a DoRA (weight-decomposed)",
    r"hada_|hadamard": "a LoHa",
    r"lokr_": "a LoKr",
    r"oft_|\.oft": "an OFT",
    r"lora_mid": "a LoRA with a core matrix (Tucker decomposition)",
    r"lora_[AB]\.(?:\w+\.)?bias|lora_(?:up|down)\.bias": "a LoRA with biases",
    r"\.diff(?:_b)?$|\.w_norm$|\.b_norm$": "a file of whole weight differences",
    r"on_input$": "an (IA)^3",
    r"\.glora|\.[ab][12]\.weight$": "a GLoRA",
}
"""Names in tensors of adapters that are no plain LoRA -> what they are."""


MERGE = "merge it into its base model (in diffusers: load_lora_weights, fuse_lora, save_pretrained)"
MERGE_ADVICE = f"{MERGE} and give that folder as the model"
"""What to do with an adapter that is no plain LoRA."""


class LoraMatrices(NamedTuple):
    """A layer's adapter: scale * up @ down is added to its weight."""

    down: Tensor
    """[r, in] or [r, in, kh, kw]"""
    up: Tensor
    """[out, r] or [out, r, 1, 1]"""
    alpha: float
    """The scale is alpha / r."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def other_method(names: Iterable[str]) -> str | None:
    """What an adapter is that is no plain LoRA, by the names of its tensors; None of a plain one."""
    for pattern, method in _OTHER_METHODS.items():
        if any(re.search(pattern, name) for name in names):
            return method
    return None


def is_dora(names: Iterable[str]) -> bool:
    """Whether an adapter is a DoRA, by the names of its tensors."""
    return any(re.search(_DORA, name) for name in names)


def _without_prefix(key: str) -> str:
    while True:
        for prefix in PREFIXES:
            if key.startswith(prefix):
                key = key.removeprefix(prefix)
                break
        else:
            return key


def is_text_part(key: str) -> bool:
    """Whether a tensor belongs to a text encoder."""
    return _without_prefix(key).startswith(TEXT_PREFIXES)


def _layer_aliases(denoiser: nn.Module) -> dict[str, str]:
    """Every name that files give to a layer, with `_` for `.`, -> its name in the denoiser."""
    names = list(_adaptable_layers(denoiser))
    return {
        alias.replace(".", "_"): name
        for naming in (unet_names(names), dict(zip(names, names, strict=True)))
        for name, alias in naming.items()
    }


def _adaptable_layers(denoiser: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The denoiser's own linear and convolutional layers by name, whether or not they hold adapters already."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in denoiser.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and ".lora_" not in name
    }


def _role(key: str) -> tuple[str, str] | None:
    """(layer as the file names it, 'down', 'up' or 'alpha') of a tensor; None of any other."""
    if match := _ALPHA.fullmatch(key):
        return match["layer"], "alpha"
    if (match := _MATRIX.fullmatch(key)) is None:
        return None
    side = match["letter"] or match["kohya"] or match["old"]
    layer = match["layer"]
    if old := _OLD_PROCESSOR.search(layer):
        layer = layer[: old.start()] + "." + old[1].replace("to_out", "to_out.0")
    return layer, {"A": "down", "B": "up"}.get(side, side)


def read_matrices(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], denoiser: nn.Module, place: str
) -> dict[str, LoraMatrices]:
    """A LoRA's matrices by the denoiser's layers, checked against the layers' shapes.

    Args:
        tensors: of the file, without those of text encoders.
        settings: ranks and alphas that the file states beside its tensors, as peft names them; may be empty.
        place: the file, for messages.

    Raises:
        InputError: no plain LoRA, layers or shapes that the denoiser has not, or tensors that belong to nothing.
    """
    aliases = _layer_aliases(denoiser)
    layers: dict[str, dict[str, Tensor]] = {}
    strangers: list[str] = []
    for key, tensor in tensors.items():
        role = _role(key)
        if role is None:
            method = other_method([key])
            what = f"{method}, which is not supported" if method else "no part of a LoRA"
            raise InputError(f"{place}: {what} (tensor {key}); {MERGE_ADVICE if method else 'give a plain LoRA'}")
        name = aliases.get(_without_prefix(role[0]).replace(".", "_"))
        if name is None:
            strangers.append(key)
        elif role[1] in layers.setdefault(name, {}):
            raise InputError(f"{place}: names layer {name} twice ({key}); give one LoRA")
        else:
            layers[name][role[1]] = tensor
    if strangers:
        raise InputError(
            f"{place}: {len(strangers)} of its {len(tensors)} denoiser tensors belong to no layer of the model, "
            f"the first: {strangers[0]}; give the model that the LoRA was made for"
        )
    modules = _adaptable_layers(denoiser)
    return {name: _matrices(parts, name, modules[name], settings, place) for name, parts in layers.items()}


def _matrices(
    parts: Mapping[str, Tensor], name: str, module: nn.Linear | nn.Conv2d, settings: Mapping[str, Any], place: str
) -> LoraMatrices:
    """A layer's matrices in the shapes that peft gives them, checked."""
    for role in ("down", "up"):
        if role not in parts:
            raise InputError(f"{place}: layer {name} has no {role} matrix; get the file again")
    weight = module.weight
    down, up = parts["down"], parts["up"]
    if isinstance(module, nn.Linear):
        down, up = _flat(down), _flat(up)
    elif down.ndim == up.ndim == 2:
        down, up = down[:, :, None, None], up[:, :, None, None]
    rank = up.shape[1] if up.ndim > 1 else 0
    wanted = (rank, *weight.shape[1:]), (weight.shape[0], rank, *[1] * (weight.ndim - 2))
    if rank < 1 or (tuple(down.shape), tuple(up.shape)) != wanted:
        raise InputError(
            f"{place}: layer {name} has matrices {list(parts['down'].shape)} and "
            f"{list(parts['up'].shape)}, which do not fit the model's {list(weight.shape)}; "
            "give the model that the LoRA was made for"
        )
    for matrix in (down, up):
        if not (matrix.is_floating_point() and matrix.float().isfinite().all()):
            raise InputError(f"{place}: layer {name} holds values that are no finite numbers; get the file again")
    return LoraMatrices(down.float(), up.float(), _alpha(parts, name, rank, settings, place))


def _flat(matrix: Tensor) -> Tensor:
    """[a, b] of [a, b, 1, 1], as some tools write linear layers."""
    return matrix.flatten(1) if matrix.ndim == 4 and matrix.shape[2:] == (1, 1) else matrix


def _alpha(parts: Mapping[str, Tensor], name: str, rank: int, settings: Mapping[str, Any], place: str) -> float:
    """The alpha that a file states for a layer; the rank where it states none."""
    stated = parts.get("alpha")
    if stated is not None:
        if stated.numel() != 1 or not math.isfinite(stated.double().item()):
            raise InputError(f"{place}: the alpha of layer {name} is no number; get the file again")
        return stated.item()
    pattern = settings.get("alpha_pattern") or {}
    try:
        alpha = pattern.get(get_pattern_key(list(pattern), name), settings.get("lora_alpha"))
    except re.error as error:
        raise InputError(f"{place}: its alpha_pattern cannot be read ({error}); get the file again") from error
    if alpha is None:
        return float(rank)
    if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise InputError(f"{place}: its settings give layer {name} the alpha {alpha!r}, no number; get the file again")
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha
