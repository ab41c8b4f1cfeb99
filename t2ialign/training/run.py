"""From a config to a trained model: the only module that knows every part."""

from __future__ import annotations

import fcntl
import json
import platform
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from diffusers.models.attention_processor import AttnProcessor
from rich.console import Console

from t2ialign.backbones.base import Backbone
from t2ialign.backbones.lora import add_training_adapters, save_lora
from t2ialign.config.reader import dump, read_yaml
from t2ialign.config.schema import Config, Optim
from t2ialign.data.base import Source
from t2ialign.data.encoding.cache import Encoded, encode
from t2ialign.data.kinds.prompts import read_prompts
from t2ialign.data.loading.loader import Batches
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.policy import EMA, LEARNER, Policy
from t2ialign.rewards.base import load_reward
from t2ialign.runtime import DTYPES, configure_runtime, device_of_process, processes
from t2ialign.storage.atomic import atomic_directory, atomic_write
from t2ialign.training import checkpoint
from t2ialign.training.engine import Engine
from t2ialign.training.hooks import ProgressBar, Saturation, ValidationImages
from t2ialign.training.offline import Hook, train_offline
from t2ialign.training.pair_accuracy import HeldOut, HeldOutAccuracy
from t2ialign.types import Batch

PACKAGES = ("t2ialign", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
SATURATION_STEPS = 20
"""Optimizer steps after which saturation is told, or all of a shorter run."""


Validation = ValidationImages | HeldOutAccuracy


class Run(NamedTuple):
    """Everything a loop needs, assembled."""

    config: Config
    policy: Policy
    engine: Engine
    batches: Iterable[Batch]
    validation: list[Validation]


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Holds the run folder, so that no second process writes into it.

    Raises:
        InputError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as file:
        try:
            # lockf, not flock: the loader workers of a killed run must not hold the folder for their last seconds
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{run_dir}: another process is training here; wait for it or use another run_dir"
            ) from None
        yield


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _changeable(config: Config) -> tuple[str, ...]:
    """How keys begin that may differ from one start of this run to the next: they do not change what is learnt."""
    keys = ["train.loader_workers", "train.gradient_checkpointing", "checkpoint.", "validate."]
    if not config.objective.batch_dependent:
        keys.append("train.micro_batch")
    if config.optim.schedule == "constant":
        keys.append("train.steps")
    return tuple(keys)


def check_same_config(config: Config) -> None:
    """Lets pass what may start, or go on, in the run folder.

    Raises:
        InputError: the folder belongs to another config.
    """
    path = config.run_dir / "config.yaml"
    if path.is_file():
        before, _ = read_yaml(path)
        old, new = _flat(before), _flat(yaml.safe_load(dump(config)))
        changeable = _changeable(config)
        changed = [
            f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith(changeable)
        ]
        if changed:
            raise InputError(
                f"{config.run_dir}: holds a run of another config ({'; '.join(changed[:5])}). "
                "Use another run_dir, or remove the folder if that run is not needed."
            )


