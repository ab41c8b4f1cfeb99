"""Stored trajectories: the latents of each row at a few noise levels, inverted once."""

from __future__ import annotations

from dataclasses import replace

import torch

from t2ialign.data.encoding.shards import Shards
from t2ialign.rng import Draws
from t2ialign.types import Batch

NAME = "x_t"
"""Of the tensor in a shard. [rows, levels, V, C, h, w]"""


class Trajectories:
    """Reads stored trajectories.

    Args:
        shards: a row each.
        levels: how many a row has.
    """

    def __init__(self, shards: Shards, levels: int):
        self.shards = shards
        self.levels = levels

    def add_to(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with one level of each row's trajectory, drawn by its key."""
        low = torch.zeros_like(batch.keys)
        levels = draws.integers(low, low + self.levels, "timestep")
        x_t = self.shards.pick(NAME, batch.rows.tolist(), levels.tolist())
        return replace(batch, inverted=x_t[:, : batch.views], levels=levels)
