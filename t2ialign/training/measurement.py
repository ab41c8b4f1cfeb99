"""What is measured along a run, and when: before the first step, every so many steps, and after the last."""

from __future__ import annotations

from abc import ABC, abstractmethod

from t2ialign.training.engine import Engine
from t2ialign.training.metrics import Metrics


class Measurement(ABC):
    """A hook of the main process that measures at fixed steps.

    Args:
        every: optimizer steps between measurements.
        steps: the last step.
    """

    def __init__(self, *, every: int, steps: int):
        self._every, self._steps = every, steps

    def start(self, engine: Engine) -> Metrics:
        """Measures before the first step, and again what a stop kept from being recorded."""
        return self(engine) if engine.step == 0 or not self._is_recorded(engine) else {}

    def __call__(self, engine: Engine) -> Metrics:
        """What was measured; nothing at other steps than its own."""
        is_due = engine.is_main and (engine.step % self._every == 0 or engine.step == self._steps)
        return self.measure(engine) if is_due else {}

    @abstractmethod
    def measure(self, engine: Engine) -> Metrics:
        """Measures the policy as it is, records what was found, and returns it."""

    @abstractmethod
    def _is_recorded(self, engine: Engine) -> bool:
        """Whether an earlier start recorded this step's measurement."""
