"""Schedule-free SGD (arXiv:2405.15682) as optimizers of this kind are written: the state of a group is numbers, and
the parameters are y while training and the average x, which is learnt, otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class ScheduleFreeSGD(torch.optim.Optimizer):
    """y = 0.1 z + 0.9 x; gradients are taken at y, z takes the steps, and x is the mean of all z."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, beta: float = 0.9):
        super().__init__(parameters, {"lr": lr, "beta": beta, "steps": 0, "training": False})

    def train(self) -> None:
        self._move(is_training=True)

    def eval(self) -> None:
        self._move(is_training=False)

    @torch.no_grad()
    def _move(self, *, is_training: bool) -> None:
        for group in self.param_groups:
            if group["training"] != is_training:
                group["training"] = is_training
                for parameter in (p for p in group["params"] if p in self.state):
                    weight = 1 - group["beta"] if is_training else 1 - 1 / group["beta"]
                    parameter.lerp_(self.state[parameter]["z"], weight)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            assert group["training"]
            group["steps"] += 1
            for parameter in group["params"]:
                z = self.state[parameter].setdefault("z", parameter.clone())
                x = parameter.lerp(z, 1 - 1 / group["beta"])
                z.sub_(parameter.grad, alpha=group["lr"])
                x.lerp_(z, 1 / group["steps"])
                parameter.copy_(x.lerp(z, 1 - group["beta"]))
