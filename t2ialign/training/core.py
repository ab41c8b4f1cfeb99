"""What every kind of training has: a policy, its engine, and the processes that share them."""

from __future__ import annotations

import hashlib
import importlib.util
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import AttnProcessor

from t2ialign.backbones.base import Backbone
from t2ialign.backbones.lora import add_text_loras, add_training_adapters
from t2ialign.backbones.lora_checks import lora_file
from t2ialign.backbones.lora_read import LoraFile
from t2ialign.backbones.quantization import check_nf4, quantize_nf4
from t2ialign.config.schema import Lora, OnlineConfig, RunConfig
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.policy import Policy
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process, processes
from t2ialign.training.engine import Engine, Identity
from t2ialign.training.negative import add_negative_adapters
from t2ialign.training.optimization import build_optimizer
from t2ialign.training.parallel import Parallel, open_parallel


class Core(NamedTuple):
    """A policy in training, at the newest checkpoint of its run."""

    policy: Policy
    engine: Engine
    parallel: Parallel

    @property
    def writes_result(self) -> bool:
        """Whether this process has a part in writing what was learnt."""
        return self.parallel.is_main or self.parallel.is_sharded


def open_processes(shard: str | None = None) -> Parallel:
    """Configures this process, and joins those that a launcher started.

    Args:
        shard: how they share weights, as `train.shard`.
    """
    configure_runtime()
    processes()
    return open_parallel(shard)


def build(
    config: RunConfig,
    parallel: Parallel,
    *,
    accumulation: int,
    keeps_reference: bool = True,
    keeps_old: bool = False,
    identity: Identity | None = None,
) -> Core:
    """Loads the weights, adds adapters, makes the optimizer, and restores the newest checkpoint.

    Args:
        config: of the run.
        parallel: the processes of the run.
        accumulation: micro-batches of one process in an optimizer step.
        keeps_reference: full fine-tuning keeps a frozen copy of the untouched weights.
        keeps_old: the weights that make rollouts are kept apart from those that are trained.
        identity: what else must be equal for a checkpoint to be continued, such as the data's fingerprint.

    Raises:
        InputError: weights or a LoRA are missing, damaged or of another family.
        DataError: the checkpoint was made with other data or weights.
    """
    # the weights of a full fine-tuning are trained in float32, whatever precision the passes have
    dtype = DTYPES[config.train.precision] if config.lora is not None else torch.float32
    backbone = config.backbone.build(device_of_process(), dtype)
    if parallel.is_sharded:
        backbone.denoiser.cpu()  # copies and all: a device gets its parts only
    if config.train.quantize is not None:
        quantize_nf4(backbone.denoiser, dtype)
    policy = build_policy(config, backbone, keeps_reference=keeps_reference, keeps_old=keeps_old)
    parallel.shard([policy.denoiser, *policy.copies.values()])
    engine = Engine(
        policy=policy,
        optimizer=build_optimizer(config.optim, list(policy.trained_parameters().values())),
        optim=config.optim,
        steps=config.train.steps,
        accumulation=accumulation,
        run_dir=config.run_dir,
        seed=config.seed,
        identity={**(identity or {}), "backbone": backbone.fingerprint, **init_identity(config.lora)},
        keep=config.checkpoint.keep,
        half=config.train.precision == "fp16",
        parallel=parallel,
    )
    engine.start()
    return Core(policy, engine, parallel)


def init_identity(lora: Lora | None) -> dict[str, str]:
    """What the reference is beside the backbone: a digest of the LoRA that training starts from, if any."""
    if lora is None or lora.init is None:
        return {}
    return {"lora.init": hashlib.sha256(lora_file(lora.init).read_bytes()).hexdigest()[:16]}


def check_shard(config: RunConfig) -> None:
    """Checks that what is trained can be in parts over the processes.

    Raises:
        InputError: it cannot.
    """
    if config.train.shard is None:
        return
    kind = f"train.shard: {config.train.shard} is for full fine-tuning from stored examples"
    if config.lora is not None:
        raise InputError(f"{kind}, and a LoRA takes little memory; leave the key out: each process gets its batch")
    if isinstance(config, OnlineConfig):
        raise InputError(f"{kind}, and loop: online makes images, each process its own; leave the key out")
    if config.optim.name == "adamw8bit":
        raise InputError(f"{kind} with optimizers of torch tensors; set optim.name: adamw")


def check_quantize(config: RunConfig) -> None:
    """Checks that the denoiser is frozen and can be held in 4 bits.

    Raises:
        InputError: it is trained itself.
        EnvironmentProblem: bitsandbytes is not installed.
    """
    if config.train.quantize is None:
        return
    if config.lora is None:
        raise InputError("train.quantize: nf4 holds frozen weights; add the section lora, or leave the key out")
    check_nf4()


def check_attention(attention: str) -> None:
    """Checks that the attention backend is installed.

    Raises:
        EnvironmentProblem: it is not.
    """
    if attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise _no_xformers("it is not installed")


def _no_xformers(why: object) -> EnvironmentProblem:
    return EnvironmentProblem(
        f'train.attention: xformers cannot be used here ({why}); pip install "t2ialign[xformers]", '
        "or leave the key out: torch's own attention is as fast"
    )


def build_policy(config: RunConfig, backbone: Backbone, *, keeps_reference: bool, keeps_old: bool = False) -> Policy:
    """Adapters on the backbone, or the whole denoiser in float32, as the config says."""
    denoiser: Any = backbone.denoiser
    keeps_ema = config.optim.ema_decay is not None
    if config.train.attention == "math":
        denoiser.set_attn_processor(AttnProcessor())
    elif config.train.attention == "xformers":
        try:
            denoiser.enable_xformers_memory_efficient_attention()
        except (ImportError, ModuleNotFoundError, ValueError) as error:
            raise _no_xformers(error) from None
    if config.lora is None:
        denoiser.requires_grad_(True)
    else:
        if config.lora.init is not None:
            add_text_loras(backbone, [(LoraFile(config.lora.init), 1.0)], family=config.backbone.family)
        add_training_adapters(
            denoiser,
            config.lora,
            family=config.backbone.family,
            seed=config.seed,
            keeps_ema=keeps_ema,
            keeps_old=keeps_old,
        )
        add_negative_adapters(denoiser, config)
    if config.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        denoiser.train()  # diffusers recomputes activations in training mode only
    dtype = DTYPES[config.train.precision]
    policy = Policy(
        backbone,
        full_finetune=config.lora is None,
        keeps_reference=keeps_reference,
        autocast=None if dtype == torch.float32 else dtype,
        keeps_ema=keeps_ema,
        keeps_old=keeps_old,
    )
    if config.train.compile == "blocks":
        denoiser.compile_repeated_blocks()
    elif config.train.compile:
        denoiser.compile()
    return policy
