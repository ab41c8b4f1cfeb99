"""LoRA adapters: adding them to a denoiser, and files that plain diffusers reads with the same output."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2ialign.backbones.loading import PICKLES, near_miss, one_line
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.rng import generator
from t2ialign.storage.atomic import atomic_write

logger = logging.getLogger(__name__)

FILE_NAME = "pytorch_lora_weights.safetensors"
"""The file that `pipe.load_lora_weights(folder)` looks for."""
PREFIX = "unet."
"""What diffusers puts before the denoiser's part of a LoRA."""
CONFIG_KEY = "lora_adapter_metadata"
"""Header entry where diffusers keeps ranks, alphas and targets."""
PROVENANCE_KEY = "t2ialign"
"""Header entry of what made the file, as JSON."""
SAVED_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora")
WIDTHS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
"""Cross-attention widths of the published families."""

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
_BLOCKS = ["proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj"]
_SAMPLERS = ["downsamplers.0.conv", "upsamplers.0.conv"]
TARGETS = {
    "attention": _ATTENTION,
    "attention+ff": _ATTENTION + _FEED_FORWARD,
    "all": _ATTENTION + _FEED_FORWARD + _BLOCKS + _SAMPLERS,
}
"""`lora.targets` -> ends of the names of the layers that get an adapter."""


def tuner_layers(denoiser: nn.Module) -> list[BaseTunerLayer]:
    """The layers that hold adapters."""
    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def adapter_parameters(denoiser: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, by their names in the denoiser; empty if there is no such adapter."""
    named = denoiser.named_parameters()
    return {key: parameter for key, parameter in named if ".lora_" in key and f".{name}." in key}


@contextmanager
def _nothing_else_changes(denoiser: nn.Module) -> Iterator[None]:
    """Keeps the global random numbers and every existing parameter's requires_grad, which peft would change."""
    before = {parameter: parameter.requires_grad for parameter in denoiser.parameters()}
    device = next(denoiser.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is meant
        yield
    for parameter, needed in before.items():
        parameter.requires_grad_(needed)


def _settle(denoiser: nn.Module, name: str, trainable: bool) -> dict[str, nn.Parameter]:
    """An adapter's parameters in float32, with a gradient if trained; its dropout acts only if it is trained."""
    parameters = adapter_parameters(denoiser, name)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(trainable)
    for layer in tuner_layers(denoiser):
        if name in layer.lora_dropout:  # type: ignore[operator]
            layer.lora_dropout[name].train(trainable)  # type: ignore[index, operator]
    return parameters


def add_adapter(denoiser: nn.Module, name: str, lora: Lora, *, seed: int, trainable: bool) -> None:
    """Adds a fresh adapter: A normal with standard deviation 1 / rank, B zero, so that nothing changes yet.

    The same seed and name of a layer give the same numbers, whatever was drawn before.
    """
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides, so a fraction is as good as an int
        lora_dropout=lora.dropout,
        target_modules=TARGETS[lora.targets],
    )
    with _nothing_else_changes(denoiser):
        inject_adapter_in_model(config, denoiser, name)
    for key, parameter in _settle(denoiser, name, trainable).items():
        if ".lora_A." in key:
            layer = key.split(".lora_A.")[0]
            noise = torch.randn(parameter.shape, generator=generator(seed, "lora", layer))
            parameter.data.copy_(noise / lora.rank)


def save_lora(folder: Path, denoiser: nn.Module, adapter: str, *, family: str, extra: Mapping[str, Any]) -> Path:
    """Writes `pytorch_lora_weights.safetensors` with its true alpha, and returns its path.

    Args:
        family: architecture that the adapter fits.
        extra: what made it; kept in the file's header as JSON.

    Raises:
        ValueError: there is no such adapter.
        TryAgainError: the disk is full.
    """
    parameters = adapter_parameters(denoiser, adapter)
    if not parameters:
        raise ValueError(f"there is no adapter '{adapter}' to save")
    tensors = {
        PREFIX + key.replace(f".{adapter}.", "."): parameter.detach().contiguous().cpu()
        for key, parameter in parameters.items()
    }
    settings = denoiser.peft_config[adapter].to_dict()  # type: ignore[index, union-attr]
    settings["target_modules"] = sorted(settings["target_modules"])
    header = {
        "format": "pt",
        CONFIG_KEY: json.dumps({PREFIX + key: settings[key] for key in SAVED_SETTINGS}),
        PROVENANCE_KEY: json.dumps({"family": family, **extra}),
    }
    path = folder / FILE_NAME
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata=header)
    return path


def lora_file(path: Path) -> Path:
    """The safetensors file of a LoRA given by its file or its folder.

    Raises:
        InputError: nothing is there, it is a pickle, or the folder does not say which file it is.
    """
    if path.suffix in PICKLES:
        raise InputError(f"{path}: {path.suffix} files are pickles, which can run code when opened; give safetensors")
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such LoRA{near_miss(path)}")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    inner = sorted(path.glob(f"*/{FILE_NAME}")) or files
    hint = f"; did you mean {inner[0]}?" if inner else ""
    raise InputError(f"{path}: has no {FILE_NAME}{hint}")


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error


