"""LoRA files in every public layout, read as one: down and up matrices and a scale for each layer of a network.

Layouts: diffusers (`unet.…lora_A`, older `…lora.down` and `…processor.to_q_lora.down`), kohya (`lora_unet_…`), peft
(`base_model.model.…`), ComfyUI (`diffusion_model.…`), and no prefix; layers named as in diffusers or as in the original
repositories. Every tensor of a file is used or refused by name. `lora_text` has what text encoders are called.
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

_MATRIX = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<letter>[AB])(?:\.(?!weight$)\w+)?|\.lora_(?P<kohya>down|up)|[._]lora(?:_linear_layer)?\.(?P<old>down|up))"
    r"\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
_MAGNITUDES = {
    "magnitude": re.compile(r"(?P<layer>.+)\.lora_magnitude_vector(?:\.(?!weight$)\w+)?(?:\.weight)?"),
    "dora_scale": re.compile(r"(?P<layer>.+)\.dora_scale"),
}
"""What a DoRA's magnitudes are called: by peft, whose are of rows, and by kohya, whose shape says of what they are."""
_OLD_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")

_DORA = r"dora_scale|magnitude"
_OTHER_METHODS = {
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
    """A layer's adapter: scale * up @ down is added to its weight W.

    With a magnitude it is a DoRA (arXiv:2402.09353, Eq. 5): the sum, scaled so that its rows have the norms that the
    magnitude states, takes the place of W.
    """

    down: Tensor
    """[r, in] or [r, in, kh, kw]"""
    up: Tensor
    """[out, r] or [out, r, 1, 1]"""
    alpha: float
    """The scale is alpha / r."""
    magnitude: Tensor | None = None
    """[out] or [1, out, 1, 1]"""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


Layers = Mapping[str, LoraMatrices]
"""Name of a layer -> its adapter."""
Parts = Mapping[str, Layers]
"""unet, text_encoder or text_encoder_2 -> its layers."""


class Target(NamedTuple):
    """A network that a LoRA adapts."""

    name: str
    """For messages."""
    layers: Mapping[str, nn.Linear | nn.Conv2d]
    aliases: Mapping[str, str]
    """Every name that files give to a layer, without PREFIXES and with `_` for `.`, -> its name in `layers`."""


def other_method(names: Iterable[str]) -> str | None:
    """What an adapter is that is no plain LoRA, by the names of its tensors; None of a plain one."""
    for pattern, method in _OTHER_METHODS.items():
        if any(re.search(pattern, name) for name in names):
            return method
    return None


def is_dora(names: Iterable[str]) -> bool:
    """Whether an adapter is a DoRA, by the names of its tensors."""
    return any(re.search(_DORA, name) for name in names)


def without_prefixes(key: str) -> str:
    """A tensor's name without PREFIXES."""
    while True:
        for prefix in PREFIXES:
            if key.startswith(prefix):
                key = key.removeprefix(prefix)
                break
        else:
            return key


def denoiser_target(denoiser: nn.Module) -> Target:
    """A denoiser, whose layers files name as diffusers does or as the original repositories do."""
    layers = adaptable_layers(denoiser)
    names = list(layers)
    aliases = {
        alias.replace(".", "_"): name
        for naming in (unet_names(names), dict(zip(names, names, strict=True)))
        for name, alias in naming.items()
    }
    return Target("denoiser", layers, aliases)


def adaptable_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """A network's own linear and convolutional layers by name, whether or not they hold adapters already."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and ".lora_" not in name
    }


def _role(key: str) -> tuple[str, str] | None:
    """(layer as the file names it, 'down', 'up', 'alpha' or one of _MAGNITUDES) of a tensor; None of any other."""
    for role, pattern in (("alpha", _ALPHA), *_MAGNITUDES.items()):
        if match := pattern.fullmatch(key):
            return match["layer"], role
    if (match := _MATRIX.fullmatch(key)) is None:
        return None
    side = match["letter"] or match["kohya"] or match["old"]
    layer = match["layer"]
    if old := _OLD_PROCESSOR.search(layer):
        layer = layer[: old.start()] + "." + old[1].replace("to_out", "to_out.0")
    return layer, {"A": "down", "B": "up"}.get(side, side)


def read_matrices(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], target: Target, place: str
) -> dict[str, LoraMatrices]:
    """A LoRA's matrices by the target's layers, checked against the layers' shapes.

    Args:
        tensors: of the file, those for this target.
        settings: ranks and alphas that the file states beside its tensors, as peft names them; may be empty.
        place: the file, for messages.

    Raises:
        InputError: no plain LoRA, layers or shapes that the target has not, or tensors that belong to nothing.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    strangers: list[str] = []
    for key, tensor in tensors.items():
        role = _role(key)
        if role is None:
            method = other_method([key])
            what = f"{method}, which is not supported" if method else "no part of a LoRA"
            raise InputError(f"{place}: {what} (tensor {key}); {MERGE_ADVICE if method else 'give a plain LoRA'}")
        name = target.aliases.get(without_prefixes(role[0]).replace(".", "_"))
        if name is None:
            strangers.append(key)
        elif role[1] in layers.setdefault(name, {}):
            raise InputError(f"{place}: names layer {name} twice ({key}); give one LoRA")
        else:
            layers[name][role[1]] = tensor
    if strangers:
        raise InputError(
            f"{place}: {len(strangers)} of its {len(tensors)} {target.name} tensors belong to no layer of the model, "
            f"the first: {strangers[0]}; give the model that the LoRA was made for"
        )
    _check_magnitudes(layers, settings, place)
    return {name: _matrices(parts, name, target.layers[name], settings, place) for name, parts in layers.items()}


def _check_magnitudes(layers: Mapping[str, Mapping[str, Tensor]], settings: Mapping[str, Any], place: str) -> None:
    """Checks that all layers of a DoRA have a magnitude."""
    without = [name for name, parts in layers.items() if not _MAGNITUDES.keys() & parts.keys()]
    if without and (settings.get("use_dora") or len(without) < len(layers)):
        raise InputError(f"{place}: a DoRA (weight-decomposed) whose layer {without[0]} has no magnitude; get it again")


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
    magnitude = _magnitude(parts, name, weight, place)
    for matrix in (down, up, *(() if magnitude is None else (magnitude,))):
        if not (matrix.is_floating_point() and matrix.float().isfinite().all()):
            raise InputError(f"{place}: layer {name} holds values that are no finite numbers; get the file again")
    alpha = _alpha(parts, name, rank, settings, place)
    return LoraMatrices(down.float(), up.float(), alpha, None if magnitude is None else magnitude.float())


def _magnitude(parts: Mapping[str, Tensor], name: str, weight: Tensor, place: str) -> Tensor | None:
    """The magnitudes of a layer's rows in the shape that peft gives them; None of a plain LoRA."""
    role = next((role for role in _MAGNITUDES if role in parts), None)
    if role is None:
        return None
    stated, rows = parts[role], weight.shape[0]
    if stated.numel() != rows or (role == "dora_scale" and stated.shape[0] != rows):
        raise InputError(
            f"{place}: a DoRA (weight-decomposed) whose magnitudes of layer {name} are {list(stated.shape)}, where "
            f"the model's weight has {rows} rows; magnitudes of columns are not supported; {MERGE_ADVICE}"
        )
    return stated.reshape(rows) if weight.ndim == 2 else stated.reshape(1, rows, *[1] * (weight.ndim - 2))


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
