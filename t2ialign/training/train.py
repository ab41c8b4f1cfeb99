"""A run from its config to its result: preflight, core, loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console

from t2ialign.config.schema import Config, OnlineConfig
from t2ialign.data.account import write_accounts
from t2ialign.progress import plain_console
from t2ialign.runtime import device_of_process
from t2ialign.storage.lock import lock_folder
from t2ialign.training.agreement import check_together
from t2ialign.training.boards import open_boards
from t2ialign.training.core import Core, build, open_processes
from t2ialign.training.engine import Engine
from t2ialign.training.export import save_result
from t2ialign.training.hooks import Pace, ProgressBar, Saturation, StepLines
from t2ialign.training.loop import Hook, Loop
from t2ialign.training.measurement import Measurement
from t2ialign.training.metrics import Metrics
from t2ialign.training.monitors import Monitors
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.online import OnlineLoop
from t2ialign.training.overview import overview
from t2ialign.training.parallel import Parallel
from t2ialign.training.preflight import Plan
from t2ialign.training.run_folder import DATA, IN_USE, check_same_config, is_finished, result_path, write_run_manifest
from t2ialign.training.validation import build_validation, prepare_held_out

SATURATION_STEPS = 20
"""Optimizer steps after which saturation is reported, or all of a shorter run."""


def train(config: Config, *, console: Console | None = None, hooks: Sequence[Hook] = ()) -> Path:
    """Trains, or continues training, and returns the folder of the result.

    Raises:
        InputError: the parts do not fit each other, or the run folder is another config's.
        EnvironmentProblem: an optional package is missing.
        DataError: the data cannot be used, or the loss is not finite.
        TryAgainError: the disk is full; the same command continues.
        Interrupted: the user stopped the run; the same command continues.
    """
    console = console or plain_console(stderr=True)
    parallel = open_processes(config.train.shard)
    with ExitStack() as stack:
        if parallel.is_main:
            stack.enter_context(lock_folder(config.run_dir, busy=IN_USE))
            check_same_config(config)
        if is_finished(config):
            console.print(f"{config.run_dir} is finished: {config.train.steps} steps, {result_path(config)}")
            return result_path(config)
        run = open_run(config, parallel, console)
        core = run.core
        if core.engine.tracker is not None:
            stack.callback(core.engine.tracker.close)
            core.engine.tracker.boards = open_boards(config, core.engine.step)
        pace = Pace(step=core.engine.step, steps=config.train.steps, every=config.validation.every)
        every_step = [*_result_hooks(config, core), *hooks, *_measurements(config, run, console, pace)]
        pace.begin()
        if parallel.is_main:
            every_step.append(_progress(console, pace, stack))
        stack.enter_context(graceful_shutdown(core.engine))
        run.loop.run(core, every_step)
        lacks_result = torch.tensor(float(parallel.is_main and not result_path(config).is_dir()))
        if parallel.sum(lacks_result.to(core.policy.device)) > 0 and core.writes_result:
            save_result(config, core)
    return result_path(config)


def _progress(console: Console, pace: Pace, stack: ExitStack) -> Hook:
    """A bar in a terminal, lines in a log."""
    if console.is_terminal:
        return stack.enter_context(ProgressBar(console, pace))
    return StepLines(console.print, pace)


class Run(NamedTuple):
    """A run that is ready for its first step."""

    plan: Plan
    core: Core
    loop: Loop


def open_run(config: Config, parallel: Parallel, console: Console | None = None) -> Run:
    """Checks everything, loads the weights at the newest checkpoint, and prepares the loop.

    Raises:
        UserError: as `agreement.check_together`, `core.build` and `Loop.prepare`.
    """
    plan = check_together(config, parallel)
    if console is not None and parallel.is_main:
        lines = overview(config, plan, device=device_of_process(), world_size=parallel.world_size)
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    core = build_core(config, plan, parallel)
    loop = build_loop(config, plan)
    loop.prepare(core)
    return Run(plan, core, loop)


def build_core(config: Config, plan: Plan, parallel: Parallel) -> Core:
    """Policy and engine as the config and what preflight found ask for, at the newest checkpoint."""
    return build(
        config,
        parallel,
        accumulation=plan.accumulation,
        keeps_reference=config.keeps_reference,
        keeps_old=config.keeps_old,
        identity=plan.identity,
    )


def build_loop(config: Config, plan: Plan) -> Loop:
    """What trains."""
    return OnlineLoop(config, plan) if isinstance(config, OnlineConfig) else OfflineLoop(config, plan)


def _measurements(config: Config, run: Run, console: Console, pace: Pace) -> list[Hook]:
    """Measures the start, and returns what is measured after each step."""
    plan, core, loop = run
    held_out = prepare_held_out(config, core, plan)
    if plan.prompts is None and not loop.needs_encoders and not (held_out is not None and held_out.needs_encoders):
        core.policy.backbone.release_encoders()
    if not core.parallel.is_main:
        return _measured_whole(config, core, [], console, pace)
    write_run_manifest(config)  # only now: a start that failed must not bind the folder to a config that cannot run
    write_accounts(config.run_dir / DATA, plan.accounts)
    if core.engine.step:
        console.print(f"continuing from step {core.engine.step} of {config.train.steps}")
    validations = build_validation(config, core, plan, held_out)
    return [*_measured_whole(config, core, validations, console, pace), *_warnings(config, console)]


def _measured_whole(
    config: Config, core: Core, validations: Sequence[Measurement], console: Console, pace: Pace
) -> list[Hook]:
    """Measures the start, and returns what measures later: by the main process alone, on whole networks.

    Every process calls it, as those that measure nothing may have parts of what is measured.
    """
    validate = config.validation
    if not validate.compares:
        return []
    asked = {"reference", *(["policy"] if validate.pairs is not None else []), validate.weights}
    networks = [core.policy.network(weights) for weights in sorted(asked)]
    with pace.validating(), core.engine.learnt_weights(), core.parallel.whole(networks):
        for validation in validations:
            _say_measured(console, core.engine, validation.start(core.engine))
    hooks = [*map(_announced(console, config), validations)]

    def measure(engine: Engine) -> None:
        if engine.step % validate.every_steps == 0 or engine.step == config.train.steps:
            with pace.validating(), engine.learnt_weights(), core.parallel.whole(networks):
                for hook in hooks:
                    hook(engine)

    return [measure]


def _say_measured(console: Console, engine: Engine, found: Metrics) -> None:
    """Prints what a validation found, its numbers by group."""
    groups: dict[str, list[str]] = {}
    for name, value in found.items():
        group, _, what = name.removeprefix("validation/").rpartition("/")
        groups.setdefault(group, []).append(f"{what.replace('_', ' ')} {value:.4g}")
    if groups:
        told = "; ".join(f"{group}: {', '.join(numbers)}" for group, numbers in groups.items())
        console.print(f"validation after step {engine.step}: {told}", soft_wrap=True)


def _result_hooks(config: Config, core: Core) -> list[Hook]:
    """The result is written before anything else looks at the last step: what follows may fail."""

    def save(engine: Engine) -> None:
        if core.writes_result and engine.step == config.train.steps:
            save_result(config, core)

    return [save]


def _announced(console: Console, config: Config) -> Callable[[Measurement], Hook]:
    """Says what was measured, and where a measurement fails, what is saved."""

    def wrap(measurement: Measurement) -> Hook:
        def measure(engine: Engine) -> None:
            try:
                _say_measured(console, engine, measurement(engine))
            except Exception:
                saved = result_path(config) if engine.step == config.train.steps else engine.checkpoints
                console.print(f"validation after step {engine.step} failed; what was learnt is in {saved}")
                raise

        return measure

    return wrap


def _warnings(config: Config, console: Console) -> list[Hook]:
    if isinstance(config, OnlineConfig):
        return [Monitors(config, console.print)]
    multiplier = config.objective.margin_multiplier()
    if multiplier is None:
        return []
    steps = min(SATURATION_STEPS, config.train.steps)
    return [Saturation(multiplier, console.print, steps=steps, margin_key=config.objective.margin_key)]


@contextmanager
def graceful_shutdown(engine: Engine) -> Generator[None, None, None]:
    """Ctrl-C or a scheduler's SIGTERM ends training after the step in progress, with state saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        if engine.stop_requested:  # the second time the user means now
            raise KeyboardInterrupt
        engine.stop_requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
