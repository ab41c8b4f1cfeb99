"""The weights whose images of fixed prompts had the highest score so far, kept beside those of the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ialign.config.schema import RunConfig
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.core import Core
from t2ialign.training.engine import Engine
from t2ialign.training.export import save_weights
from t2ialign.training.run_folder import result_path

BEST = "best.json"
"""What the best weights reached, and at which step."""


def best_path(config: RunConfig) -> Path:
    """Where the best weights lie."""
    result = result_path(config)
    return result.with_name(f"{result.name}-best")


class Best:
    """Keeps the weights of a validation whose mean of `validate.best` is above that of every other one.

    Args:
        config: of the run; names the reward.
        core: what is trained.
    """

    def __init__(self, config: RunConfig, core: Core):
        self._config, self._core = config, core
        reward = next(one for one in config.validation.rewards if one.name == config.validation.best)
        self._name, self._sign = reward.name, 1 if reward.weight > 0 else -1

    def __call__(self, engine: Engine, scores: Mapping[str, float]) -> None:
        """Looks at the scores of a validation before they are recorded, so that a stop between loses nothing.

        Raises:
            TryAgainError: the disk is full.
        """
        score = scores.get(f"validation/{self._name}/policy")
        before = self._before()
        if score is None or (before is not None and self._sign * (score - before) <= 0):
            return
        folder = best_path(self._config)
        save_weights(self._config, self._core, folder, self._config.validation.weights)
        found = {"reward": self._name, "score": score, "step": engine.step, "validate": self._measured()}
        with atomic_write(self._config.run_dir / BEST) as partial:
            partial.write_text(json.dumps(found, indent=1))

    def _before(self) -> float | None:
        """The best score so far; None where there is none, or it was measured in another way."""
        path = self._config.run_dir / BEST
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found["score"] if found.get("validate") == self._measured() else None

    def _measured(self) -> dict[str, Any]:
        return self._config.validation.model_dump(mode="json", exclude={"every_steps"})
