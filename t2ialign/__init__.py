"""Align text-to-image diffusion models with preferences, and measure that it worked.

The names below are the public API; everything else may move between minor versions. Each is imported when it is first
used, so `import t2ialign` is quick and imports no torch.

Run and use models: `load_config`, `plan` with its result `Planned`, `train`, `open_model`, `generate_images` with its
`GenerationConfig`, `load_reward`.

Extend: subclass `Objective`, `Noiser`; work with `Batch`, `Prediction`, `LossOutput`, `Reward`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2ialign.config.generation import GenerationConfig
    from t2ialign.config.reader import load as load_config
    from t2ialign.generation.images import generate_images
    from t2ialign.models import open_model
    from t2ialign.noisers.base import Noiser
    from t2ialign.objectives.base import Objective
    from t2ialign.rewards.base import Reward
    from t2ialign.rewards.registry import load_reward
    from t2ialign.training.plan import Planned, plan
    from t2ialign.training.train import train
    from t2ialign.types import Batch, LossOutput, Prediction

__all__ = [
    "Batch",
    "GenerationConfig",
    "LossOutput",
    "Noiser",
    "Objective",
    "Planned",
    "Prediction",
    "Reward",
    "__version__",
    "generate_images",
    "load_config",
    "load_reward",
    "open_model",
    "plan",
    "train",
]

__version__: str
"""Version of the installed package."""

_PLACES = {
    "Batch": "types",
    "GenerationConfig": "config.generation",
    "LossOutput": "types",
    "Noiser": "noisers.base",
    "Objective": "objectives.base",
    "Planned": "training.plan",
    "Prediction": "types",
    "Reward": "rewards.base",
    "generate_images": "generation.images",
    "load_config": "config.reader:load",
    "load_reward": "rewards.registry",
    "open_model": "models:open_model",
    "plan": "training.plan",
    "train": "training.train",
}
"""Public name -> `module`, or `module:name` where it has another name there."""


def __getattr__(name: str) -> Any:
    """The public name, imported on first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("t2ialign")
    elif name in _PLACES:
        module, _, attribute = _PLACES[name].partition(":")
        value = getattr(import_module(f"{__name__}.{module}"), attribute or name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
