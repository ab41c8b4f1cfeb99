"""The memory that a run takes on each process's device, by part, found from shapes: no weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2ialign.backbones.quantization import outline_nf4
from t2ialign.config.schema import OPTIMIZERS, OnlineConfig, Optim, RunConfig
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES
from t2ialign.training.core import build_policy
from t2ialign.training.optimization import build_optimizer
from t2ialign.training.pass_memory import AtOnce, encoding_pass, image_passes, training_passes
from t2ialign.training.preflight import Plan
from t2ialign.training.shard_memory import block_parameters, gathered_bytes, part_bytes
from t2ialign.training.tensor_bytes import Shapes, module_tensors, storage_bytes


class Memory(NamedTuple):
    """Bytes of tensors on the device of one process, at the moment of an optimizer step when there are most."""

    weights: int
    """Of the denoiser, without adapters."""
    encoders: int
    """VAE and text encoders, where they stay."""
    copies: int
    """Frozen copies of the denoiser: reference, average, old weights."""
    adapters: int
    """All adapters, frozen ones too."""
    gradients: int
    optimizer: int
    gathered: int
    """With `train.shard`, the layers that are whole for their pass."""
    activations: int
    """What the passes of a micro-batch hold, or, if that is more, what the optimizer's step does."""

    @property
    def total(self) -> int:
        return sum(self)


class Stages(NamedTuple):
    """The most bytes of tensors at once in each stage of a run."""

    training: Memory
    others: dict[str, int]
    """While weights are loaded that are cut or quantised then, while the VAE encodes the data, and while rollouts or
    validation make images, where they do."""


def estimate_memory(config: RunConfig, plan: Plan, device: torch.device, *, world_size: int = 1) -> Stages | None:
    """What each process of a run takes on its device; None where the model's configuration is not at hand."""
    dtype = DTYPES[config.train.precision] if config.lora is not None else torch.float32
    backbone = None if plan.facts is None else config.backbone.outline(plan.facts, dtype)
    if backbone is None:
        return None
    loaded = storage_bytes(module_tensors([backbone.denoiser]))
    if config.train.quantize is not None:
        outline_nf4(backbone.denoiser, dtype)
    encoders = [part for part in backbone.pipeline().components.values() if isinstance(part, nn.Module)]
    encoders = [part for part in encoders if part is not backbone.denoiser]
    # torch.compile fuses what this counts one by one, and xformers saves what torch's own attention does
    plain = config.train.model_copy(update={"compile": False, "attention": _counted_attention(config)})
    with torch.device("meta"):
        policy = build_policy(
            config.model_copy(update={"train": plain}),
            backbone,
            keeps_reference=config.keeps_reference,
            keeps_old=config.keeps_old,
        )
    shapes = Shapes(device)
    shapes.adopt(policy.denoiser, *policy.copies.values(), *encoders)
    if config.train.shard is None:
        training = _training(config, plan, policy, shapes)
    else:
        training = _sharded_training(config, plan, policy, shapes, world_size)
    kept = storage_bytes(module_tensors(encoders))
    if _keeps_encoders(config):
        training = training._replace(encoders=kept)
    model = training.weights + training.copies + training.adapters + kept
    side = config.data.resolution or backbone.resolution
    others: dict[str, int] = {}
    if config.train.quantize is not None or config.train.shard is not None:
        others["while weights are loaded"] = loaded + kept
    if config.data.has_images:
        others["while data are encoded"] = model + encoding_pass(backbone, side, shapes)
    for name, made in _images_at_once(config).items():
        others[name] = model + training.optimizer + image_passes(config, plan, policy, made, shapes)
        if config.train.shard is not None:  # one process makes them, on whole networks
            networks = [policy.network(weights) for weights in ("reference", config.validation.weights)]
            others[name] += storage_bytes(module_tensors(networks))
    return Stages(training, others)


def _counted_attention(config: RunConfig) -> str:
    return "math" if config.train.attention == "math" else "default"


def _keeps_encoders(config: RunConfig) -> bool:
    """Whether VAE and text encoders stay on the device while training."""
    cache = config.data.cache
    encodes = (config.data.has_images and cache.latents is False) or cache.text is False
    return isinstance(config, OnlineConfig) or encodes or config.validation.prompts is not None


def _training(config: RunConfig, plan: Plan, policy: Policy, shapes: Shapes) -> Memory:
    named = dict(policy.denoiser.named_parameters())
    adapters = [parameter for name, parameter in named.items() if ".lora_" in name]
    trained = list(policy.trained_parameters().values())
    gradients = storage_bytes(trained)
    everything = storage_bytes(module_tensors([policy.denoiser]))
    passes = training_passes(config, plan, policy, shapes, accumulates=plan.accumulation > 1)
    return Memory(
        weights=everything - storage_bytes(adapters),
        encoders=0,
        copies=storage_bytes(module_tensors(policy.copies.values())),
        adapters=storage_bytes(adapters),
        gradients=gradients,
        optimizer=round(_state_share(config.optim) * gradients),
        gathered=0,
        activations=max(passes - gradients, _step_bytes(config.optim, trained, shapes.device)),
    )


def _sharded_training(config: RunConfig, plan: Plan, policy: Policy, shapes: Shapes, processes: int) -> Memory:
    """Of a process that has its part of every network, all of whose parameters are trained."""
    trained = list(policy.denoiser.parameters())
    gradients = part_bytes(trained, processes)
    made = gradients if plan.accumulation == 1 else 0  # later micro-batches add to those that are there
    left = {p: part_bytes([p], processes) if made else 0 for p in block_parameters(policy.denoiser)}
    return Memory(
        weights=gradients,
        encoders=0,
        copies=sum(part_bytes(network.parameters(), processes) for network in policy.copies.values()),
        adapters=0,
        gradients=gradients,
        optimizer=round(_state_share(config.optim) * gradients),
        gathered=gathered_bytes(policy.denoiser, processes),
        activations=max(
            training_passes(config, plan, policy, shapes, left=left) - made,
            _step_bytes(config.optim, trained, shapes.device) // processes,
        ),
    )


def _images_at_once(config: RunConfig) -> dict[str, AtOnce]:
    found: dict[str, AtOnce] = {}
    if isinstance(config, OnlineConfig):
        rollout = config.rollout
        batch = rollout.batch or config.train.micro_batch
        found["while rollouts are made"] = AtOnce(batch, rollout.guidance_scale > 1)
    if config.validation.prompts is not None:
        generation = config.validation.generation
        found["in validation"] = AtOnce(generation.batch, generation.guidance_scale > 1)
    return found


def _state_share(optim: Optim) -> float:
    """Bytes of the optimizer's state for each byte of what it trains."""
    if optim.name == "adamw8bit":
        return 2 * (1 + 4 / 256) / 4  # two moments of a byte a number, and a float32 scale for 256 of them
    tried = nn.Parameter(torch.zeros(64, 64))
    tried.grad = torch.zeros_like(tried)
    optimizer = build_optimizer(optim, [tried])
    optimizer.step()
    kept: Iterable[object] = optimizer.state[tried].values()
    return storage_bytes(value for value in kept if isinstance(value, Tensor) and value.ndim) / storage_bytes([tried])


def _step_bytes(optim: Optim, trained: list[nn.Parameter], device: torch.device) -> int:
    """What the optimizer's step makes beside its state: nothing if fused, else a copy of one parameter or of all."""
    if device.type == "cuda":
        return 0 if optim.name in OPTIMIZERS else storage_bytes(trained)
    return 2 * max(storage_bytes([parameter]) for parameter in trained)
