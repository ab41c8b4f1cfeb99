"""The config's list of trackers: who shows a run's numbers and images while it trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from t2ialign.config.component import Section

_SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
"""Options that may hold what is written nowhere."""


class TrackerConfig(Section):
    """A tracker by accelerate's name; further keys are arguments of it."""

    model_config = ConfigDict(extra="allow")

    name: str
    """tensorboard, wandb, trackio, swanlab, mlflow, comet_ml, aim, clearml, dvclive, or package.module:Class."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the tracker."""
        return dict(self.model_extra or {})


def named_trackers(trackers: Sequence[str | TrackerConfig]) -> list[TrackerConfig]:
    """The section that each tracker, or its name alone, stands for.

    Raises:
        ValueError: a name is there twice, or an option may hold a key.
    """
    sections = [TrackerConfig(name=one) if isinstance(one, str) else one for one in trackers]
    names = [tracker.name for tracker in sections]
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: name each tracker once")
    for tracker in sections:
        for option in tracker.options:
            if _SECRET.search(option):
                raise ValueError(
                    f"{option} of {tracker.name} may hold a key, which would be written to the run folder; log in, or "
                    "use the environment, as the tracker's documentation says"
                )
    return sections