def _cross_attention_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The text width that a LoRA was made for: what its cross-attention keys and values take in."""
    for key, tensor in tensors.items():
        reads_text = "attn2" in key and ("to_k" in key or "to_v" in key)
        if reads_text and any(part in key for part in ("lora_A", "lora_down", "lora.down")):
            return tensor.shape[1]
    return None


def _check_family(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], denoiser: Any, family: str):
    def named(width: int) -> str:
        return f"{width} ({WIDTHS[width]})" if width in WIDTHS else str(width)

    made_for = json.loads(header.get(PROVENANCE_KEY, "{}")).get("family", family)
    found, expected = _cross_attention_width(tensors), denoiser.config.cross_attention_dim
    if found not in (None, expected):
        raise InputError(
            f"{file}: this LoRA has cross-attention width {named(found)}; the model, a '{family}', expects "
            f"{named(expected)}. Give the model that the LoRA was made for"
        )
    if made_for != family:
        raise InputError(f"{file}: this LoRA was made for '{made_for}'; the model is a '{family}'")


def _peft_settings(file: Path) -> dict[str, Any]:
    """What `adapter_config.json` beside a file that peft itself saved says."""
    config = file.parent / "adapter_config.json"
    if not config.is_file():
        raise InputError(f"{file}: peft's own format, but {config.name}, which holds its alpha, is not beside it")
    content = json.loads(config.read_text(encoding="utf-8"))
    return {PREFIX + key: content[key] for key in SAVED_SETTINGS if key in content}


def _inferred_settings(tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Ranks and alphas of each layer, read off its tensors; alpha is the rank where a file does not say."""
    ranks = {key.split(".lora_B.")[0]: tensor.shape[1] for key, tensor in tensors.items() if ".lora_B." in key}
    scales = {layer: alphas.get(layer, rank) for layer, rank in ranks.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, scales))
    layers = {layer.removeprefix(PREFIX): layer for layer in ranks}
    return {
        PREFIX + "r": rank,
        PREFIX + "lora_alpha": alpha,
        PREFIX + "rank_pattern": {name: ranks[layer] for name, layer in layers.items() if ranks[layer] != rank},
        PREFIX + "alpha_pattern": {name: scales[layer] for name, layer in layers.items() if scales[layer] != alpha},
        PREFIX + "target_modules": sorted(layers),
    }


class _Parts(NamedTuple):
    """A LoRA file's denoiser part in diffusers' naming."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    """Ranks, alphas and targets."""


def _parts(file: Path, tensors: dict[str, Tensor], header: Mapping[str, str], denoiser: Any, family: str) -> _Parts:
    own = "base_model.model."
    if all(key.startswith(own) for key in tensors):
        return _Parts({PREFIX + key.removeprefix(own): part for key, part in tensors.items()}, _peft_settings(file))
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    blocks = {"unet_config": denoiser.config} if family == "sdxl" else {}
    converted, alphas = pipeline.lora_state_dict(tensors, **blocks)  # type: ignore[misc]
    found = {key: part for key, part in converted.items() if key.startswith(PREFIX)}
    if len(found) < len(converted):
        others = sorted({key.split(".")[0] for key in converted if not key.startswith(PREFIX)})
        logger.warning("%s: its part for %s is left out; only the denoiser is adapted", file, ", ".join(others))
    if CONFIG_KEY in header:
        return _Parts(found, json.loads(header[CONFIG_KEY]))
    # diffusers matches only some of a kohya file's alphas to their layers where they differ, so we name the layers
    by_layer = _peft_names({key.removesuffix(".alpha"): alpha for key, alpha in (alphas or {}).items()})
    found = _peft_names(found)
    return _Parts(found, _inferred_settings(found, {key.split(".lora_A.")[0]: a for key, a in by_layer.items()}))


def _peft_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under peft's names of LoRA tensors, from any of diffusers' older ones."""
    old = {key: value for key, value in values.items() if ".lora_A." not in key and ".lora_B." not in key}
    return {**{key: value for key, value in values.items() if key not in old}, **convert_unet_state_dict_to_peft(old)}


def load_lora(denoiser: nn.Module, path: Path, name: str, *, family: str, trainable: bool = False) -> None:
    """Adds the adapter of a saved LoRA, with each layer's own rank and alpha.

    Args:
        path: a file, or a folder that holds one: of ours, of diffusers, of peft, or in kohya's naming.
        name: what the adapter is called here.
        family: architecture of the denoiser.

    Raises:
        InputError: no such file, not a LoRA, damaged, or made for another architecture.
    """
    assert isinstance(denoiser, PeftAdapterMixin)
    file = lora_file(path)
    tensors, header = _read(file)
    if not any("lora" in key for key in tensors):
        raise InputError(f"{file}: not a LoRA (first tensor: {next(iter(tensors), 'none')})")
    _check_family(file, tensors, header, denoiser, family)
    try:
        parts = _parts(file, tensors, header, denoiser, family)
        with _nothing_else_changes(denoiser):
            denoiser.load_lora_adapter(
                parts.tensors,
                prefix=PREFIX.removesuffix("."),
                adapter_name=name,
                metadata=parts.settings,
            )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{file}: this LoRA does not fit the model: {one_line(error)}") from error
    found = _settle(denoiser, name, trainable)
    if len(found) != len(parts.tensors):
        raise InputError(
            f"{file}: only {len(found)} of its {len(parts.tensors)} denoiser tensors fit the model; "
            "give the model that the LoRA was made for"
        )
