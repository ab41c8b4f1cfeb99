"""Classifier-free guidance, and which weights answer in each of its branches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2ialign.types import Conditioning, Denoiser, Weights


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598)."""

    scale: float
    """Weight w of uncond + w * (cond - uncond); 1 makes no unconditional pass, 0 no other."""
    cond: Weights = "policy"
    """Weights that see the prompt."""
    uncond: Weights = "policy"
    """Weights that see the empty prompt; a negative model goes here."""
    null: Conditioning | None = None
    """What the unconditional branch sees, as a negative prompt; default: the denoiser's own. [1, ...]"""

    def denoise(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None,
    ) -> Tensor:
        """The guided prediction; one pass if both branches have the same weights. [B, C, H, W]

        Args:
            x_t: [B, C, H, W]
            timesteps: [B]
            cond: [B, ...]
            geometry: [B, 6] or None; the unconditional branch has the row's too.
        """
        if self.scale == 1:
            return denoiser.denoise(x_t, timesteps, cond, geometry, self.cond)
        own = denoiser.null() if self.null is None else self.null
        null = own.map(lambda tensor: tensor.expand(len(x_t), *tensor.shape[1:]))
        if self.scale == 0:
            return denoiser.denoise(x_t, timesteps, null, geometry, self.uncond)
        if self.cond == self.uncond:
            both = denoiser.denoise(
                torch.cat([x_t, x_t]),
                torch.cat([timesteps, timesteps]),
                Conditioning.cat([null, cond]),
                None if geometry is None else torch.cat([geometry, geometry]),
                self.cond,
            )
            without, given = both.chunk(2)
        else:
            without = denoiser.denoise(x_t, timesteps, null, geometry, self.uncond)
            given = denoiser.denoise(x_t, timesteps, cond, geometry, self.cond)
        return without + self.scale * (given - without)
