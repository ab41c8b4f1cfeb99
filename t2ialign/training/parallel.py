"""How the processes of a run add up what they found; the only module of the trainer that knows torch.distributed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUFFER_ELEMENTS = 1 << 24
"""Gradients exchanged at once: 64 MiB of float32."""


class Parallel(ABC):
    """The processes of a run, each with a part of every batch."""

    rank: int = 0
    """This process among them."""
    world_size: int = 1
    """How many there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0

    @abstractmethod
    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without gradient. Same shape"""

    @abstractmethod
    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes each parameter's gradient the sum over all processes."""

    @abstractmethod
    def barrier(self) -> None:
        """Waits until every process is here."""

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Clips the gradients to a global norm; returns the norm before. scalar"""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def gather_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of what may lie in parts on several processes."""
        return tensors


class SingleProcess(Parallel):
    """One process: nothing to add."""

    def sum(self, values: Tensor) -> Tensor:
        return values

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to do."""

    def barrier(self) -> None:
        """Nothing to wait for."""


class DataParallel(Parallel):
    """Every process holds all weights and a part of the batch; needs an initialised process group."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        pending: list[Tensor] = []
        for place, parameter in enumerate(parameters):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(parameter.grad)
            if sum(g.numel() for g in pending) >= BUFFER_ELEMENTS or place == len(parameters) - 1:
                flat = torch.cat([g.flatten() for g in pending])
                dist.all_reduce(flat)
                first = 0
                for gradient in pending:
                    gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                    first += gradient.numel()
                pending = []

    def barrier(self) -> None:
        dist.barrier()


def open_parallel() -> Parallel:
    """The processes that a launcher started, or this one alone."""
    return DataParallel() if dist.is_initialized() else SingleProcess()
