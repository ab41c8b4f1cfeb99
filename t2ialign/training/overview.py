"""What a run is about to do, in about ten lines: its model, its data, its length and where its result goes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from t2ialign.backbones.lora_checks import text_tensor
from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.runtime import device_words
from t2ialign.training.buckets import bucket_lines
from t2ialign.training.disk import size
from t2ialign.training.preflight import Plan
from t2ialign.training.run_folder import result_path

LABEL = 8
"""Width of the word that begins a line."""


def overview(config: RunConfig, plan: Plan, *, device: torch.device, world_size: int) -> list[str]:
    """The lines, each with a word for what it is about; rows that are not used stand below their data set."""
    lines = [
        ("model", _model(config, plan)),
        ("trains", _trained(config, plan)),
        ("method", _method(config)),
        ("device", f"{device_words(device)}; {world_size} process{'es' if world_size > 1 else ''}"),
        *_data(config, plan),
        ("steps", _steps(config, plan, world_size)),
        ("passes", _passes(config, plan)),
        *_once(config, plan),
        ("result", f"{result_path(config)}{_disk(plan)}"),
    ]
    return [f"{word:<{LABEL}} {text}" for word, text in lines]


def count(number: float) -> str:
    """A number of parameters, as 860 M."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:g}"


def _model(config: RunConfig, plan: Plan) -> str:
    backbone = config.backbone
    if plan.facts is None:
        side = config.data.resolution
        return f"{backbone.pretrained} ({backbone.name}){'' if side is None else f', {side} px'}"
    side = config.data.resolution or plan.facts.resolution
    parameters = "" if plan.parameters is None else f"{count(plan.parameters.denoiser)} parameters, "
    return f"{backbone.pretrained} ({backbone.name}, {parameters}{plan.facts.prediction_type}), {side} px"


def _trained(config: RunConfig, plan: Plan) -> str:
    lora, train = config.lora, config.train
    if lora is None:
        what = "the whole denoiser"
    elif lora.init is not None:
        text = " (its text encoder part is frozen)" if text_tensor(lora.init) is not None else ""
        what = f"LoRA from {lora.init}{text}"
    else:
        what = f"{'DoRA' if lora.dora else 'LoRA'} rank {lora.rank:g} on {lora.targets}"
    parameters = "" if plan.parameters is None else f", {plan.parameters.trained:,} parameters"
    checkpointing = ", gradient checkpointing" if train.gradient_checkpointing else ""
    return (
        f"{what}{parameters}; passes in {train.precision}{checkpointing}; {config.optim.name}, lr {config.optim.lr:g}"
    )


def _method(config: RunConfig) -> str:
    frozen = ", ".join(config.objective.required_weights)
    beside = f"; reads {frozen}" if frozen else ""
    return f"{config.objective.name} on data {config.data.name}, noiser {config.noiser.name}{beside}"


def _data(config: RunConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    for name, account in plan.accounts.items():
        first, *rest = account.lines()
        yield "data" if name == "data" else "held out", first
        yield from (("", line) for line in rest)
    if plan.buckets is not None:
        lines = bucket_lines(config, plan.source, plan.buckets)
        yield from (("buckets" if place == 0 else "", line) for place, line in enumerate(lines))


def _steps(config: RunConfig, plan: Plan, world_size: int) -> str:
    train = config.train
    examples = train.steps * train.effective_batch
    cut = f"{plan.accumulation} x {train.micro_batch}" + (f" x {world_size} processes" if world_size > 1 else "")
    seen = f"each prompt {plan.visits:.3g} times" if isinstance(config, OnlineConfig) else f"{plan.visits:.3g} epochs"
    return f"{train.steps:,} of {train.effective_batch} examples ({cut}): {examples:,} examples, {seen}"


def _passes(config: RunConfig, plan: Plan) -> str:
    passes, batch = plan.passes, config.train.effective_batch
    mismatched = f" + {passes.mismatched} mismatched" if passes.mismatched else ""
    parts = (
        f"{passes.reference:.3g} without gradient + {passes.forward} forward + {passes.backward} backward{mismatched}"
    )
    return f"{passes.total:.4g} UNet passes an example ({parts}): {round(batch * passes.total):,} a step"


def _once(config: RunConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    """What an iteration takes, and what is computed once instead of in each visit of an example."""
    if plan.iteration is not None:
        yield "", plan.iteration.line()
    if plan.trajectories is not None:
        cost = plan.trajectories
        yield (
            "",
            f"each example is inverted once, in {cost.passes} UNet passes; {size(cost.size)} in all. This "
            f"pays from {cost.pays_after:.1f} visits of an example on; the run makes {plan.visits:.3g}",
        )
    if config.noiser.draws is not None:
        yield "", f"each example is visited {plan.visits:.3g} times, with {config.noiser.draws} fixed draws"
    if config.batch_dependence:
        yield (
            "",
            f"note: with {' and '.join(config.batch_dependence)}, train.micro_batch and the number of processes have a "
            "part in what is learnt",
        )


def _disk(plan: Plan) -> str:
    return "" if plan.disk is None else f"; the run writes about {size(plan.disk.total)}"
