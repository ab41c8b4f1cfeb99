"""What a reward with weights says before they are loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class NeedsWeights(ABC):
    """A reward class that can tell cheaply that its weights or an optional package are missing."""

    @classmethod
    @abstractmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Checks that the weights are there; loads none.

        Args:
            options: the arguments of the constructor, defaults among them.

        Raises:
            InputError: a path with nothing behind it, or a file that cannot be used.
            EnvironmentProblem: weights that cannot be fetched, or a package that is not installed.
        """
