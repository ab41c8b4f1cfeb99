"""What a kind of training is, and the cycle that all of them share: a step, what is saved, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from t2ialign.errors import Interrupted
from t2ialign.training.core import Core
from t2ialign.training.engine import Engine
from t2ialign.types import LossOutput

Hook = Callable[[Engine], None]
"""Called after each optimizer step."""


class Loop(Protocol):
    """A kind of training."""

    @property
    def needs_encoders(self) -> bool:
        """Whether VAE or text encoders run in its steps; known after `prepare`."""
        ...

    def prepare(self, core: Core) -> None:
        """Everything that is done once before the first step, such as encoding the data."""
        ...

    def losses(self, core: Core) -> Iterator[Callable[[], LossOutput]]:
        """What gives the loss of each micro-batch, in order, from the engine's position on."""
        ...

    def run(self, core: Core, hooks: Sequence[Hook]) -> None:
        """Trains until all steps are done.

        Raises:
            Interrupted: the engine was asked to stop; the state is saved.
        """
        ...


def train_steps(
    engine: Engine,
    losses: Iterable[Callable[[], LossOutput]],
    *,
    save_every: int,
    hooks: Sequence[Hook] = (),
    whole: int = 1,
) -> None:
    """Takes losses until all of the engine's steps are done; saves before anything that may fail.

    Args:
        engine: what is trained, and how far it is.
        losses: one micro-batch each, in order, from the engine's position on.
        save_every: optimizer steps between checkpoints; there is also one after the last step.
        hooks: called after each optimizer step.
        whole: optimizer steps that belong together; nothing is saved, and nothing stops, between them.

    Raises:
        Interrupted: the engine was asked to stop; the state is saved.
    """
    if engine.step >= engine.steps:
        return
    for loss in losses:
        if engine.update(loss) is None:
            continue
        finished = engine.step >= engine.steps
        is_whole = finished or engine.step % whole == 0
        stops = engine.should_stop and is_whole
        if finished or stops or (is_whole and engine.step % save_every < whole):
            engine.save()
        _run_hooks(engine, hooks, may_save=is_whole)
        if finished:
            return
        if stops:
            raise Interrupted(f"stopped after step {engine.step}; saved. The same command goes on from there.")


def _run_hooks(engine: Engine, hooks: Sequence[Hook], *, may_save: bool) -> None:
    try:
        for hook in hooks:
            hook(engine)
    except Exception:
        if may_save:
            engine.save_alone()
        raise