def write_run_manifest(config: Config) -> None:
    """Makes the run folder this config's: writes the resolved config and the environment into it."""
    with atomic_write(config.run_dir / "config.yaml") as partial:
        partial.write_text(dump(config))
    environment = {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    with atomic_write(config.run_dir / "environment.json") as partial:
        partial.write_text(json.dumps(environment, indent=1))


def result_path(config: Config) -> Path:
    """What a finished run leaves: the folder of its LoRA, or of its whole denoiser."""
    return config.run_dir / ("unet" if config.lora is None else "lora")


def _finished(config: Config) -> bool:
    last = config.run_dir / "checkpoints" / checkpoint.name(config.train.steps)
    return result_path(config).is_dir() and checkpoint.verify(last) is None


def build_policy(config: Config, backbone: Backbone) -> Policy:
    """Adapters on the backbone, or the whole denoiser in float32, as the config says."""
    denoiser: Any = backbone.denoiser
    keeps_ema = config.optim.ema_decay is not None
    if config.train.attention == "math":
        denoiser.set_attn_processor(AttnProcessor())
    elif config.train.attention == "xformers":
        try:
            denoiser.enable_xformers_memory_efficient_attention()
        except (ImportError, ModuleNotFoundError, ValueError) as error:
            raise EnvironmentProblem(
                f'train.attention: xformers cannot be used here ({error}); pip install "t2ialign[xformers]", '
                "or leave the key out: torch's own attention is as fast"
            ) from None
    if config.lora is None:
        denoiser.requires_grad_(True)
    else:
        add_training_adapters(
            denoiser, config.lora, family=config.backbone.family, seed=config.seed, keeps_ema=keeps_ema
        )
    if config.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        denoiser.train()  # diffusers recomputes activations in training mode only
    dtype = DTYPES[config.train.precision]
    policy = Policy(
        backbone,
        trains=config.lora is None,
        # validation compares with what training started from, whether or not the objective does
        keeps_reference=config.objective.needs_reference or config.validation.compares,
        autocast=None if dtype == torch.float32 else dtype,
        keeps_ema=keeps_ema,
    )
    if config.train.compile:
        denoiser.compile()
    return policy


def build_optimizer(optim: Optim, policy: Policy) -> torch.optim.Optimizer:
    """The optimizer over exactly the trained parameters."""
    settings: dict[str, Any] = {
        "lr": optim.lr, "betas": optim.betas, "eps": optim.eps, "weight_decay": optim.weight_decay
    }  # fmt: skip
    parameters = list(policy.trained_parameters().values())
    if optim.name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise EnvironmentProblem(
            'optim.name: adamw8bit needs bitsandbytes: pip install "t2ialign[bnb]", or set optim.name: adamw'
        ) from None
    return bitsandbytes.optim.AdamW8bit(parameters, **settings)


def accumulation(config: Config, processes: int) -> int:
    """Micro-batches of one process in an optimizer step.

    Raises:
        InputError: the effective batch cannot be made of them.
    """
    at_once = config.train.micro_batch * processes
    if config.train.effective_batch % at_once:
        raise InputError(
            f"train.effective_batch {config.train.effective_batch} is not a multiple of {processes} processes x "
            f"train.micro_batch {config.train.micro_batch} = {at_once}"
        )
    return config.train.effective_batch // at_once


def assemble(config: Config) -> Run:
    """Every part of a run, checked against every other, ready to go on from the newest checkpoint."""
    configure_runtime()
    device = device_of_process()
    state = processes()
    data = config.data
    check_views(config)
    micro_batches = accumulation(config, state.num_processes)
    source = data.open()
    check_required_fields(config, source)
    held_out_source = None if config.validation.pairs is None else config.validation.pairs.open()
    weights = DTYPES[config.train.precision] if config.lora is not None else torch.float32
    backbone = config.backbone.build(device, weights)
    encoded = _encode(config, data, source, backbone)
    held_out = None
    if held_out_source is not None:
        pairs = _encode(config, config.validation.pairs, held_out_source, backbone)
        held_out = HeldOut(
            held_out_source,
            pairs,
            at_most=config.validation.max_pairs,
            draws=config.validation.draws,
            seed=config.seed,
            batch=config.train.micro_batch,
        )
    prompts = None
    if config.validation.prompts is not None:
        prompts = read_prompts(config.validation.prompts)[: config.validation.max_prompts]
    null = backbone.null()
    needs_encoders = encoded.needs_encoders or (held_out is not None and held_out.encoded.needs_encoders)
    if prompts is None and not needs_encoders:
        backbone.release_encoders()
    policy = build_policy(config, backbone)
    engine = Engine(
        policy=policy,
        optimizer=build_optimizer(config.optim, policy),
        optim=config.optim,
        steps=config.train.steps,
        accumulation=micro_batches,
        run_dir=config.run_dir,
        seed=config.seed,
        identity={"data": source.fingerprint, "backbone": backbone.fingerprint},
        keep=config.checkpoint.keep,
        half=config.train.precision == "fp16",
    )
    engine.start()
    batches = Batches(
        encoded,
        seed=config.seed,
        micro_batch=config.train.micro_batch,
        world_size=state.num_processes,
        rank=state.process_index,
        cursor=engine.samples_seen,
        workers=config.train.loader_workers,
        prompt_dropout=data.prompt_dropout,
        null=null,
        members=data.members(source),
        curriculum_scores=data.curriculum_scores(source),
    )
    return Run(config, policy, engine, batches, _validation(config, policy, prompts, held_out))


def check_views(config: Config) -> None:
    """Lets pass what can be compared.

    Raises:
        InputError: data and objective, or objective and micro-batch, do not fit.
    """
    objective, data = config.objective, config.data
    if objective.views is not None and objective.views != data.views:
        raise InputError(
            f"objective '{objective.name}' compares {objective.views} views per example; data '{data.name}' yields "
            f"{data.views}. Use other data, or another objective."
        )
    if objective.needs_mismatched and config.train.micro_batch < 2:
        raise InputError(
            f"objective '{objective.name}' compares with other examples' prompts, so train.micro_batch must be at "
            f"least 2 (it is {config.train.micro_batch})"
        )


def check_required_fields(config: Config, source: Source) -> None:
    """Lets pass data that has what the objective reads.

    Raises:
        InputError: scores or labels are missing.
    """
    objective, data = config.objective, config.data
    for row in range(len(source)) if objective.reads is not None else ():
        example = source[row]
        if example.scores is None:
            raise InputError(f"objective '{objective.name}' reads {objective.reads}; data '{data.name}' has none")
        if objective.reads == "labels" and not {*example.scores} <= {0, 1}:
            raise InputError(
                f"{example.origin}: objective '{objective.name}' reads labels 1 and 0; data '{data.name}' has "
                f"{example.scores[0]:g}. Use data 'labelled'."
            )


def _encode(config: Config, data: Any, source: Source, backbone: Backbone) -> Encoded:
    """This data set as training takes it, every process having encoded its share."""
    state = processes()
    encoded = encode(
        source,
        backbone,
        resolution=data.resolution or backbone.resolution,
        folder=config.run_dir / "cache",
        device=device_of_process(),
        cache=data.cache,
        rank=state.process_index,
        world_size=state.num_processes,
    )
    state.wait_for_everyone()
    return encoded


def _validation(
    config: Config, policy: Policy, prompts: list[str] | None, held_out: HeldOut | None
) -> list[Validation]:
    when = {"every": config.validation.every_steps, "steps": config.train.steps}
    wanted: list[Validation] = []
    if prompts is not None:
        images = ValidationImages(
            policy,
            prompts,
            config.run_dir / "validation",
            guidance_scale=config.validation.guidance_scale,
            inference_steps=config.validation.inference_steps,
            scorers={name: load_reward(name) for name in config.validation.rewards},
            **when,
        )
        wanted.append(images)
    if held_out is not None:
        wanted.append(HeldOutAccuracy(policy, held_out, **when))
    return wanted


@contextmanager
def graceful_shutdown(engine: Engine) -> Iterator[None]:
    """Ctrl-C or a scheduler's SIGTERM ends training after the step in progress, with state saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: Any) -> None:
        if engine.stop_requested:  # the second time the user means now
            raise KeyboardInterrupt
        engine.stop_requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(config: Config, *, console: Console | None = None, hooks: Sequence[Hook] = ()) -> Path:
    """Trains, or goes on training, and returns the folder of the result.

    Raises:
        InputError: the parts do not fit each other, or the run folder is another config's.
        DataError: the data cannot be used, or the loss is not finite.
        TryAgainError: the disk is full; the same command goes on.
        Interrupted: the user stopped the run; the same command goes on.
    """
    console = console or Console(stderr=True)
    is_main = processes().is_main_process
    result = result_path(config)
    with ExitStack() as stack:
        if is_main:
            stack.enter_context(locked(config.run_dir))
            check_same_config(config)
        if _finished(config):
            console.print(f"{config.run_dir} is finished: {config.train.steps} steps, {result}")
            return result
        run = assemble(config)
        if run.engine.tracker is not None:
            stack.callback(run.engine.tracker.close)
        if is_main:
            write_run_manifest(
                config
            )  # only now: a start that failed must not bind the folder to a config that cannot run
        if run.engine.step and is_main:
            console.print(f"going on from step {run.engine.step} of {config.train.steps}")
        every_step: list[Hook] = [*hooks]
        for validation in run.validation:
            every_step.append(validation)
            if is_main and run.engine.step == 0:
                validation.measure(run.engine)
        multiplier = config.objective.margin_multiplier()
        if multiplier is not None and is_main:
            steps = min(SATURATION_STEPS, config.train.steps)
            margin_key = config.objective.margin_key
            every_step.append(Saturation(multiplier, console.print, steps=steps, margin_key=margin_key))
        if is_main:
            every_step.append(stack.enter_context(ProgressBar(console, config.train.steps)))
        stack.enter_context(graceful_shutdown(run.engine))
        train_offline(
            engine=run.engine,
            policy=run.policy,
            batches=run.batches,
            noiser=config.noiser,
            objective=config.objective,
            steps=config.train.steps,
            save_every=config.checkpoint.every_steps,
            hooks=every_step,
        )
        if is_main:
            save_result(run)
    return result


def save_result(run: Run) -> None:
    """Writes the LoRA with its true alpha and a model card, or the whole denoiser."""
    config, denoiser = run.config, run.policy.denoiser
    result = result_path(config)
    if config.lora is None:
        modules = {"unet": denoiser, "unet-ema": run.policy.copies.get("ema")}
        for name, module in modules.items():
            if module is not None:
                with atomic_directory(config.run_dir / name) as partial:
                    module.save_pretrained(partial)  # type: ignore[operator]
    else:
        extra = {
            "base": config.backbone.pretrained,
            "objective": config.objective.name,
            "noiser": config.noiser.name,
            "steps": run.engine.step,
            "seed": config.seed,
        }
        family = config.backbone.family
        save_lora(result, denoiser, LEARNER, family=family, extra=extra)
        if config.optim.ema_decay is not None:
            save_lora(config.run_dir / "lora-ema", denoiser, EMA, family=family, extra=extra)
    with atomic_write(result / "README.md") as partial:
        partial.write_text(_model_card(config))


def _model_card(config: Config) -> str:
    kind = "LoRA" if config.lora is not None else "UNet"
    load = 'pipeline.load_lora_weights("this folder")'
    if config.lora is None:
        load = 'pipeline.unet = UNet2DConditionModel.from_pretrained("this folder")'
    return (
        f"# {kind} trained with t2ialign\n\n"
        f"Base model: `{config.backbone.pretrained}` ({config.backbone.family}). "
        f"Objective `{config.objective.name}`, {config.train.steps} steps of {config.train.effective_batch} examples."
        "\n\n"
        f"```python\n{load}\n```\n\nThe whole config:\n\n```yaml\n{dump(config)}```\n"
    )
