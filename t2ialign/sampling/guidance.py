"""Classifier-free guidance, and who answers in each of its branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2ialign.types import Conditioning

if TYPE_CHECKING:
    from t2ialign.policy import Policy


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598), and who answers in each of its branches."""

    scale: float
    """Weight w of uncond + w * (cond - uncond); 1 makes no unconditional pass."""
    cond: str | Mapping[str, float] = "policy"
    """Weights that see the prompt, as `Policy.denoise` takes them."""
    uncond: str | Mapping[str, float] = "policy"
    """Weights that see the null conditioning; a negative model goes here."""

    def denoise(
        self,
        policy: Policy,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        null: Conditioning,
        geometry: Tensor | None,
    ) -> Tensor:
        """The guided prediction for [B, C, H, W] at [B]; one pass where both branches have the same weights.

        Args:
            cond: [B, ...]
            null: [1, ...]
            geometry: [B, 6] or None; the unconditional branch takes the row's too.
        """
        if self.scale == 1:
            return policy.denoise(x_t, timesteps, cond, geometry, self.cond)
        nulls = null.map(lambda tensor: tensor.expand(len(x_t), *tensor.shape[1:]))
        if self.cond == self.uncond:
            both = policy.denoise(
                torch.cat([x_t, x_t]),
                torch.cat([timesteps, timesteps]),
                Conditioning.cat([nulls, cond]),
                None if geometry is None else torch.cat([geometry, geometry]),
                self.cond,
            )
            without, given = both.chunk(2)
        else:
            without = policy.denoise(x_t, timesteps, nulls, geometry, self.uncond)
            given = policy.denoise(x_t, timesteps, cond, geometry, self.cond)
        return without + self.scale * (given - without)
