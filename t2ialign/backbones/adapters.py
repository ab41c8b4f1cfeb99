"""LoRA adapters in a denoiser: which layers hold them, fresh ones, copies."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from torch import nn

from t2ialign.backbones.lora_layout import adaptable_layers
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.rng import generator

LEARNER = "learner"
"""The adapter that is trained."""
INIT = "init"
"""A frozen copy of the adapter that training started from."""
EMA = "ema"
"""The moving average of what is trained."""
OLD = "old"
"""What made the latest rollouts: an average of what is trained that follows it more closely."""

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


def tuner_layers(denoiser: nn.Module) -> list[LoraLayer]:
    """The layers that hold adapters."""
    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]


def adapter_parameters(denoiser: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, by their names in the denoiser; empty if there is no such adapter."""
    named = denoiser.named_parameters()
    return {key: parameter for key, parameter in named if ".lora_" in key and f".{name}." in key}


def adapter_config(denoiser: nn.Module, name: str) -> LoraConfig:
    """peft's settings of one adapter: ranks, alphas, layers.

    Raises:
        ValueError: there is no such adapter.
    """
    configs = cast("dict[str, LoraConfig]", getattr(denoiser, "peft_config", {}))
    if name not in configs:
        raise ValueError(f"there is no adapter '{name}'; there are: {', '.join(configs) or 'none'}")
    return configs[name]


def activate(layer: BaseTunerLayer, own: Mapping[str, float], mixture: Mapping[str, float]) -> None:
    """Makes a layer add those of its adapters that a mixture names, each times its scale, and no others.

    peft's set_adapter and enable_adapters also switch requires_grad, which would make a frozen second adapter
    trainable; setting the layer's own state touches nothing else.

    Args:
        own: adapter -> the layer's own scaling, alpha / rank.
    """
    layer._disable_adapters = not mixture
    layer._active_adapter = [name for name in mixture if name in own]
    layer.scaling.update({name: scale * mixture.get(name, 1.0) for name, scale in own.items()})  # type: ignore[operator]


@contextmanager
def _preserved_state(denoiser: nn.Module) -> Iterator[None]:
    """Keeps the global random numbers and every existing parameter's requires_grad, which peft would change."""
    before = {parameter: parameter.requires_grad for parameter in denoiser.parameters()}
    device = next(denoiser.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is meant
        yield
    for parameter, needed in before.items():
        parameter.requires_grad_(needed)


def inject_adapter(denoiser: nn.Module, name: str, config: LoraConfig, *, trainable: bool) -> dict[str, nn.Parameter]:
    """Adds an adapter with peft's own initial values, and returns its parameters, in float32.

    It has a gradient, and its dropout acts, only if it is trainable. Nothing else of the denoiser changes.
    """
    with _preserved_state(denoiser):
        inject_adapter_in_model(config, denoiser, name)
    parameters = adapter_parameters(denoiser, name)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(trainable)
    for layer in tuner_layers(denoiser):
        if name in layer.lora_dropout:
            layer.lora_dropout[name].train(trainable)
    return parameters


def target_layers(denoiser: nn.Module, lora: Lora) -> dict[str, tuple[nn.Linear | nn.Conv2d, int]]:
    """The layers that get an adapter, by name, and its rank.

    Raises:
        InputError: a pattern of ranks or alphas is of none of them.
    """
    ends = tuple(f".{target}" for target in TARGETS[lora.targets])
    layers = {name: layer for name, layer in adaptable_layers(denoiser).items() if f".{name}".endswith(ends)}
    for key, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        used = {get_pattern_key(list(patterns), name) for name in layers}
        for pattern in patterns:
            if pattern not in used:
                raise InputError(
                    f"lora.{key}: {pattern!r} is of no layer that lora.targets {lora.targets} adapts, or an earlier "
                    f"pattern has all of them; one of these layers is {next(iter(layers))}"
                )
    ranks = {name: get_pattern_key(list(lora.rank_pattern), name) for name in layers}
    return {name: (module, lora.rank_pattern.get(ranks[name], lora.rank)) for name, module in layers.items()}


def add_adapter(denoiser: nn.Module, name: str, lora: Lora, *, seed: int, trainable: bool) -> None:
    """Adds a fresh adapter: A normal with standard deviation 1 / rank, B zero, so that nothing changes yet.

    The same seed and name of a layer give the same numbers, whatever was drawn before.

    Raises:
        InputError: see `target_layers`.
    """
    target_layers(denoiser, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # peft divides, so a fraction is as good as an int
        lora_dropout=lora.dropout,
        target_modules=TARGETS[lora.targets],
        rank_pattern=lora.rank_pattern,
        alpha_pattern=cast("dict[str, int]", lora.alpha_pattern),
        use_dora=lora.dora,
    )
    for key, parameter in inject_adapter(denoiser, name, config, trainable=trainable).items():
        if ".lora_A." in key:
            layer = key.split(".lora_A.")[0]
            noise = torch.randn(parameter.shape, generator=generator(seed, "lora", layer))
            parameter.data.copy_(noise / len(noise))
    if lora.dora:
        _set_magnitudes(denoiser, name)


@torch.no_grad()
def _set_magnitudes(denoiser: nn.Module, name: str) -> None:
    """Gives a fresh DoRA the norms of the weights' rows as a pass computes them, whatever the weights' precision."""
    for layer in tuner_layers(denoiser):
        weight: torch.Tensor = dequantize_module_weight(layer.get_base_layer()).float()
        magnitude: Any = layer.lora_magnitude_vector[name]
        magnitude.weight.copy_(magnitude.get_weight_norm(weight, torch.zeros_like(weight), scaling=1))


def copy_adapter(
    denoiser: nn.Module, source: str, target: str, *, trainable: bool, dropout: float | None = None
) -> None:
    """Adds `target`, equal to `source` in layers, ranks, alphas and weights.

    Args:
        dropout: of the copy; default: the source's.

    Raises:
        ValueError: there is no adapter `source`.
    """
    config = copy.deepcopy(adapter_config(denoiser, source))
    if dropout is not None:
        config.lora_dropout = dropout
    originals = adapter_parameters(denoiser, source)
    for key, parameter in inject_adapter(denoiser, target, config, trainable=trainable).items():
        parameter.data.copy_(originals[key.replace(f".{target}.", f".{source}.")].data)
