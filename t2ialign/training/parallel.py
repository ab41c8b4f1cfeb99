"""How the processes of a run share weights and add up what they found; `sharded` is its other half."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from t2ialign.errors import PeerEndedError
from t2ialign.training import checkpoint

BUFFER_ELEMENTS = 1 << 24
"""Gradients exchanged at once: 64 MiB of float32."""


class Parallel(ABC):
    """The processes of a run, each with a part of every batch."""

    rank: int = 0
    """This process among them."""
    world_size: int = 1
    """How many there are."""
    is_sharded: bool = False
    """Whether each process holds parts of the networks, so that all of them make every pass together."""

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

    @abstractmethod
    def gather(self, text: str) -> list[str]:
        """What each process says, by rank."""

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Clips the gradients to a global norm; returns the norm before. scalar"""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    @abstractmethod
    def shard(self, networks: Sequence[nn.Module]) -> None:
        """Leaves to each process its part of the networks, where they are sharded."""

    def whole(self, networks: Sequence[nn.Module]) -> AbstractContextManager[None]:
        """Inside, each process has all of the networks and can use them alone, but not train them."""
        return nullcontext()

    def gather_network(self, network: nn.Module) -> nn.Module | None:
        """The whole network, of the class that was loaded; None on processes that do not write it."""
        return network if self.is_main else None

    def save(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        """Writes a checkpoint, if there is none at `folder`; every process waits until it is whole.

        Args:
            tensors: file stem -> tensors by name.
            state: of the main process.

        Raises:
            TryAgainError: the disk is full.
        """
        if self.is_main and checkpoint.verify(folder) is not None:
            checkpoint.save(folder, tensors, state)
        self.barrier()


class SingleProcess(Parallel):
    """One process: nothing to add."""

    def sum(self, values: Tensor) -> Tensor:
        return values

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to do."""

    def shard(self, networks: Sequence[nn.Module]) -> None:
        """Nothing to leave to others."""

    def barrier(self) -> None:
        """Nothing to wait for."""

    def gather(self, text: str) -> list[str]:
        return [text]


class DataParallel(Parallel):
    """Every process holds all weights and a part of the batch; needs an initialised process group."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        total = values.detach().clone()
        with self._together():
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
                with self._together():
                    dist.all_reduce(flat)
                first = 0
                for gradient in pending:
                    gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                    first += gradient.numel()
                pending = []

    def shard(self, networks: Sequence[nn.Module]) -> None:
        """Nothing to leave to others: each has everything."""

    def barrier(self) -> None:
        with self._together():
            dist.barrier()

    def gather(self, text: str) -> list[str]:
        found: list[str] = [""] * self.world_size
        with self._together():
            dist.all_gather_object(found, text)
        return found

    @contextmanager
    def _together(self) -> Generator[None]:
        """What fails inside for want of another process becomes one message; that process says why it ended.

        Raises:
            PeerEndedError: a process of the run has ended.
        """
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise PeerEndedError(
                f"process {self.rank} of {self.world_size} stops, as another one ended, which says why above or in its "
                f"own log ({reason}). The same command goes on from the last checkpoint."
            ) from error


def open_parallel(shard: str | None = None) -> Parallel:
    """The processes that a launcher started, or this one alone, which has nothing to shard."""
    if not dist.is_initialized():
        return SingleProcess()
    if shard is None or dist.get_world_size() == 1:
        return DataParallel()
    return importlib.import_module("t2ialign.training.sharded").FullySharded()
