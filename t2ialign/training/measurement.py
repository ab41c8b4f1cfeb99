"""What is measured along a run, and when: before the first step, every so many steps, and after the last."""

from __future__ import annotations

from abc import ABC, abstractmethod

from t2ialign.training.engine import Engine


class Measurement(ABC):
    """A hook of the main process that measures at fixed steps.

    Args:
        every: optimizer steps between measurements.
        steps: the last step.
    """

    def __init__(self, *, every: int, steps: int):
        self._every, self._steps = every, steps

    def start(self, engine: Engine) -> None:
        """Measures before the first step, and again what a stop kept from being recorded."""
        if engine.step == 0 or not self._is_recorded(engine):
            self(engine)

    def __call__(self, engine: Engine) -> None:
        if engine.is_main and (engine.step % self._every == 0 or engine.step == self._steps):
            self.measure(engine)

    @abstractmethod
    def measure(self, engine: Engine) -> object:
        """Measures the policy as it is, and records what was found."""

    @abstractmethod
    def _is_recorded(self, engine: Engine) -> bool:
        """Whether an earlier start recorded this step's measurement."""
