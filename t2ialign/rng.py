"""All randomness of training, keyed by the global sample number.

A row's draws depend on (seed, key, stream) alone, so micro-batches, ranks, workers and restarts cannot change them.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keyed_seed(*parts: int | str) -> int:
    """A 63-bit seed from any identifying parts, the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that belongs to these parts."""
    return torch.Generator().manual_seed(keyed_seed(*parts))


class Draws:
    """Random numbers of the rows `keys` of a run with `seed`; drawn on the CPU, moved to the keys' device."""

    def __init__(self, seed: int, keys: Tensor):
        self.seed = seed
        self.keys = keys

    def normal(self, shape: tuple[int, ...], stream: str) -> Tensor:
        """Standard normal numbers. [N, *shape] float32"""
        rows = [torch.randn(shape, generator=generator(self.seed, key, stream)) for key in self.keys.tolist()]
        return torch.stack(rows).to(self.keys.device)

    def timesteps(self, low: int, high: int) -> Tensor:
        """Uniform integers in [low, high). [N] int64"""
        rows = [
            torch.randint(low, high, (), generator=generator(self.seed, key, "timestep")) for key in self.keys.tolist()
        ]
        return torch.stack(rows).to(self.keys.device)

    def integers(self, low: Tensor, high: Tensor, stream: str) -> Tensor:
        """Uniform integers in [low, high), bounds of their own for each row. [N] int64"""
        rows = [
            torch.randint(int(first), int(end), (), generator=generator(self.seed, key, stream))
            for key, first, end in zip(self.keys.tolist(), low.tolist(), high.tolist(), strict=True)
        ]
        return torch.stack(rows).to(self.keys.device)

    def uniform(self, stream: str) -> Tensor:
        """Uniform numbers in [0, 1). [N] float32"""
        rows = [torch.rand((), generator=generator(self.seed, key, stream)) for key in self.keys.tolist()]
        return torch.stack(rows).to(self.keys.device)
