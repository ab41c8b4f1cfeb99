"""A run from its config to its result: preflight, core, loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rich.console import Console

from t2ialign.config.schema import Config, OnlineConfig
from t2ialign.data.account import write_accounts
from t2ialign.progress import plain_console
from t2ialign.storage.lock import lock_folder
from t2ialign.training.core import Core, build, open_processes
from t2ialign.training.engine import Engine
from t2ialign.training.export import save_result
from t2ialign.training.hooks import ProgressBar, Saturation
from t2ialign.training.loop import Hook, Loop
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.online import OnlineLoop
from t2ialign.training.parallel import Parallel
from t2ialign.training.preflight import Plan, check
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
    parallel = open_processes()
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
        every_step = [*_result_hooks(config, core), *hooks, *_measurements(config, run, console)]
        if parallel.is_main:
            every_step.append(stack.enter_context(ProgressBar(console, config.train.steps)))
        stack.enter_context(graceful_shutdown(core.engine))
        run.loop.run(core, every_step)
        if parallel.is_main and not result_path(config).is_dir():
            save_result(config, core)
    return result_path(config)


class Run(NamedTuple):
    """A run that is ready for its first step."""

    plan: Plan
    core: Core
    loop: Loop


def open_run(config: Config, parallel: Parallel, console: Console | None = None) -> Run:
    """Checks everything, loads the weights at the newest checkpoint, and prepares the loop.

    Raises:
        UserError: as `preflight.check`, `core.build` and `Loop.prepare`.
    """
    plan = check(config, parallel.world_size)
    if console is not None and parallel.is_main:
        _report_unused(plan, console)
        _report_batch_dependence(config, console)
        _report_computed_once(plan, config, console)
    core = build(
        config,
        parallel,
        accumulation=plan.accumulation,
        # validation compares with what training started from, whether or not the objective does
        keeps_reference=_reads_reference(config) or config.validation.compares,
        keeps_old=config.keeps_old,
        identity=plan.identity,
    )
    loop = _loop(config, plan)
    loop.prepare(core)
    return Run(plan, core, loop)


def _loop(config: Config, plan: Plan) -> Loop:
    """What trains."""
    return OnlineLoop(config, plan) if isinstance(config, OnlineConfig) else OfflineLoop(config, plan)


def _reads_reference(config: Config) -> bool:
    return "reference" in (*config.objective.required_weights, *config.noiser.required_weights)


def _report_unused(plan: Plan, console: Console) -> None:
    """Prints the account of each data set of which something is not used."""
    for account in plan.accounts.values():
        if not account.is_complete:
            console.print("\n".join(account.lines()), markup=False, highlight=False, soft_wrap=True)


def _report_batch_dependence(config: Config, console: Console) -> None:
    if config.batch_dependence:
        console.print(
            f"note: with {' and '.join(config.batch_dependence)}, train.micro_batch and the number of processes have a "
            "part in what is learnt"
        )


def _report_computed_once(plan: Plan, config: Config, console: Console) -> None:
    """Prints what is computed once instead of in each visit of an example, and what that takes."""
    if plan.trajectories is not None:
        cost = plan.trajectories
        console.print(
            f"each example is inverted once, in {cost.passes} UNet passes; {cost.size / 2**20:.0f} MiB in all. This "
            f"pays from {cost.pays_after:.1f} visits of an example on; the run makes {plan.visits:.3g}"
        )
    if config.noiser.draws is not None:
        console.print(f"each example is visited {plan.visits:.3g} times, with {config.noiser.draws} fixed draws")


def _measurements(config: Config, run: Run, console: Console) -> list[Hook]:
    """Measures the start, and returns what is measured after each step."""
    plan, core, loop = run
    held_out = prepare_held_out(config, core, plan)
    if plan.prompts is None and not loop.needs_encoders and not (held_out is not None and held_out.needs_encoders):
        core.policy.backbone.release_encoders()
    if not core.parallel.is_main:
        return []
    write_run_manifest(config)  # only now: a start that failed must not bind the folder to a config that cannot run
    write_accounts(config.run_dir / DATA, plan.accounts)
    if core.engine.step:
        console.print(f"continuing from step {core.engine.step} of {config.train.steps}")
    validations = build_validation(config, core, plan, held_out)
    for validation in validations:
        validation.start(core.engine)
    return [*map(_announced(console, config), validations), *_warnings(config, console)]


def _result_hooks(config: Config, core: Core) -> list[Hook]:
    """The result is written before anything else looks at the last step: what follows may fail."""

    def save(engine: Engine) -> None:
        if engine.is_main and engine.step == config.train.steps:
            save_result(config, core)

    return [save]


def _announced(console: Console, config: Config) -> Callable[[Hook], Hook]:
    """Says, where a measurement fails, what is saved."""

    def wrap(hook: Hook) -> Hook:
        def measure(engine: Engine) -> None:
            try:
                hook(engine)
            except Exception:
                saved = result_path(config) if engine.step == config.train.steps else engine.checkpoints
                console.print(f"validation after step {engine.step} failed; what was learnt is in {saved}")
                raise

        return measure

    return wrap


def _warnings(config: Config, console: Console) -> list[Hook]:
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
