"""What a run would take, found before it is started: memory, disk, passes, time, and how its recipe compares."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.runtime import configure_runtime, device_memory, device_of_process, slow_in_bf16
from t2ialign.training import preflight
from t2ialign.training.disk import cache_bytes, size
from t2ialign.training.memory import Stages, estimate_memory
from t2ialign.training.overview import LABEL, overview
from t2ialign.training.probe import Probe, probe
from t2ialign.training.recipe import Recipe, nearest_recipe

BIG = 100_000_000
"""Parameters of a denoiser that wants a GPU."""
MANY_EPOCHS = 20
"""Visits of an example from which a run is said to learn its data by heart."""


class Planned(NamedTuple):
    """Everything that is said of a run that was not started."""

    config: RunConfig
    found: preflight.Plan
    """What preflight found: data, passes, parameters, disk."""
    device: torch.device
    """Of this process."""
    world_size: int
    memory: Stages | None
    """Bytes on the device of one process; None where the model's configuration is not on this machine."""
    recipe: Recipe | None
    """The shipped config that is nearest; None where none has this objective."""
    probe: Probe | None
    """What two steps took; None where they were not made."""

    def lines(self) -> list[str]:
        """The facts as `train` prints them at its start, and what only a plan says."""
        lines = overview(self.config, self.found, device=self.device, world_size=self.world_size)
        parts = [*self._memory(), *self._disk(), *self._time(), *self._recipe()]
        parts += [("warning", warning) for warning in self.warnings()]
        return [*lines, *(f"{word:<{LABEL}} {text}" for word, text in parts)]

    def _memory(self) -> Iterator[tuple[str, str]]:
        if self.memory is None:
            yield "memory", "not known: the model's configuration is no folder on this machine"
            return
        step = self.memory.training
        yield "memory", f"about {size(step.total)} in a step: {_parts(step._asdict())}"
        yield from (("", f"about {size(taken)} {stage}") for stage, taken in self.memory.others.items())
        if self.probe is not None and self.probe.peak is not None:
            yield "", f"measured in the probe's steps: {size(self.probe.peak)}"

    def _disk(self) -> Iterator[tuple[str, str]]:
        if self.found.disk is not None:
            free = shutil.disk_usage(_existing(self.config.run_dir)).free
            yield "disk", f"about {size(self.found.disk.total)} of {size(free)}: {_parts(self.found.disk._asdict())}"
        if self.found.facts is not None and "auto" in (self.config.data.cache.latents, self.config.data.cache.text):
            cache = cache_bytes(self.config, self.found.facts, self.found.source, self.found.buckets)
            yield "", f"and the cache, if it fits (data.cache): {_parts(cache._asdict())}"

    def _time(self) -> Iterator[tuple[str, str]]:
        if self.probe is None:
            yield "time", "not measured; --probe loads the weights and makes two steps"
            return
        yield from (("time" if place == 0 else "", line) for place, line in enumerate(self.probe.lines(self.config)))

    def _recipe(self) -> Iterator[tuple[str, str]]:
        if self.recipe is None:
            yield (
                "recipe",
                f"none is shipped for objective '{self.config.objective.name}' on {self.config.backbone.name}",
            )
            return
        yield from (("recipe" if place == 0 else "", line) for place, line in enumerate(self.recipe.lines()))

    def warnings(self) -> Iterator[str]:
        """What a user may not have meant."""
        config, train, visits = self.config, self.config.train, self.found.visits
        yield from self._too_much()
        if self.device.type == "cpu" and self.found.parameters is not None and self.found.parameters.denoiser > BIG:
            yield "no GPU was found; a model of this size takes minutes a step on a CPU"
        if self.device.type == "cuda" and train.precision == "fp32":
            yield "train.precision is fp32; bf16 takes half the memory of the frozen weights and is faster on a GPU"
        if train.precision == "bf16" and slow_in_bf16(self.device):
            yield "this processor has no bf16 instructions: bf16 is far slower than train.precision=fp32"
        if not isinstance(config, OnlineConfig) and visits > MANY_EPOCHS:
            yield f"each example is seen {visits:.3g} times; watch held-out pairs (validate.pairs), or make fewer steps"
        if not isinstance(config, OnlineConfig) and visits < 1:
            yield f"only {visits:.0%} of the examples are seen; the run has fewer steps than an epoch"
        if config.optim.warmup_steps >= train.steps:
            steps = f"optim.warmup_steps is {config.optim.warmup_steps}, train.steps {train.steps}"
            yield f"the learning rate is never reached: {steps}"
        if not config.validation.compares:
            yield "nothing is watched while training; set validate.prompts or validate.pairs"

    def _too_much(self) -> Iterator[str]:
        """The stages that take more memory than the device has."""
        room = device_memory(self.device)
        if self.memory is None or room is None:
            return
        for stage, taken in {"in a step": self.memory.training.total, **self.memory.others}.items():
            if taken > room:
                yield f"{size(taken)} {stage} are more than the {size(room)} of this device{_cheaper(self.config)}"


def plan(config: RunConfig, *, world_size: int = 1, with_probe: bool = False) -> Planned:
    """Checks a run as `train` does, and finds what it would take; writes nothing.

    Args:
        config: of the run.
        world_size: processes that it would have.
        with_probe: load the weights, and time two optimizer steps of this process alone.

    Raises:
        UserError: as `preflight.check`; with a probe also what loading the weights and encoding data raise.
    """
    configure_runtime()
    found = preflight.check(config, world_size)
    device = device_of_process()
    memory = estimate_memory(config, found, device, world_size=world_size)
    measured = probe(config, found) if with_probe else None
    return Planned(config, found, device, world_size, memory, nearest_recipe(config), measured)


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {size(taken)}" for name, taken in parts.items() if taken)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _cheaper(config: RunConfig) -> str:
    """What to set so that a run takes less memory."""
    keys = [] if config.train.gradient_checkpointing else ["train.gradient_checkpointing=true"]
    keys += [] if config.train.micro_batch == 1 else ["a smaller train.micro_batch"]
    keys += [] if config.train.precision != "fp32" else ["train.precision=bf16"]
    if config.lora is None:
        keys += [] if config.optim.name != "adamw" or config.train.shard else ["optim.name=adamw8bit"]
        keys += [] if config.train.shard else ["train.shard=fsdp2 with more processes"]
    elif config.train.quantize is None:
        keys += ["train.quantize=nf4"]
    return f"; try {', '.join(keys)}" if keys else ""
