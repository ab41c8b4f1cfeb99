"""The optimizer, its rate at each step, and the scale of a float16 loss."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from t2ialign.config.component import import_reference
from t2ialign.config.schema import OF_ADAMW, OPTIMIZERS, Optim
from t2ialign.errors import EnvironmentProblem, InputError


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
    """Checks that the optimizer is installed and has the options that are given.

    Raises:
        EnvironmentProblem: its package is not installed.
        InputError: there is no such class, or it has no such option.
    """
    if optim.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(
            'optim.name: adamw8bit needs bitsandbytes: pip install "t2ialign[bnb]", or set optim.name: adamw'
        )
    for key in ({"lr", *OF_ADAMW} if optim.name in OPTIMIZERS else {"lr"}) & optim.options.keys():
        raise InputError(f"optim.options.{key}: write optim.{key}")
    found, options = _class(optim), _options(optim)
    try:
        inspect.signature(found).bind([], **options)
    except TypeError as error:
        raise InputError(f"optim.options: {optim.name}: {error}") from None


def _class(optim: Optim) -> Callable[..., Optimizer]:
    if optim.name == "adamw":
        return torch.optim.AdamW
    if optim.name == "adamw8bit":
        return importlib.import_module("bitsandbytes").optim.AdamW8bit
    try:
        found = import_reference(optim.name)
    except InputError as error:
        raise InputError(f"optim.name: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise InputError(f"optim.name: '{optim.name}' is not a torch.optim.Optimizer")
    return found


def _options(optim: Optim) -> dict[str, Any]:
    of_adamw = {key: getattr(optim, key) for key in OF_ADAMW} if optim.name in OPTIMIZERS else {}
    return {"lr": optim.lr, **of_adamw, **optim.options}


def build_optimizer(optim: Optim, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer over exactly these parameters; AdamW in one kernel where they are on a GPU.

    Raises:
        EnvironmentProblem: its package is not installed.
        InputError: there is no such class, or it refuses parameters or options.
    """
    check_optimizer(optim)
    options = _options(optim)
    if optim.name == "adamw" and all(parameter.is_cuda for parameter in parameters):
        options = {"fused": True, **options}
    try:
        return _class(optim)(parameters, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optim: {optim.name} cannot be made: {error}") from None


@runtime_checkable
class HasModes(Protocol):
    """An optimizer whose learnt weights are not those it takes gradients at (schedule-free, arXiv:2405.15682)."""

    def train(self) -> None:
        """Gives the parameters the values at which gradients are taken."""
        ...

    def eval(self) -> None:
        """Gives the parameters the values that are learnt."""
        ...


@contextmanager
def learnt_weights(optimizer: Optimizer) -> Generator[None]:
    """Inside, the parameters are what the optimizer has learnt; after it they are bit by bit what they were."""
    if not isinstance(optimizer, HasModes):
        yield
        return
    parameters: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


class OptimizerState(NamedTuple):
    """What an optimizer remembers."""

    moments: dict[str, Tensor]
    """Its tensors: '3.exp_avg' is the fourth parameter's."""
    numbers: dict[str, Any]
    """Its other values: '3.count' of the fourth parameter, 'group.0.d' of the first group, where it is not as made."""


def pack_state(optimizer: Optimizer) -> OptimizerState:
    """The optimizer's state by names.

    Raises:
        InputError: it holds what a checkpoint cannot.
    """
    moments: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for place, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                moments[f"{place}.{key}"] = value
            else:
                numbers[f"{place}.{key}"] = value
    for place, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            found = value.item() if isinstance(value, Tensor) else value
            if key not in ("params", "lr") and found != optimizer.defaults.get(key):
                numbers[f"group.{place}.{key}"] = found
    try:
        json.dumps(numbers)
    except (TypeError, ValueError) as error:
        name = type(optimizer).__name__
        raise InputError(f"optim.name: {name} cannot be saved: {error}; use another optimizer") from None
    return OptimizerState(moments, numbers)


def restore_state(optimizer: Optimizer, saved: OptimizerState) -> None:
    """Gives the optimizer the state that `pack_state` named."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*saved.moments.items(), *saved.numbers.items()):
        if not key.startswith("group."):
            place, entry = key.split(".", 1)
            state.setdefault(int(place), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for place, group in enumerate(optimizer.param_groups):
        for key, now in group.items():
            value = saved.numbers.get(f"group.{place}.{key}")
            if value is not None:
                group[key] = torch.full_like(now, value) if isinstance(now, Tensor) else value
