"""The optimizer, its rate at each step, and the scale of a float16 loss."""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor, nn

from t2ialign.config.schema import Optim
from t2ialign.errors import EnvironmentProblem


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`; a pure function, so a restart cannot lose its place."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "linear":
        return optim.lr * (1 - progress)
    return optim.lr


class LossScale:
    """Dynamic scaling of a float16 loss; 1 and idle in other precisions."""

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self.value = 2.0**16 if enabled else 1.0
        self.good_steps = 0

    def overflowed(self) -> bool:
        """Halves the scale; False once it cannot be the cause any more."""
        if not self.enabled or self.value <= 1:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """Counts a finite step; doubles the scale after 2,000 of them."""
        self.good_steps += 1
        if self.enabled and self.good_steps == 2000:
            self.value, self.good_steps = self.value * 2, 0


def check_optimizer(optim: Optim) -> None:
    """Checks that the optimizer's package is installed.

    Raises:
        EnvironmentProblem: it is not.
    """
    if optim.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(
            'optim.name: adamw8bit needs bitsandbytes: pip install "t2ialign[bnb]", or set optim.name: adamw'
        )


def build_optimizer(optim: Optim, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over exactly these parameters.

    Raises:
        EnvironmentProblem: its package is not installed.
    """
    check_optimizer(optim)
    optimizer = torch.optim.AdamW
    if optim.name == "adamw8bit":
        optimizer = importlib.import_module("bitsandbytes").optim.AdamW8bit
    return optimizer(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


def pack_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: '3.exp_avg' is the fourth parameter's."""
    moments: dict[str, Tensor] = {}
    for place, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            moments[f"{place}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return moments


def restore_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Gives the optimizer the state that `pack_moments` named."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        place, entry = key.split(".", 1)
        state.setdefault(int(place), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
