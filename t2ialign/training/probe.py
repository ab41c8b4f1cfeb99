"""How long a run takes, by two steps of it in a folder that is thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, NamedTuple

import torch

from t2ialign.config.reader import validated
from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.data.account import DataAccount
from t2ialign.data.base import Example, Source
from t2ialign.data.images import ImageDigests
from t2ialign.rng import generator
from t2ialign.training.core import Core
from t2ialign.training.hooks import duration
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import Plan
from t2ialign.training.train import build_core, build_loop
from t2ialign.types import LossOutput

STEPS = 2
"""Optimizer steps, or iterations of online training, that are timed; one before them is not."""
MOST_MICRO_BATCHES = 4
"""Of a step that is timed; longer accumulation is reckoned from them."""
LEAST_ROWS = 8
"""Of the data, so that every kind of example is there."""
FREE_REWARD = "sharpness"
"""What judges a probe's images, so that no judge is paid for them."""


class Probe(NamedTuple):
    """What was measured."""

    step: float
    """Seconds of an optimizer step, of online training with its share of the rollouts."""
    preparing: float
    """Seconds to encode the whole data set, and to invert it where that is done once."""
    loading: float
    """Seconds to load the weights."""
    peak: int | None
    """Most bytes that tensors took on the GPU in a step; None on a CPU."""

    def lines(self, config: RunConfig) -> Iterator[str]:
        """In words."""
        total = config.train.steps * self.step
        yield f"{self.step:.3g} s a step: {duration(total)} for {config.train.steps:,} steps; validation is not in it"
        preparing = f"{duration(self.loading)} to load, {duration(self.preparing)} to encode what is not cached"
        yield f"before them {preparing}"
        if isinstance(config, OnlineConfig):
            yield "rewards are not in it; a judge works while images are made, and adds what it takes longer"


class SomeRows:
    """Some examples of a data set, drawn by a seed."""

    def __init__(self, source: Source, count: int, seed: int) -> None:
        self._source = source
        self.rows: list[int] = torch.randperm(len(source), generator=generator(seed, "probe"))[:count].tolist()  # pyright: ignore[reportUnknownMemberType]
        self.views = source.views

    @property
    def fingerprint(self) -> str:
        """Of no use: nothing of a probe is continued."""
        return "probe"

    @property
    def digests(self) -> ImageDigests:
        return self._source.digests

    @property
    def account(self) -> DataAccount:
        return self._source.account

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self._source[self.rows[index]]


def probe(config: RunConfig, plan: Plan) -> Probe:
    """Times steps of this process alone; a run of several takes as long, but for the exchange of gradients.

    Raises:
        UserError: as loading weights and encoding data do.
    """
    with tempfile.TemporaryDirectory(prefix="probe") as folder:
        short = _shortened(config, plan, Path(folder))
        accumulation = short.train.effective_batch // short.train.micro_batch
        updates = short.rollout.updates if isinstance(short, OnlineConfig) else 1
        rows = max(LEAST_ROWS, short.train.effective_batch * (STEPS + 1))
        some = SomeRows(plan.source, rows, config.seed)
        buckets = None if plan.buckets is None else plan.buckets.chosen(some.rows)
        few = plan._replace(source=some, buckets=buckets, accumulation=accumulation)
        began = _now()
        core = build_core(short, few, SingleProcess())
        loaded = _now()
        loop = build_loop(short, few)
        loop.prepare(core)
        prepared = _now()
        if config.validation.prompts is None and not loop.needs_encoders:
            core.policy.backbone.release_encoders()
        losses = loop.losses(core)
        _step(core, losses, updates)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        steps = [_step(core, losses, updates) for _ in range(STEPS)]
        if core.engine.tracker is not None:
            core.engine.tracker.close()
    return Probe(
        _whole_step(config, plan, short, steps),
        (prepared - loaded) * len(plan.source) / len(few.source),
        loaded - began,
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )


def _shortened(config: RunConfig, plan: Plan, run_dir: Path) -> RunConfig:
    """The same run in another folder with shorter steps, in which everything but their length is as it will be."""
    cache = config.data.cache.model_copy(update={"folder": None})
    data = config.data.model_copy(update={"cache": cache})
    changes: dict[str, Any] = {"run_dir": run_dir, "data": data}
    batch = config.train.micro_batch * min(plan.accumulation, MOST_MICRO_BATCHES)
    if isinstance(config, OnlineConfig):
        prompts, batch = _fewest_prompts(config)
        changes["rollout"] = config.rollout.model_copy(update={"prompts": prompts, "kept_groups": 0})
        changes["rewards"] = [validated("reward", {"name": FREE_REWARD})]
        changes["advantage"] = config.advantage.model_copy(update={"pairs": None})
    return config.model_copy(update={**changes, "train": config.train.model_copy(update={"effective_batch": batch})})


def _fewest_prompts(config: OnlineConfig) -> tuple[int, int]:
    """The fewest prompts whose images make whole micro-batches for each update, and the rows of an update."""
    rollout = config.rollout
    for prompts in range(1, rollout.prompts):
        rows, left = divmod(prompts * rollout.trained_images * rollout.timesteps, rollout.updates)
        if not left and rows % config.train.micro_batch == 0:
            return prompts, rows
    return rollout.prompts, config.train.effective_batch


def _step(core: Core, losses: Iterator[Callable[[], LossOutput]], updates: int) -> list[float]:
    """Makes optimizer steps; the seconds of each micro-batch."""
    seconds: list[float] = []
    done = core.engine.step + updates
    while core.engine.step < done:
        began = _now()
        core.engine.update(next(losses))
        seconds.append(_now() - began)
    return seconds


def _whole_step(config: RunConfig, plan: Plan, short: RunConfig, steps: list[list[float]]) -> float:
    """Seconds of an optimizer step of the run, of steps that were cut short."""
    if isinstance(config, OnlineConfig) and isinstance(short, OnlineConfig):
        processes = config.train.effective_batch // (config.train.micro_batch * plan.accumulation)
        share = config.rollout.prompts / processes / short.rollout.prompts
        return share * mean(map(sum, steps)) / config.rollout.updates
    before = [seconds for step in steps for seconds in step[:-1]]
    return mean(step[-1] for step in steps) + ((plan.accumulation - 1) * mean(before) if before else 0.0)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()
